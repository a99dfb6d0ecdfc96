"""Token histories in, completions out: text is sampled from a Llama whose cache lives across tool calls.

A session holds some rows, each a growing list of token ids. Ids are appended with `extend` and sampled with `sample`;
nothing is ever computed twice. Appending only queues the ids: `sample` takes the rows it is asked for out of the
caches, a batch at a time, runs their queued ids in chunks, decodes, and puts the rows back. Rows that are not asked for
cost nothing and are not touched. The last token of a row is always left in the queue, whether it ended a prompt or was
sampled: running it is the first step of decoding.

Shapes come from a few buckets, so that little is compiled: once per (chunk, slots) for prompts, once more where these
begin their rows, and per slots for decoding, for each grammar anew. A batch is as wide as its own longest row needs,
because decoding costs what the cache is wide.

    session = sampler.open(state, rows=64, slots=512)
    session.extend([0], [system_prompt])
    session.copy([0] * 63, range(1, 64))  # computed once
    session.extend(range(64), prompts)
    completions = session.sample(range(64), keys, max_new=128, temperature=1.0)
    session.extend(range(64), observations)

With a grammar every completion is one of its texts; what it forces costs no step of decoding (see `grammar`).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Iterator, Sequence

import jax
import numpy as np
from flax import nnx

from mma_jax.models.heads import ActorCritic
from mma_jax.models.llama import Llama, empty_caches
from mma_jax.models.sharding import HERE, Placement
from mma_jax.sampling import step
from mma_jax.sampling.grammar import Grammar
from mma_jax.sampling.numbers import Numbers
from mma_jax.types import InputError


@dataclasses.dataclass
class Completion:
    """What was sampled for a row."""

    tokens: list[int]  # ends with a stop id if finished
    logprobs: list[float]  # of the policy, softmax(logits / T) over allowed tokens; at T = 1 if greedy; 0 where forced
    finished: bool  # False: cut off at max_new
    value: float  # V at the last token before the completion; nan without a value head
    forced: list[bool]  # the grammar allowed no other; never the first, so that every completion has a choice
    rules: list[int]  # what the grammar allowed, see `Grammar.allowed`; 0: everything
    means: list[float]  # the number to be expected where one was sampled, nan elsewhere; () if the sampler knows none


class Sampler:
    """A model with its compiled functions; one for many sessions and any number of parameter updates.

    Args:
        model: an `ActorCritic` or a plain `Llama`; only its structure is kept.
        stop_ids: a completion ends with any of these.
        slots_buckets: cache sizes in tokens; the largest bounds a row's length.
        chunk_buckets: sizes of the pieces that prompts are computed in.
        block: R, rows computed at a time; None takes all rows of a session. 16 is best on CPU: batches that are sparse,
            ragged or partly finished waste less.
        placement: where the weights are. Prompts stay with their rows and weights are fetched; in decoding, where the
            weights are more than a batch's tokens, the compiler decides what moves.
        numbers: what completions tell the means of; None for nothing.
    """

    def __init__(
        self,
        model: ActorCritic | Llama,
        stop_ids: Sequence[int],
        slots_buckets: Sequence[int],
        chunk_buckets: Sequence[int],
        block: int | None = None,
        placement: Placement = HERE,
        numbers: Numbers | None = None,
    ):
        for name, buckets in (("slots", slots_buckets), ("chunk", chunk_buckets)):
            if not buckets or min(buckets) < 1:
                raise InputError(f"sampler.{name}_buckets: {tuple(buckets)}; give at least one size, all positive")
        trunk = model.model if isinstance(model, ActorCritic) else model
        self.config, self.dtype = trunk.config, trunk.embed_tokens.dtype
        self.stop_ids, self.block, self.numbers = tuple(stop_ids), block, numbers
        self.slots_buckets, self.chunk_buckets = sorted(slots_buckets), sorted(chunk_buckets)
        graphdef = nnx.graphdef(model)
        prefill = placement.program(functools.partial(step.prefill, graphdef))
        self.prefill = jax.jit(prefill, static_argnames="first", donate_argnames="caches")
        self.decode = jax.jit(
            functools.partial(step.decode, graphdef, self.stop_ids), static_argnames="jump", donate_argnames="caches"
        )

    def jump(self, grammar: Grammar | None) -> int:
        """J of `step.decode`: padding must not be wider than a chunk's, see `width`."""
        return min(grammar.width, self.chunk_buckets[0]) if grammar else 1

    @property
    def longest(self) -> int:
        """Tokens a row may have."""
        return self.slots_buckets[-1]

    def width(self, length: int) -> int:
        """Slots of a cache for rows of `length` tokens: its bucket, and a smallest chunk more, so that padding never
        reaches the end (where `Llama.extend` would write over what is there); a step of decoding pads like a chunk."""
        return next(slots for slots in self.slots_buckets if slots >= length) + self.chunk_buckets[0]

    def open(self, state: nnx.State, rows: int, slots: int) -> Session:
        """Start `rows` empty rows with room for `slots` tokens each; they grow as needed.

        Args:
            state: `nnx.state` of the model, with any values.
            rows: of the session, for good.
            slots: tokens a row is expected to have.

        Raises:
            InputError: more slots than the largest bucket.
        """
        if slots > self.longest:
            raise InputError(
                f"sampler: {slots} slots asked for, the largest of sampler.slots_buckets is {self.longest}"
            )
        return Session(self, state, rows, slots)


class Session:
    """Rows of token ids, their caches, and what of them has not been computed yet. See `Sampler.open`."""

    def __init__(self, sampler: Sampler, state: nnx.State, rows: int, slots: int):
        self._sampler, self._state, self._rows = sampler, state, rows
        self._block = sampler.block or rows
        self._caches = empty_caches(sampler.config, rows, sampler.width(slots), sampler.dtype)
        self._cached = [0] * rows
        self._queue: list[list[int]] = [[] for _ in range(rows)]

    def length(self, row: int) -> int:
        """Tokens of a row, prompts and completions together."""
        return self._cached[row] + len(self._queue[row])

    def extend(self, rows: Sequence[int], tokens: Sequence[Sequence[int]]) -> None:
        """Append ids to some rows.

        Raises:
            InputError: a row would be longer than the largest bucket; no row is changed then.
        """
        rows = self._checked(rows)
        for row, ids in zip(rows, tokens, strict=True):
            self._check_room(row, len(ids))
        for row, ids in zip(rows, tokens, strict=True):
            self._queue[row].extend(map(int, ids))

    def copy(self, sources: Sequence[int], rows: Sequence[int]) -> None:
        """Make each of `rows` a copy of its source: a prompt that rows share is computed once. Sources may repeat."""
        rows, sources = self._checked(rows), [int(source) for source in sources]
        for batch in self._batches(self._checked(set(sources))):
            self._put(batch, self._prefill(batch))
        origin = list(range(self._rows))
        for source, row in zip(sources, rows, strict=True):
            origin[row] = source
        self._caches = _permute(self._caches, np.array(origin, np.int32))
        self._cached = [self._cached[source] for source in origin]
        self._queue = [list(self._queue[source]) for source in origin]

    def truncate(self, rows: Sequence[int], lengths: Sequence[int]) -> None:
        """Keep the first `lengths` tokens of some rows, for other text to follow.

        Raises:
            ValueError: a row has fewer.
        """
        for row, length in zip(self._checked(rows), lengths, strict=True):
            if length > self.length(row):
                raise ValueError(f"row {row} has {self.length(row)} tokens, not {length} to keep")
            self._queue[row] = self._queue[row][: max(0, length - self._cached[row])]
            self._cached[row] = min(length, self._cached[row])

    def sample(
        self,
        rows: Sequence[int],
        keys: np.ndarray,
        max_new: int | Sequence[int],
        temperature: float,
        grammar: Grammar | None = None,
        states: Sequence[int] = (),
    ) -> list[Completion]:
        """Continue some rows until they stop.

        Args:
            rows: all different.
            keys: uint32 [n, 2], raw key data per row; the token at position p of its row is drawn with
                fold_in(key, p), whichever row and batch that is (DESIGN §6.15).
            max_new: tokens to sample at most, for all or for each.
            temperature: 0 is greedy.
            grammar: None lets every token follow every other.
            states: of the grammar, where each completion begins.

        Returns:
            One completion per row, in the order of `rows`. Its last token, too, is part of the row from here on.

        Raises:
            InputError: a row could get longer than the largest bucket, or max_new is less than the grammar needs.
            ValueError: a row is empty or named twice, keys of another shape, nothing to be sampled.
        """
        rows, keys = self._checked(rows), np.asarray(keys)
        if keys.shape != (len(rows), 2) or keys.dtype != np.uint32:
            raise ValueError(f"keys {keys.dtype} {keys.shape}, need uint32 {(len(rows), 2)}")
        if not temperature >= 0:
            raise ValueError(f"temperature {temperature}, must not be negative")
        limits = np.broadcast_to(max_new, len(rows)).tolist()
        for row, limit in zip(rows, limits, strict=True):
            if not self.length(row) or limit < 1:
                raise ValueError(
                    f"row {row} has {self.length(row)} tokens and max_new is {limit}: need at least one each"
                )
            self._check_room(row, limit)
        states = states if grammar else [0] * len(rows)
        for limit, rule in zip(limits, states, strict=True):
            if grammar and limit < grammar.least[rule]:
                raise InputError(
                    f"sampler: max_new is {limit} and the shortest action takes {grammar.least[rule]} tokens: raise it"
                )
        drafts = {
            row: _Draft(key, rule, limit, self.length(row) + limit)
            for row, key, rule, limit in zip(rows, keys, states, limits, strict=True)
        }
        going = rows
        while going:
            # rows that outlast half of their batch are put together with those of other batches
            merge = len(going) > self._block
            going = [
                row
                for batch in self._batches(going)
                for row in self._decode(batch, drafts, temperature, grammar, len(batch) // 2 if merge else 0)
            ]
        return [self._completion(drafts[row], grammar) for row in rows]

    def _decode(
        self, batch: list[int], drafts: dict[int, _Draft], temperature: float, grammar: Grammar | None, enough: int
    ) -> list[int]:
        """Run the queue of at most R rows, sample them, and tell which have more to come."""
        caches = self._prefill(batch)
        keys = np.zeros((self._block, 2), np.uint32)
        keys[: len(batch)] = [drafts[row].key for row in batch]
        final, values = self._sampler.decode(
            self._state,
            self._padded([self._queue[row][-1] for row in batch]),
            self._padded([self._cached[row] for row in batch]),
            self._padded([drafts[row].end for row in batch]),
            keys,
            np.float32(temperature),
            np.int32(enough),
            self._padded([drafts[row].rule for row in batch]),
            grammar.tables if grammar else None,
            jump=self._sampler.jump(grammar),
            caches=caches,
            numbers=self._sampler.numbers,
        )
        self._put(batch, final.caches)
        found = jax.device_get(final._replace(hidden=None, caches=None))
        for n, (row, value) in enumerate(zip(batch, jax.device_get(values), strict=False)):
            cached, pending = int(found.length[n]), int(found.count[n])
            drawn = slice(self._cached[row] + 1, cached + pending)
            columns = (found.tokens, found.logprobs, *([] if found.means is None else [found.means]))
            drafts[row].add(float(value), *(column[n, drawn].tolist() for column in columns))
            drafts[row].rule = int(found.rule[n])
            self._cached[row], self._queue[row] = cached, found.pending[n, :pending].tolist()
        return [row for row, going in zip(batch, found.going, strict=False) if going]

    def _prefill(self, batch: list[int]) -> list[step.Cache]:
        """Take at most R rows out of the caches and run their queues up to the last token."""
        width = self._sampler.width(max(map(self.length, batch)))
        if width > self._caches[0].k.shape[2]:
            self._caches = _widen(self._caches, width)
        caches = _take(self._caches, self._padded(batch, fill=self._rows), width)
        while (most := max(len(self._queue[row]) for row in batch) - 1) > 0:
            chunk = self._chunk(most, width - max(self._cached[row] for row in batch))
            tokens = np.zeros((self._block, chunk), np.int32)
            lengths = self._padded([self._cached[row] for row in batch])
            first = not lengths.any()
            for i, row in enumerate(batch):
                piece = self._queue[row][:-1][:chunk]
                tokens[i, : len(piece)] = piece
                self._queue[row] = self._queue[row][len(piece) :]
                self._cached[row] += len(piece)
            caches = self._sampler.prefill(self._state, tokens, lengths, first=first, caches=caches)
        return caches

    def _chunk(self, most: int, room: int) -> int:
        """The smallest chunk that holds what is `most` to be run, of those that fit; else the largest that fits."""
        fitting = [chunk for chunk in self._sampler.chunk_buckets if chunk <= room]
        return next((chunk for chunk in fitting if chunk >= most), fitting[-1])

    def _put(self, batch: list[int], caches: list[step.Cache]) -> None:
        self._caches = _put(self._caches, self._padded(batch, fill=self._rows), caches)

    def _batches(self, rows: Sequence[int]) -> Iterator[list[int]]:
        """At most R rows each, with similar amounts of queued ids."""
        rows = sorted(rows, key=lambda row: (len(self._queue[row]), self.length(row)))
        for start in range(0, len(rows), self._block):
            yield rows[start : start + self._block]

    def _padded(self, values: Sequence[int], fill: int = 0) -> np.ndarray:
        """int32 [R]"""
        return np.array([*values, *[fill] * (self._block - len(values))], np.int32)

    def _checked(self, rows: Iterable[int]) -> list[int]:
        rows = [int(row) for row in rows]
        if len(set(rows)) < len(rows) or not all(0 <= row < self._rows for row in rows):
            raise ValueError(f"rows {rows}: must be different rows of the session's {self._rows}")
        return rows

    def _check_room(self, row: int, new: int) -> None:
        if self.length(row) + new > self._sampler.longest:
            raise InputError(
                f"sampler: {self.length(row)} tokens and {new} more do not fit into the largest of "
                f"sampler.slots_buckets, {self._sampler.longest}; shorten the prompt or add a larger bucket"
            )

    def _completion(self, draft: _Draft, grammar: Grammar | None) -> Completion:
        finished = draft.tokens[-1] in self._sampler.stop_ids
        rules, forced = [0] * len(draft.tokens), [False] * len(draft.tokens)
        if grammar:
            rules, forced, _ = grammar.read(draft.begun, draft.tokens, draft.room)
        return Completion(draft.tokens, draft.logprobs, finished, draft.value, [False, *forced[1:]], rules, draft.means)


@dataclasses.dataclass
class _Draft:
    """A completion in the making."""

    key: np.ndarray  # uint32 [2]
    begun: int  # the grammar's state before it
    room: int  # tokens that it may have
    end: int  # the row's length at which it is cut off
    tokens: list[int] = dataclasses.field(default_factory=list)
    logprobs: list[float] = dataclasses.field(default_factory=list)
    means: list[float] = dataclasses.field(default_factory=list)
    value: float = math.nan
    rule: int = 0  # the grammar's state behind it

    def __post_init__(self):
        self.rule = self.begun

    def add(self, value: float, tokens: list[int], logprobs: list[float], means: Sequence[float] = ()) -> None:
        if not self.tokens:
            self.value = value
        self.tokens += tokens
        self.logprobs += logprobs
        self.means += means


_take = jax.jit(step.take, static_argnames="width")
_put = jax.jit(step.put, donate_argnames="caches")
_widen = jax.jit(step.widen, static_argnames="slots")
_permute = jax.jit(step.permute)
