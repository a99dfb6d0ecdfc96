"""What learning sees of an episode: token ids as they were sampled and fed, and who wrote which of them.

Nothing here knows environments or text. T = tokens, n = turns played, N = rows, M = turns at most.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from mma_jax.types import InputError


@dataclasses.dataclass(frozen=True, eq=False)
class Sequence:
    """One episode as a row of tokens: prompt, completion, observation, completion, ..."""

    tokens: np.ndarray  # int32 [T], never re-tokenized
    action: np.ndarray  # bool [T], the token was sampled by the policy: the loss mask
    turn: np.ndarray  # int32 [T], 0-based turn of a sampled token, -1 elsewhere
    starts: np.ndarray  # int32 [n], index of each turn's last prompt token, where V(H) is read
    rewards: np.ndarray  # float32 [n], Eq. 3
    logprobs: np.ndarray  # float32 [T], the sampler's log-probability of a sampled token, 0 elsewhere
    episode: str  # episode_id; samples of one episode are siblings
    family: str  # key of types.FAMILIES
    credit: np.ndarray | None = None  # float32 [T], a token's own advantage, nan where it has its turn's; None: all nan
    rules: np.ndarray | None = None  # int32 [T], what a grammar allowed where the token stands; 0, None: everything
    choices: np.ndarray | None = None  # int32 [T, L], tokens that could have stood there, -1 where it is not known
    worth: np.ndarray | None = None  # float32 [T, L], what each would have earned, nan where it is not known
    values: np.ndarray | None = None  # float32 [n], V(H) at `starts` as the sampler computed it; None: not known

    def __post_init__(self) -> None:
        """Raises ValueError where the fields contradict each other, which would train on the wrong tokens."""
        turns, played = len(self.starts), np.unique(self.turn[self.action])
        consistent = (
            self.tokens.shape == self.action.shape == self.turn.shape == self.logprobs.shape
            and np.array_equal(self.action, self.turn >= 0)
            and np.array_equal(played, np.arange(turns))
            and len(self.rewards) == turns
            and all(start == np.argmax(self.turn == turn) - 1 >= 0 for turn, start in enumerate(self.starts))
        )
        if not consistent:
            raise ValueError(f"episode {self.episode}: masks, turns, starts and rewards of the sequence disagree")

    def __len__(self) -> int:
        return len(self.tokens)


class Batch(NamedTuple):
    """Sequences side by side, padded on the right; padding has action False, turn -1 and turn_mask False."""

    tokens: np.ndarray  # int32 [N, T]
    action: np.ndarray  # bool [N, T]
    turn: np.ndarray  # int32 [N, T]
    starts: np.ndarray  # int32 [N, M], 0 where there is no turn
    rewards: np.ndarray  # float32 [N, M]
    turn_mask: np.ndarray  # bool [N, M]
    logprobs: np.ndarray  # float32 [N, T]
    credit: np.ndarray  # float32 [N, T], nan where a token has none of its own
    rules: np.ndarray | None = None  # int32 [N, T], what a grammar allowed there; 0, None: everything
    choices: np.ndarray | None = None  # int32 [N, T, L], tokens that could have stood there, -1 where it is not known
    worth: np.ndarray | None = None  # float32 [N, T, L], what each would have earned, nan where it is not known


def pad(sequences: list[Sequence], buckets: Iterable[int], max_turns: int, rows: int | None = None) -> Batch:
    """Puts sequences side by side.

    Args:
        sequences: at least one.
        buckets: lengths that may be compiled; the batch gets the smallest that holds every sequence.
        max_turns: M.
        rows: N; what is missing is filled with rows of nothing. None for len(sequences).

    Raises:
        InputError: a sequence is longer than the largest bucket or has more than `max_turns` turns.
    """
    shape = (rows or len(sequences), bucket_of(max(map(len, sequences)), buckets))
    turns = (shape[0], max_turns)
    if (most := max(len(sequence.starts) for sequence in sequences)) > max_turns:
        raise InputError(f"a sequence has {most} turns, more than the {max_turns} of env.turns: raise it")
    levels = next((s.choices.shape[1] for s in sequences if s.choices is not None), None)
    by_level = (*shape, levels)
    return Batch(
        tokens=stack((s.tokens for s in sequences), shape, 0, np.int32),
        action=stack((s.action for s in sequences), shape, False, bool),
        turn=stack((s.turn for s in sequences), shape, -1, np.int32),
        starts=stack((s.starts for s in sequences), turns, 0, np.int32),
        rewards=stack((s.rewards for s in sequences), turns, 0, np.float32),
        turn_mask=stack((np.ones(len(s.starts)) for s in sequences), turns, False, bool),
        logprobs=stack((s.logprobs for s in sequences), shape, 0, np.float32),
        credit=stack((() if s.credit is None else s.credit for s in sequences), shape, np.nan, np.float32),
        rules=stack((() if s.rules is None else s.rules for s in sequences), shape, 0, np.int32),
        choices=stack((s.choices for s in sequences), by_level, -1, np.int32) if levels else None,
        worth=stack((s.worth for s in sequences), by_level, np.nan, np.float32) if levels else None,
    )


def bucket_of(length: int, buckets: Iterable[int]) -> int:
    """The smallest bucket that holds `length` tokens. Raises InputError if none does."""
    fitting = [bucket for bucket in buckets if bucket >= length]
    if not fitting:
        raise InputError(
            f"a sequence of {length} tokens is longer than every bucket {tuple(buckets)}: add a larger one"
        )
    return min(fitting)


def stack(rows: Iterable[np.ndarray], shape: tuple[int, ...], fill: float, dtype) -> np.ndarray:
    """Ragged rows -> [N, T, ...] of `dtype`, filled on the right and below."""
    out = np.full(shape, fill, dtype)
    for index, row in enumerate(rows):
        out[index, : len(row)] = row
    return out


def siblings(sequences: list[Sequence]) -> np.ndarray:
    """int32 [N], the same number for samples of the same episode, counted from 0."""
    return np.unique([sequence.episode for sequence in sequences], return_inverse=True)[1].astype(np.int32)
