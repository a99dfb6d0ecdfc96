"""Pre-training of the tiny base model L0-tiny on the curriculum's documents (DESIGN §7).

R = rows, T = tokens of a row, N = tokens with a loss, V = vocabulary. Batches depend on (seed, step) alone, so a run
resumes anywhere.
"""

from __future__ import annotations

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
from mma_jax.models.tokenizer import Tokenizer

OTHER = 0.1
"""Loss weight of an assistant's tokens that carry no number: handles and JSON are soon known."""

LENGTHS = (96, 192, 416)
"""Tokens of a row: documents of like length are computed side by side, for attention costs the square of a row."""


class Phase(NamedTuple):
    """A part of the curriculum."""

    start: float  # share of the steps at which it begins
    rows: tuple[int, ...]  # documents of each length in a step
    skills: dict[str, float]  # how often each is drawn


PHASES = (
    Phase(0.0, (32, 0, 0), {"match": 1.0}),
    Phase(0.25, (24, 8, 0), {"match": 0.6, "count": 0.3, "lookup": 0.1}),
    Phase(0.32, (20, 10, 3), {"match": 0.3, "count": 0.45, "lookup": 0.15, "taken": 0.05, "schema": 0.05}),
    Phase(0.45, (12, 8, 6), {"match": 0.2, "count": 0.3, "lookup": 0.15, "scoring": 0.2, "schema": 0.05, "taken": 0.1}),
    Phase(0.55, (6, 6, 10), {"match": 0.1, "count": 0.2, "lookup": 0.05, "scoring": 0.5, "schema": 0.05, "taken": 0.1}),
)


class Batch(NamedTuple):
    """Documents, one a row."""

    tokens: np.ndarray  # int32 [R, T]
    where: np.ndarray  # int32 [N], flat index of the token before each predicted one
    target: np.ndarray  # int32 [N]
    weight: np.ndarray  # float32 [N], 0 for padding


class Encoder:
    """Documents -> ids and loss weights."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self.value = curriculum.value_tokens(tokenizer)
        # in a drill the numbers of the profile are given; asked for are those behind a blank and behind "score"
        self.spaced = np.zeros(tokenizer.vocab_size, bool)
        self.spaced[[tokenizer.encode(f" {n}")[0] for n in range(10)]] = True
        self.score = np.zeros(tokenizer.vocab_size, bool)
        self.score[[tokenizer.encode(text)[0] for text in ('"},"score', '"],"score')]] = True
        self._wrap = {role: tokenizer.encode_control(f"<|{role}|>") for role in ("system", "user", "assistant", "tool")}
        self._begin, self._end = (
            tokenizer.encode_control(name) for name in (curriculum.CONTROL[0], curriculum.CONTROL[-1])
        )

    def __call__(self, document: Document) -> tuple[np.ndarray, np.ndarray]:
        """int32 [L], float32 [L]; the weight of a token is that of predicting it."""
        ids, weights = list(self._begin), [0.0]
        for role, content in document:
            head = self._wrap["tool" if role == "drill" else role]
            body = np.array(self.tokenizer.encode(content))
            if role == "assistant":
                said = [*np.where(self.value[body], 1.0, OTHER), OTHER]
            elif role == "drill":
                behind = np.concatenate([[False], self.score[body[:-1]]])
                said = [*((self.spaced[body] | behind) & self.value[body]).astype(float), 0.0]
            else:
                said = [0.0] * (len(body) + 1)
            ids += [*head, *body.tolist(), *self._end]
            weights += [*[0.0] * len(head), *said]
        return np.array(ids, np.int32), np.array(weights, np.float32)


def phase_at(progress: float) -> tuple[Phase, Stage]:
    """What is practised, and how hard it is, after `progress` (0..1) of the steps."""
    phase = next(phase for phase in reversed(PHASES) if progress >= phase.start)

    def ramp(start: float, end: float) -> float:
        return float(np.clip((progress - start) / (end - start), 0, 1))

    return phase, Stage(numbers=ramp(0.32, 0.55), synonyms=0.7 * ramp(0.2, 0.3), size=ramp(0.32, 0.55))


def make_batches(encoder: Encoder, seed: int, step: int, progress: float) -> list[Batch]:
    """One batch for every length that the phase asks for. Documents are drawn until all rows are full."""
    rng = np.random.default_rng([seed, step])
    phase, stage = phase_at(progress)
    names, shares = list(phase.skills), np.array(list(phase.skills.values()))
    drawn: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in LENGTHS]
    while any(len(rows) < wanted for rows, wanted in zip(drawn, phase.rows, strict=True)):
        ids, weights = encoder(SKILLS[names[rng.choice(len(names), p=shares / shares.sum())]](rng, stage))
        fitting = [b for b, length in enumerate(LENGTHS) if len(ids) <= length and len(drawn[b]) < phase.rows[b]]
        if fitting:
            drawn[fitting[0]].append((ids, weights))
    return [pad(rows, length) for rows, length in zip(drawn, LENGTHS, strict=True) if rows]


def pad(documents: list[tuple[np.ndarray, np.ndarray]], length: int) -> Batch:
    """Documents (ids, weights) of at most `length` tokens, one a row. There is room to ask for half of the tokens."""
    tokens, weight = np.zeros((len(documents), length), np.int32), np.zeros((len(documents), length), np.float32)
    for row, (ids, weights) in enumerate(documents):
        tokens[row, : len(ids)], weight[row, : len(ids)] = ids, weights
    room = tokens.size // 2
    asked = np.flatnonzero(weight)[:room]
    padding = (0, room - len(asked))
    return Batch(
        tokens,
        np.pad(asked - 1, padding).astype(np.int32),
        np.pad(tokens.ravel()[asked], padding),
        np.pad(weight.ravel()[asked], padding),
    )


def tie_forms(model: Llama, pieces: list[str], rng: np.random.Generator) -> None:
    """Start the embeddings of a word's two forms, "red" and "\u2581red", almost equal, and those of a number's close.

    `pieces` [V]: each token's text. At a random start the model would have to find out pair by pair what its
    tokenizer hides. A number's forms ('":3,"', "\u25813", "3") do different work, so they stay further apart.
    """
    width = model.config.width
    base: dict[str, np.ndarray] = {}
    table = np.zeros((len(pieces), width), np.float32)
    for row, piece in enumerate(pieces):
        key = re.sub(r'^[\u2581":.]+|[,"}]+$', "", piece) or piece
        own = 0.435 if key.isdigit() else 0.1
        table[row] = (1 - own**2) ** 0.5 * base.setdefault(key, rng.normal(size=width)) + own * rng.normal(size=width)
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
        lost = sum((cross_entropy(model, batch) * batch.weight).sum() for batch in batches)
        return lost / sum(batch.weight.sum() for batch in batches)

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


def make_gates(graph: nnx.GraphDef, encoder: Encoder, rows: int, length: int, seed: int) -> Callable:
    """gates(parameters) -> {skill: share of the numbers asked for that are right}, on documents drawn from `seed`.

    Skills at their final size (20 entries): "match" is whether a word occurs at all, "count" sums of small numbers,
    "lookup" a map in handle order, "scoring" the whole task with 20 entries.
    """

    @jax.jit
    def hits(parameters, batch: Batch):
        return asked_logits(nnx.merge(graph, parameters), batch).argmax(-1) == batch.target

    easy, final = Stage(0.0, 0.0, 0.9), Stage(1.0, 1.0, 0.9)
    wanted = {
        "match": (curriculum.match, easy),
        "synonyms": (curriculum.match, Stage(0.0, 1.0, 0.9)),
        "count": (curriculum.count, Stage(0.34, 0.5, 0.9)),
        "lookup": (curriculum.lookup, final),
        "scoring": (lambda rng, stage: curriculum.scoring(rng, stage, size=20), Stage(0.34, 0.5, 0.9)),
        "scoring_large": (lambda rng, stage: curriculum.scoring(rng, stage, size=20), final),
        "taken": (curriculum.taken, final),
    }

    def gates(parameters) -> dict[str, float]:
        found = {}
        for number, (name, (skill, stage)) in enumerate(wanted.items()):
            rng = np.random.default_rng([seed, number])
            batch = pad([_fitting(encoder, skill, rng, stage, length) for _ in range(rows)], length)
            right = np.asarray(hits(parameters, batch))
            asked = (batch.weight == 1.0) & encoder.value[batch.target]
            found[name] = round(float(right[asked].mean()), 4)
        return found

    return gates


def _fitting(encoder: Encoder, skill, rng: np.random.Generator, stage: Stage, length: int):
    while True:
        ids, weights = encoder(skill(rng, stage))
        if len(ids) <= length:
            return ids, weights
