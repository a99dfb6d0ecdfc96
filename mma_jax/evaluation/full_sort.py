"""Every item of the catalog ranked for every user, and where the held-out ones stand.

An item that the user has already taken is no candidate. Ties stand in uniformly random order and every metric is its
expectation over that order, as in `metrics.ranking`: with g candidates strictly above a target and t tied with it
(itself included) its rank is uniform on g+1 .. g+t. With R targets of one user:

    recall@k   E[targets among the first k] / R
    ndcg@k     E[sum over targets of [rank <= k] / log2(rank + 1)] / the same sum for ranks 1 .. min(R, k)
    hr@k       E[[rank <= k]] of the best-scored target
    mrr@k      E[[rank <= k] / rank] of the best-scored target

The first two are linear in the targets, so exact for any number of them; the last two are exact as long as the best two
targets of a user do not tie with each other. Counting the items above a target takes one pass over the user's scores
and no sorting; taken items are counted apart and taken off, so that scores are never copied or masked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from mma_jax.baselines.corpus import ALL, Corpus, Query, ask
from mma_jax.metrics import ranking
from mma_jax.types import InputError

Score = Callable[[Query, None], np.ndarray]
"""score(query, None) -> float32 [Q, I], as `baselines.fit.Scorer` does; higher is better."""


class Lists(NamedTuple):
    """A list of items for each of Q users, end to end."""

    starts: np.ndarray  # int64 [Q + 1]: those of user q are items[starts[q] : starts[q + 1]]
    items: np.ndarray  # int32 [N]

    def of(self, first: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """(row int64 [n], counted from `first`; item int32 [n]) of the users first .. end - 1."""
        counts = np.diff(self.starts[first : end + 1])
        return np.repeat(np.arange(end - first), counts), self.items[self.starts[first] : self.starts[end]]

    def last(self, first: int, end: int, length: int) -> np.ndarray:
        """int32 [end - first, length]: the ends of lists, -1 in front."""
        places = self.starts[first + 1 : end + 1, None] - length + np.arange(length)
        there = places >= self.starts[first:end, None]
        return np.where(there, np.append(self.items, np.int32(-1))[np.where(there, places, -1)], -1)


class Held(NamedTuple):
    """Users, what they have taken, and what they take next."""

    users: np.ndarray  # int [Q]
    history: Lists  # what a model is shown, oldest first
    seen: Lists  # no candidates
    targets: Lists  # at least one each, none of them seen


def lists(users: np.ndarray, rows: np.ndarray, items: np.ndarray) -> Lists:
    """The items int [N] of rows int [N], for users int [Q] sorted; a user's items keep their order."""
    order = np.argsort(rows, kind="stable")
    ranked = rows[order]
    starts, ends = np.searchsorted(ranked, users), np.searchsorted(ranked, users, "right")
    kept = np.isin(ranked, users)
    return Lists(np.concatenate([[0], np.cumsum(ends - starts)]), items[order][kept].astype(np.int32))


def evaluate(
    score: Score,
    corpus: Corpus,
    held: Held,
    cutoffs: Sequence[int] = (10, 20),
    history: int = 50,
    chunk: int = 512,
) -> dict[str, np.ndarray]:
    """Gives "hr@k", "recall@k", "ndcg@k", "mrr@k" for each cutoff: float64 [Q].

    Args:
        score: of the whole catalog.
        corpus: of I items, what `score` learned from.
        held: Q users.
        cutoffs: each k.
        history: items of a history that a model is shown.
        chunk: users that are scored at once; memory is chunk x I.

    Raises:
        InputError: a user without a target, or with a seen one; a score that is nan.
    """
    if (np.diff(held.targets.starts) < 1).any():
        raise InputError("full-sort evaluation needs a target of every user; leave out those who have none")
    parts = []
    for first in range(0, len(held.users), chunk):
        end = min(first + chunk, len(held.users))
        query = _query(corpus, held, first, end, history, min(chunk, len(held.users)))
        scores = np.asarray(score(query, None))[: end - first]
        parts.append(_standing(scores, held, first, end))
    greater, ties = (np.concatenate(part) for part in zip(*parts, strict=True))
    return _metrics(greater, ties, held.targets, cutoffs)


def _query(corpus: Corpus, held: Held, first: int, end: int, length: int, size: int) -> Query:
    """The users first .. end - 1, the last one repeated up to `size`: one shape, one program."""
    rows = np.minimum(np.arange(size), end - first - 1)
    return ask(corpus, held.users[first + rows], held.history.last(first, end, length)[rows], np.tile(ALL, (size, 1)))


def _standing(scores: np.ndarray, held: Held, first: int, end: int) -> tuple[np.ndarray, np.ndarray]:
    """(candidates strictly above, tied ones and itself): int64 [n] each, of the targets of users first .. end - 1."""
    if np.isnan(scores.max(initial=-np.inf)):  # nan if any is
        raise InputError("full-sort evaluation: a score is nan")
    row, item = held.targets.of(first, end)
    taken_row, taken_item = held.seen.of(first, end)
    size = scores.shape[1]
    pairs = np.unique(taken_row * size + taken_item)  # whoever took an item twice has one candidate less, not two
    seen_row, seen_item = np.divmod(pairs, size)
    if np.isin(row * size + item, pairs).any():
        raise InputError("full-sort evaluation: a target is among the items that its user has taken before")
    own, seen = (
        scores[row, item],
        np.split(scores[seen_row, seen_item], np.searchsorted(seen_row, range(1, end - first))),
    )
    above, level = np.empty((2, len(row)), np.int64)
    for place, (user, value) in enumerate(zip(row, own, strict=True)):  # row by row it stays in the cache
        above[place] = np.count_nonzero(scores[user] > value) - np.count_nonzero(seen[user] > value)
        level[place] = np.count_nonzero(scores[user] == value) - np.count_nonzero(seen[user] == value)
    return above, level


def _metrics(greater: np.ndarray, ties: np.ndarray, targets: Lists, cutoffs: Sequence[int]) -> dict[str, np.ndarray]:
    """Per user, from the standing int64 [N] of each target."""
    starts, count = targets.starts[:-1], np.diff(targets.starts)
    best = np.lexsort((greater, np.repeat(np.arange(len(count)), count)))[starts]
    found = {}
    for k in cutoffs:
        hit, gain, reciprocal = ranking.running_hit(k), ranking.running_gain(k), ranking.running_reciprocal(k)
        found |= {
            f"hr@{k}": ranking.expectation(hit, greater[best], ties[best]),
            f"recall@{k}": np.add.reduceat(ranking.expectation(hit, greater, ties), starts) / count,
            f"ndcg@{k}": np.add.reduceat(ranking.expectation(gain, greater, ties), starts) / gain[np.minimum(count, k)],
            f"mrr@{k}": ranking.expectation(reciprocal, greater[best], ties[best]),
        }
    return found
