"""Pre-training of the tiny base model L0-tiny on the curriculum's documents (DESIGN §7).

R = rows, T = tokens of a row, N = tokens with a loss, V = vocabulary. Batches depend on (seed, step) alone, so a run
resumes anywhere.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from mma_jax.learning import curriculum
from mma_jax.learning.contrastive import matrices
from mma_jax.learning.curriculum import SKILLS, Document, Stage
from mma_jax.learning.state import TrainState, apply
from mma_jax.models.llama import Llama
from mma_jax.models.tokenizer import SentencePieceTokenizer

KINDS = ("other", curriculum.WORD, curriculum.PARTIAL, curriculum.TOTAL, "map")
"""What is asked: an assistant's token without a number, a thought, a number that an assistant writes."""

WEIGHTS = (0.1, 0.5, 0.5, 1.0, 1.0)
"""Of the KINDS in the loss: handles and JSON are soon known, words are many."""

LENGTHS = (96, 192, 416)
"""Tokens of a row: documents of like length are computed side by side, for attention costs the square of a row."""


class Phase(NamedTuple):
    """A part of the curriculum."""

    start: float  # share of the steps at which it begins
    rows: tuple[int, ...]  # documents of each length in a step
    skills: dict[str, float]  # how often each is drawn


PHASES = (
    Phase(0.0, (32, 0, 0), {"match": 1.0}),
    Phase(0.13, (20, 10, 0), {"match": 0.4, "reading": 0.6}),
    Phase(0.3, (10, 12, 4), {"match": 0.1, "reading": 0.6, "lookup": 0.15, "taken": 0.1, "schema": 0.05}),
    Phase(0.5, (6, 8, 8), {"match": 0.1, "reading": 0.2, "scoring": 0.4, "lookup": 0.1, "taken": 0.1, "schema": 0.1}),
)


class Batch(NamedTuple):
    """Documents, one a row."""

    tokens: np.ndarray  # int32 [R, T]
    where: np.ndarray  # int32 [N], flat index of the token at which something is asked
    target: np.ndarray  # int32 [N], the token that answers
    kind: np.ndarray  # int32 [N], of KINDS; -1 for padding


class Asked(NamedTuple):
    """A document as the loss sees it."""

    ids: np.ndarray  # int32 [L]
    where: np.ndarray  # int32 [n], indices of tokens at which something is asked
    target: np.ndarray  # int32 [n]
    kind: np.ndarray  # int32 [n]


class Encoder:
    """Documents -> ids, and what is asked where."""

    def __init__(self, tokenizer: SentencePieceTokenizer):
        self.tokenizer = tokenizer
        pieces = tokenizer.pieces()
        self._number = np.array([re.fullmatch(r'":\d+[,}]"?', piece) is not None for piece in pieces])
        self._wrap = {role: tokenizer.encode_control(f"<|{role}|>") for role in ("system", "user", "assistant", "tool")}
        self._begin = tokenizer.encode_control(curriculum.CONTROL[0])
        self._end = tokenizer.encode_control(curriculum.CONTROL[-1])
        self._answer = functools.cache(lambda text: tokenizer.encode(text)[0])

    def __call__(self, document: Document) -> Asked:
        ids, asked = list(self._begin), []
        for said in document:
            ids += self._wrap[said.role]
            body = self.tokenizer.encode(said.text)
            if said.role == "assistant":
                written = [*body, *self._end]
                asked += [
                    (len(ids) + n - 1, token, KINDS.index("map" if self._number[token] else "other"))
                    for n, token in enumerate(written)
                ]
            elif said.thoughts:
                ends = np.array(self.tokenizer.spans(said.text))
                holders = np.searchsorted(ends, [thought.at for thought in said.thoughts], side="right")
                asked += [
                    (len(ids) + int(n), self._answer(thought.text), KINDS.index(thought.kind))
                    for n, thought in zip(holders, said.thoughts, strict=True)
                ]
            ids += [*body, *self._end]
        where, target, kind = np.array(asked, np.int32).reshape(-1, 3).T
        return Asked(np.array(ids, np.int32), where, target, kind)


def phase_at(progress: float) -> tuple[Phase, Stage]:
    """What is practised, and how hard it is, after `progress` (0..1) of the steps."""
    phase = next(phase for phase in reversed(PHASES) if progress >= phase.start)

    def ramp(start: float, end: float) -> float:
        return float(np.clip((progress - start) / (end - start), 0, 1))

    return phase, Stage(
        numbers=ramp(0.45, 0.65),
        synonyms=0.5 * ramp(0.2, 0.3),
        words=ramp(0.13, 0.3),
        size=0.3 + 0.7 * ramp(0.25, 0.45),
    )


def make_batches(encoder: Encoder, seed: int, step: int, progress: float) -> list[Batch]:
    """One batch for every length that the phase asks for. Documents are drawn until all rows are full."""
    rng = np.random.default_rng([seed, step])
    phase, stage = phase_at(progress)
    names, shares = list(phase.skills), np.array(list(phase.skills.values()))
    drawn: list[list[Asked]] = [[] for _ in LENGTHS]
    while any(len(rows) < wanted for rows, wanted in zip(drawn, phase.rows, strict=True)):
        document = encoder(SKILLS[names[rng.choice(len(names), p=shares / shares.sum())]](rng, stage))
        size = len(document.ids)
        fitting = [b for b, length in enumerate(LENGTHS) if size <= length and len(drawn[b]) < phase.rows[b]]
        if fitting:
            drawn[fitting[0]].append(document)
    return [pad(rows, length) for rows, length in zip(drawn, LENGTHS, strict=True) if rows]


def pad(documents: list[Asked], length: int) -> Batch:
    """Documents of at most `length` tokens, one a row. There is room to ask at three of four tokens."""
    tokens, asked = np.zeros((len(documents), length), np.int32), []
    for row, document in enumerate(documents):
        tokens[row, : len(document.ids)] = document.ids
        asked.append((document.where + row * length, document.target, document.kind))
    where, target, kind = (np.concatenate(column) for column in zip(*asked, strict=True))
    room = tokens.size * 3 // 4
    padding = (0, room - len(where[:room]))
    return Batch(
        tokens,
        np.pad(where[:room], padding).astype(np.int32),
        np.pad(target[:room], padding).astype(np.int32),
        np.pad(kind[:room], padding, constant_values=-1).astype(np.int32),
    )


def tie_forms(model: Llama, pieces: list[str], rng: np.random.Generator) -> None:
    """Start the embeddings of a word's two forms, "red" and "\u2581red", almost equal, of synonyms and of a number's
    forms close.

    `pieces` [V]: each token's text. At a random start the model would have to find out, word by word, what its
    tokenizer hides and what word vectors of any larger corpus know. A number's forms ('":3,"', "\u25813", "3") do
    different work, so they stay further apart.
    """
    width = model.config.width
    topic = {word: words for words in curriculum.TOPICS for word in words}
    drawn: dict[str | tuple[str, ...], np.ndarray] = {}

    def near(key: str | tuple[str, ...], own: float, center: np.ndarray | None = None) -> np.ndarray:
        if key not in drawn:
            vector = rng.normal(size=width)
            drawn[key] = vector if center is None else (1 - own**2) ** 0.5 * center + own * vector
        return drawn[key]

    table = np.zeros((len(pieces), width), np.float32)
    for row, piece in enumerate(pieces):
        key = re.sub(r'^[\u2581":.]+|[,"}]+$', "", piece) or piece
        meaning = near(key, 0.435, near(topic[key], 0.0)) if key in topic else near(key, 0.0)
        own = 0.435 if key.isdigit() else 0.1
        table[row] = (1 - own**2) ** 0.5 * meaning + own * rng.normal(size=width)
    model.embed_tokens.embedding[...] = jnp.asarray(table / width**0.5, model.embed_tokens.embedding[...].dtype)


def optimizer(config) -> optax.GradientTransformationExtraArgs:
    """Muon (Jordan et al. 2024) for the matrices of the blocks, Adam for embedding and norms; warm-up, flat, decay."""

    def schedule(peak: float) -> optax.Schedule:
        warm, cool = max(1, config.steps // 50), max(1, config.steps * 3 // 10)
        return optax.join_schedules(
            [
                optax.linear_schedule(0.0, peak, warm),
                optax.constant_schedule(peak),
                optax.linear_schedule(peak, 0.05 * peak, cool),
            ],
            [warm, config.steps - cool],
        )

    muon = optax.contrib.muon(
        schedule(config.muon_rate),
        weight_decay=config.weight_decay,
        adam_learning_rate=schedule(config.adam_rate),
        adam_b2=0.98,
        adam_weight_decay=0.0,
        muon_weight_dimension_numbers=matrices,
    )
    return optax.with_extra_args_support(optax.chain(optax.clip_by_global_norm(1.0), muon))


def make_step(graph: nnx.GraphDef, tx: optax.GradientTransformationExtraArgs) -> Callable:
    """step(state: TrainState, batches) -> (state, {"loss": nats per token asked for, ...}), jitted; consumes state."""

    def loss_fn(parameters, batches: list[Batch]):
        model = nnx.merge(graph, parameters)
        weights = [jnp.where(batch.kind >= 0, jnp.array(WEIGHTS)[batch.kind], 0.0) for batch in batches]
        lost = sum((cross_entropy(model, b) * w).sum() for b, w in zip(batches, weights, strict=True))
        return lost / sum(w.sum() for w in weights)

    def step(state: TrainState, batches: list[Batch]):
        loss, gradient = jax.value_and_grad(loss_fn)(state.params, batches)
        state, norms = apply(tx, state, loss, gradient)
        return state, {"loss": loss, **norms}

    return jax.jit(step, donate_argnums=0)


def asked_logits(model: Llama, batch: Batch) -> jax.Array:
    """Logits where a token is predicted, [N, V]."""
    hidden = model(batch.tokens)
    return model.logits(hidden.reshape(-1, hidden.shape[-1])[batch.where])


def cross_entropy(model: Llama, batch: Batch) -> jax.Array:
    """-log p of each target, [N]."""
    return optax.softmax_cross_entropy_with_integer_labels(asked_logits(model, batch), batch.target)


def make_gates(graph: nnx.GraphDef, encoder: Encoder, rows: int, seed: int) -> Callable:
    """gates(parameters) -> {skill: share of the numbers asked for that are right}, on documents drawn from `seed`.

    Entries and pools have their final size. "match" is whether a word occurs, "count" how many of an entry's words do,
    "lookup" a map in handle order, "scoring" the counts of 20 entries; "_full" with synonyms and large numbers.
    """

    @jax.jit
    def hits(parameters, batch: Batch):
        return asked_logits(nnx.merge(graph, parameters), batch).argmax(-1) == batch.target

    easy, full = Stage(0.0, 0.0, 1.0, 0.9), Stage(1.0, 0.5, 1.0, 0.9)

    def twenty(rng: np.random.Generator, stage: Stage) -> Document:
        return curriculum.scoring(rng, stage, size=20)

    wanted = {
        "match": (curriculum.match, easy, curriculum.WORD),
        "count": (curriculum.reading, easy, curriculum.TOTAL),
        "lookup": (curriculum.lookup, full, "map"),
        "scoring": (twenty, easy, "map"),
        "match_full": (curriculum.match, full, curriculum.WORD),
        "flag": (curriculum.reading, easy, curriculum.WORD),
        "count_full": (curriculum.reading, full, curriculum.TOTAL),
        "scoring_full": (twenty, full, "map"),
        "taken": (curriculum.taken, full, "map"),
    }

    def gates(parameters) -> dict[str, float]:
        found = {}
        for number, (name, (skill, stage, kind)) in enumerate(wanted.items()):
            rng = np.random.default_rng([seed, number])
            batch = pad([_fitting(encoder, skill, rng, stage) for _ in range(rows)], LENGTHS[-1])
            right = np.asarray(hits(parameters, batch))
            found[name] = round(float(right[batch.kind == KINDS.index(kind)].mean()), 4)
        return found

    return gates


def _fitting(encoder: Encoder, skill, rng: np.random.Generator, stage: Stage) -> Asked:
    while True:
        document = encoder(skill(rng, stage))
        if len(document.ids) <= LENGTHS[-1]:
            return document
