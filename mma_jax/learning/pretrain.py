"""Pre-training of the tiny base model L0-tiny on the curriculum's documents (DESIGN §7).

R = rows, T = tokens of a row, N = tokens with a loss, V = vocabulary. Batches depend on (seed, step) alone, so a run
resumes anywhere.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from mma_jax.learning import curriculum, vocabulary
from mma_jax.learning.contrastive import muon
from mma_jax.learning.curriculum import EASY, HANDLE, OWNER, SAID, SKILLS, SUM, TOTAL, WORD, Document, Stage
from mma_jax.learning.state import TrainState, apply
from mma_jax.models.llama import Llama
from mma_jax.models.tokenizer import SentencePieceTokenizer

KINDS = ("other", "map", OWNER, WORD, SUM, TOTAL, HANDLE)
"""What is asked: an assistant's token without a number, a number that an assistant writes, the kinds of thoughts."""

WEIGHTS = (0.1, 1.0, 0.3, 0.5, 0.3, 0.7, 0.4)
"""Of the KINDS in the loss: handles and JSON are soon known, words are many."""


class Reader(NamedTuple):
    """Where answers of some kinds are read."""

    kinds: tuple[str, ...]
    block: int  # after this many blocks; -1: after the last
    room: float  # questions in a row, at most, per token


READERS = (
    Reader(("other", "map"), -1, 0.25),
    Reader((OWNER,), 1, 0.2),
    Reader((WORD,), 3, 0.6),
    Reader((HANDLE,), 3, 0.6),
    Reader((SUM, TOTAL), 5, 0.6),
)
"""Thoughts are read early, so that later blocks build on them: sums on words, the map on sums and handles. Where all
were read at the end, the map stayed at chance: it cannot look up what only the last block knows."""

LENGTHS = (96, 192, 352, 640)
"""Tokens of a row: documents of like length are computed side by side, for attention costs the square of a row."""


REHEARSED = 0.5
"""Share of documents that stay easy: without them, what was counted right at step 700 was lost by step 1,100."""


class Phase(NamedTuple):
    """A part of the curriculum."""

    start: float  # share of the steps at which it begins
    rows: tuple[int, ...]  # documents of each length in a step
    skills: dict[str, float]  # how often each is drawn


PHASES = (
    Phase(0.0, (32, 0, 0, 0), {"match": 1.0}),
    Phase(0.04, (6, 14, 5, 0), {"match": 0.2, "reading": 0.35, "scoring": 0.3, "lookup": 0.15}),
    Phase(
        0.5,
        (3, 10, 6, 1),
        {"match": 0.05, "reading": 0.15, "scoring": 0.45, "lookup": 0.1, "taken": 0.15, "schema": 0.1},
    ),
    Phase(
        0.8,
        (2, 6, 6, 3),
        {"match": 0.05, "reading": 0.1, "scoring": 0.5, "lookup": 0.1, "taken": 0.15, "schema": 0.1},
    ),
)


class Questions(NamedTuple):
    """What one reader asks."""

    where: np.ndarray  # int32 [N], index of the token at which it is asked; in a batch, of all its rows in a line
    target: np.ndarray  # int32 [N], the token that follows, or the number of the thought
    kind: np.ndarray  # int32 [N], of KINDS; -1 for padding


class Batch(NamedTuple):
    """Documents, one a row."""

    tokens: np.ndarray  # int32 [R, T]
    asked: list[Questions]  # by each of READERS


class Asked(NamedTuple):
    """A document as the loss sees it."""

    ids: np.ndarray  # int32 [L]
    asked: Questions


class Encoder:
    """Documents -> ids, and what is asked where."""

    def __init__(self, tokenizer: SentencePieceTokenizer):
        self.tokenizer = tokenizer
        pieces = tokenizer.pieces()
        self._number = np.array([re.fullmatch(r'":\d+[,}]"?', piece) is not None for piece in pieces])
        self._wrap = {role: tokenizer.encode_control(f"<|{role}|>") for role in ("system", "user", "assistant", "tool")}
        self._begin = tokenizer.encode_control(vocabulary.CONTROL[0])
        self._end = tokenizer.encode_control(vocabulary.CONTROL[-1])
        self.said = {kind: np.array([tokenizer.encode(t)[0] for t in texts]) for kind, texts in SAID.items()}

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
                    (len(ids) + n, body[n - 1] if thought.kind == OWNER else thought.number, KINDS.index(thought.kind))
                    for n, thought in zip(holders.tolist(), said.thoughts, strict=True)
                ]
            ids += [*body, *self._end]
        return Asked(np.array(ids, np.int32), Questions(*np.array(asked, np.int32).reshape(-1, 3).T))


def phase_at(progress: float, words: tuple[str, ...] = ()) -> tuple[Phase, Stage]:
    """What is practised, and how hard it is, after `progress` (0..1) of the steps; `words` are a catalog's."""
    phase = next(phase for phase in reversed(PHASES) if progress >= phase.start)

    def ramp(start: float, end: float) -> float:
        return float(np.clip((progress - start) / (end - start), 0, 1))

    return phase, Stage(ramp(0.2, 0.4), 0.7 * ramp(0.15, 0.25), words)


def make_batches(encoder: Encoder, seed: int, step: int, progress: float, words: tuple[str, ...] = ()) -> list[Batch]:
    """One batch for every length that the phase asks for. Documents are drawn until all rows are full."""
    rng = np.random.default_rng([seed, step])
    phase, stage = phase_at(progress, words)
    easy = dataclasses.replace(EASY, words=words)
    names, shares = list(phase.skills), np.array(list(phase.skills.values()))
    drawn: list[list[Asked]] = [[] for _ in LENGTHS]
    while any(len(rows) < wanted for rows, wanted in zip(drawn, phase.rows, strict=True)):
        skill = SKILLS[names[rng.choice(len(names), p=shares / shares.sum())]]
        document = encoder(skill(rng, easy if rng.random() < REHEARSED else stage))
        bucket = int(np.searchsorted(LENGTHS, len(document.ids)))
        if bucket < len(LENGTHS) and len(drawn[bucket]) < phase.rows[bucket]:
            drawn[bucket].append(document)
    return [pad(rows, length) for rows, length in zip(drawn, LENGTHS, strict=True) if rows]


def pad(documents: list[Asked], length: int) -> Batch:
    """Documents of at most `length` tokens, one a row."""
    tokens = np.zeros((len(documents), length), np.int32)
    for row, document in enumerate(documents):
        tokens[row, : len(document.ids)] = document.ids
    placed = [d.asked._replace(where=d.asked.where + row * length) for row, d in enumerate(documents)]
    every = Questions(*map(np.concatenate, zip(*placed, strict=True)))
    return Batch(tokens, [_select(every, reader, int(tokens.size * reader.room)) for reader in READERS])


def _select(every: Questions, reader: Reader, room: int) -> Questions:
    mine = np.flatnonzero(np.isin(every.kind, [KINDS.index(kind) for kind in reader.kinds]))[:room]
    padding = (0, room - len(mine))
    where, target, kind = (column[mine] for column in every)
    return Questions(np.pad(where, padding), np.pad(target, padding), np.pad(kind, padding, constant_values=-1))


def tie_forms(model: Llama, pieces: list[str], rng: np.random.Generator) -> None:
    """Start the embeddings of a word's two forms, "red" and "\u2581red", almost equal, those of synonyms and of a
    number's forms close.

    `pieces` [V]: each token's text. At a random start the model would have to find out, word by word, what its
    tokenizer hides and what word vectors of any larger corpus know. A bare number is a handle and shares nothing with
    the others: where they were alike, entry 7 was looked up among those that score 7.
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
        if piece.isdigit():
            key = f"handle {piece}"
        meaning = near(key, 0.435, near(topic[key], 0.0)) if key in topic else near(key, 0.0)
        own = 0.435 if key.isdigit() else 0.1
        table[row] = (1 - own**2) ** 0.5 * meaning + own * rng.normal(size=width)
    model.embed_tokens.embedding[...] = jnp.asarray(table / width**0.5, model.embed_tokens.embedding[...].dtype)


def draw_alike(table: np.ndarray, pieces: list[str], learned: np.ndarray, rng: np.random.Generator) -> None:
    """Give new words rows as if training had left them: drawn from the normal distribution of the learned words' rows
    (Hewitt 2021, "Initializing new word embeddings"), one draw for a word's two forms, as far apart as the learned ones
    are on average. Rows are changed in place.

    What compares words then holds for new ones at once: with 7,000 words of ml-100k 99% of matches and 92% of scores
    were right before any step (84% and 52% with rows of `tie_forms`); after 300 steps 99% and 89%.

    table: float32 [V, width]. pieces [V]: each token's text. learned: bool [V], which rows stay.
    """
    rows = {piece: row for row, piece in enumerate(pieces)}
    pairs = np.array([(row, rows[f"\u2581{piece}"]) for piece, row in rows.items() if f"\u2581{piece}" in rows])
    plain = {word for words in curriculum.TOPICS if len(words) == 1 for word in words}
    known = np.array([learned[pair].all() and pieces[pair[0]] in plain for pair in pairs], bool)
    if known.sum() < 2:
        return
    new = ~learned[pairs].any(axis=1)
    alone, blank = (table[column].astype(float) for column in pairs[known].T)
    centers, apart = (alone + blank) / 2, (blank - alone).mean(axis=0)
    drawn = rng.multivariate_normal(centers.mean(axis=0), np.cov(centers.T), size=new.sum(), method="svd")
    table[pairs[new, 0]], table[pairs[new, 1]] = drawn - apart / 2, drawn + apart / 2


def attend_to_the_like(model: Llama, rng: np.random.Generator) -> None:
    """Start every head comparing tokens by what they are and passing on what it finds.

    "Mimetic" initialization (Trockman & Kolter 2023, arXiv:2305.09828): queries and keys by the same matrix, and values
    that the output projection puts back where they were taken from.
    """
    shape = model.config
    width, dim, shared = shape.width, shape.head_dim, shape.heads // shape.kv_heads
    for block in model.layers:
        keys = rng.normal(size=(width, shape.kv_heads, dim)) / width**0.5
        noise = rng.normal(size=(width, shape.kv_heads, shared, dim)) / width**0.5
        queries = 0.8 * keys[:, :, None] + 0.6 * noise
        basis = np.linalg.qr(rng.normal(size=(width, max(width, shape.kv_heads * dim)))[:, :width])[0]
        values = np.stack([basis[:, np.arange(h * dim, (h + 1) * dim) % width] for h in range(shape.kv_heads)], axis=1)
        outputs = np.repeat(values[:, :, None], shared, axis=2) / shared
        attention = block.self_attn
        for projection, kernel in (
            (attention.q_proj, queries.reshape(width, -1)),
            (attention.k_proj, keys.reshape(width, -1)),
            (attention.v_proj, values.reshape(width, -1)),
            (attention.o_proj, outputs.reshape(width, -1).T),
        ):
            projection.kernel[...] = jnp.asarray(kernel, projection.kernel[...].dtype)


def optimizer(config) -> optax.GradientTransformationExtraArgs:
    """Muon for the matrices of the blocks, Adam for embedding and norms; warm-up, flat, decay."""

    def schedule(peak: float) -> optax.Schedule:
        warm, cool = max(1, config.steps // 50), max(1, config.steps // 2)
        return optax.join_schedules(
            [
                optax.linear_schedule(0.0, peak, warm),
                optax.constant_schedule(peak),
                optax.linear_schedule(peak, 0.05 * peak, cool),
            ],
            [warm, config.steps - cool],
        )

    chain = muon(schedule(config.muon_rate), schedule(config.adam_rate), config.weight_decay)
    return optax.with_extra_args_support(chain)


def make_step(graph: nnx.GraphDef, tx: optax.GradientTransformationExtraArgs, said: dict[str, np.ndarray]) -> Callable:
    """step(state: TrainState, batches) -> (state, {"loss": mean nats, weighted, ...}), jitted; consumes state.

    said: `Encoder.said`.
    """

    def loss_fn(parameters, batches: list[Batch]):
        model = nnx.merge(graph, parameters)
        lost, total = 0.0, 0.0
        for batch in batches:
            for questions, logits in zip(batch.asked, answers(model, batch, said), strict=True):
                weight = jnp.where(questions.kind >= 0, jnp.array(WEIGHTS)[questions.kind], 0.0)
                cost = optax.softmax_cross_entropy_with_integer_labels(logits, questions.target)
                lost, total = lost + (weight * cost).sum(), total + weight.sum()
        return lost / total

    def step(state: TrainState, batches: list[Batch]):
        loss, gradient = jax.value_and_grad(loss_fn)(state.params, batches)
        state, norms = apply(tx, state, loss, gradient)
        return state, {"loss": loss, **norms}

    return jax.jit(step, donate_argnums=0)


def answers(model: Llama, batch: Batch, said: dict[str, np.ndarray]) -> list[jax.Array]:
    """Logits of each of READERS, [N, V] over tokens or [N, numbers] over the tokens that say a thought's numbers."""
    depths, found = model.depths(batch.tokens), []
    for reader, questions in zip(READERS, batch.asked, strict=True):
        hidden = depths[reader.block].reshape(-1, model.config.width)[questions.where]
        tokens = said.get(reader.kinds[0])
        found.append(model.logits(hidden) if tokens is None else hidden @ model.embed_tokens(tokens).T)
    return found


def make_gates(graph: nnx.GraphDef, encoder: Encoder, rows: int, seed: int, words: tuple[str, ...] = ()) -> Callable:
    """gates(parameters) -> {skill: share of the numbers asked for that are right}, on documents drawn from `seed`.

    Entries and pools have their final size. "match" is whether a word occurs, "count" how many of an entry's words do,
    "lookup" a map in handle order, "scoring" the counts of 20 entries; "_full" with synonyms and large numbers.
    """

    @jax.jit
    def hits(parameters, batch: Batch):
        found = answers(nnx.merge(graph, parameters), batch, encoder.said)
        return [logits.argmax(-1) == asked.target for logits, asked in zip(found, batch.asked, strict=True)]

    easy, full = Stage(0.0, 0.0, words), Stage(1.0, 0.7, words)

    def twenty(rng: np.random.Generator, stage: Stage) -> Document:
        return curriculum.scoring(rng, stage, size=20)

    wanted = {
        "match": (curriculum.match, easy, WORD),
        "count": (curriculum.reading, easy, TOTAL),
        "lookup": (curriculum.lookup, full, "map"),
        "scoring": (twenty, easy, "map"),
        "match_full": (curriculum.match, full, WORD),
        "flag": (curriculum.reading, easy, WORD),
        "count_full": (curriculum.reading, full, TOTAL),
        "scoring_full": (twenty, full, "map"),
        "handle": (curriculum.reading, full, HANDLE),
        "taken": (curriculum.taken, full, "map"),
    }

    def gates(parameters) -> dict[str, float]:
        found = {}
        for number, (name, (skill, stage, kind)) in enumerate(wanted.items()):
            rng = np.random.default_rng([seed, number])
            batch = pad([_fitting(encoder, skill, rng, stage) for _ in range(rows)], LENGTHS[-1])
            right = np.concatenate(hits(parameters, batch))
            kinds = np.concatenate([asked.kind for asked in batch.asked])
            found[name] = round(float(right[kinds == KINDS.index(kind)].mean()), 4)
        return found

    return gates


def _fitting(encoder: Encoder, skill, rng: np.random.Generator, stage: Stage) -> Asked:
    while True:
        document = encoder(skill(rng, stage))
        if len(document.ids) <= LENGTHS[-1]:
            return document
