"""Ranking metrics, one value per episode or user.

Two settings:

* **Scores with one target** (`positions`, `ndcg`, `hit_rate`, `mrr`): the setting of MMA §3.3. Tied items stand in
  uniformly random order, and every metric is its exact expectation over that order, so that a constant scorer earns
  what chance earns. With g items strictly above the target and t tied with it (itself included), the target's rank
  is uniform on g+1 .. g+t; a metric worth w(r) at rank r has the expectation (W(g+t) - W(g)) / t, where W is the
  running sum of w.
* **Ranked lists with sets of relevant items** (`ndcg_at`, `recall_at`, `precision_at`, `map_at`): the order of the
  list is final, ties included. Definitions are those of TREC with binary gains.
"""

from __future__ import annotations

import functools

import numpy as np


def positions(scores: np.ndarray, target: np.ndarray | int) -> tuple[np.ndarray | int, np.ndarray | int]:
    """Where the target stands: items strictly above it and items tied with it, itself included.

    Args:
      scores: [..., B], higher is better; infinities are allowed.
      target: int [...], column of the target, or -1 if it is not in the list.

    Returns:
      greater, ties: int [...], plain ints for one row of scores. A target of -1 gives (B, 0): below every item and
      tied with none.

    Raises:
      ValueError: a score is nan, or a target is no column.
    """
    scores = np.asarray(scores)
    size = scores.shape[-1]
    if scores.ndim == 1:  # one episode, inside an environment's step: no batch machinery
        target = int(target)
        _check(scores, target, target, size)
        if target < 0:
            return size, 0
        own = scores[target]
        return np.count_nonzero(scores > own), np.count_nonzero(scores == own)

    target = np.asarray(target)
    if target.shape != scores.shape[:-1]:
        raise ValueError(f"target has shape {target.shape}, scores {scores.shape} want {scores.shape[:-1]}")
    if not target.size:
        return np.zeros(target.shape, np.int64), np.zeros(target.shape, np.int64)
    _check(scores, target.min(), target.max(), size)
    own = np.take_along_axis(scores, np.maximum(target, 0)[..., None], axis=-1)
    inside = target >= 0
    greater = np.where(inside, (scores > own).sum(axis=-1), size)
    ties = np.where(inside, (scores == own).sum(axis=-1), 0)
    return greater, ties


def ndcg(scores: np.ndarray, target: np.ndarray | int, k: int = 10) -> np.ndarray:
    """Expected NDCG@k of one relevant item: 1 / log2(rank + 1) up to rank k. float64 [...]; a target of -1 gives 0."""
    return expectation(running_gain(k), *positions(scores, target))


def mean_ndcg(scores: np.ndarray, probability: np.ndarray, k: int = 10) -> np.ndarray:
    """NDCG@k on average over which candidate is the target. scores, probability: [E, B], rows of the latter summing to
    1. float64 [E]."""
    each = [ndcg(scores, np.full(len(scores), target), k) for target in range(scores.shape[1])]
    return (np.stack(each, axis=1) * probability).sum(axis=1)


def hit_rate(scores: np.ndarray, target: np.ndarray | int, k: int = 10) -> np.ndarray:
    """Probability that the target is among the first k. float64 [...]; a target of -1 gives 0."""
    return expectation(running_hit(k), *positions(scores, target))


def mrr(scores: np.ndarray, target: np.ndarray | int) -> np.ndarray:
    """Expected 1 / rank over the whole list. float64 [...]; a target of -1 gives 0."""
    return expectation(running_reciprocal(np.shape(scores)[-1]), *positions(scores, target))


def ndcg_at(ranked: np.ndarray, relevant: np.ndarray, k: int) -> np.ndarray:
    """NDCG@k with binary gains (Järvelin and Kekäläinen, 2002). float64 [Q], nan for a row with no relevant item.

    Args:
      ranked: int [Q, L] item lists, best first; -1 fills rows that are shorter.
      relevant: int [Q, R] relevant items in any order; -1 fills.
      k: cutoff; may exceed L.

    Raises:
      ValueError: an item is listed twice in a row of either array.
    """
    hits, count = _hits(ranked, relevant, k)
    gain = running_gain(k)
    with np.errstate(invalid="ignore"):
        return (hits * np.diff(gain)[: hits.shape[1]]).sum(axis=1) / gain[np.minimum(count, k)]


def recall_at(ranked: np.ndarray, relevant: np.ndarray, k: int) -> np.ndarray:
    """Share of the relevant items among the first k. Arguments, errors and nan as in `ndcg_at`."""
    hits, count = _hits(ranked, relevant, k)
    with np.errstate(invalid="ignore"):
        return hits.sum(axis=1) / count


def precision_at(ranked: np.ndarray, relevant: np.ndarray, k: int) -> np.ndarray:
    """Relevant items among the first k, over k even if the list is shorter. Otherwise as `ndcg_at`."""
    hits, count = _hits(ranked, relevant, k)
    return np.where(count > 0, hits.sum(axis=1) / k, np.nan)


def map_at(ranked: np.ndarray, relevant: np.ndarray, k: int) -> np.ndarray:
    """Average precision of the first k, divided by the number of relevant items (TREC). Otherwise as `ndcg_at`."""
    hits, count = _hits(ranked, relevant, k)
    precision = np.cumsum(hits, axis=1) / np.arange(1, hits.shape[1] + 1)
    with np.errstate(invalid="ignore"):
        return (precision * hits).sum(axis=1) / count


def _check(scores: np.ndarray, lowest: int, highest: int, size: int) -> None:
    if lowest < -1 or highest >= size:
        raise ValueError(f"targets must lie in -1..{size - 1}, got {lowest}..{highest}")
    top = scores.max()  # nan if any score is; cheaper than isnan().any()
    if top != top:
        raise ValueError("scores must not be nan")


def expectation(running: np.ndarray, greater: np.ndarray | int, ties: np.ndarray | int) -> np.ndarray:
    """Mean weight of the ranks greater+1 .. greater+ties of `positions`, float64 [...]; nothing is worth beyond k.

    running: float64 [k + 1], sums of the weights of ranks 1 .. r, for r = 0 .. k.
    """
    k = len(running) - 1
    if isinstance(greater, int):
        return (running[min(greater + ties, k)] - running[min(greater, k)]) / max(ties, 1)
    return (running[np.minimum(greater + ties, k)] - running[np.minimum(greater, k)]) / np.maximum(ties, 1)


@functools.cache
def running_gain(k: int) -> np.ndarray:
    """DCG of r relevant items in front, r = 0..k."""
    return _running(1.0 / np.log2(np.arange(2, k + 2)))


@functools.cache
def running_hit(k: int) -> np.ndarray:
    """How many of the first r ranks there are, r = 0..k."""
    return _running(np.ones(k))


@functools.cache
def running_reciprocal(k: int) -> np.ndarray:
    """Sum of 1 / rank of the first r ranks, r = 0..k."""
    return _running(1.0 / np.arange(1, k + 1))


def _running(weights: np.ndarray) -> np.ndarray:
    if not len(weights):
        raise ValueError("the cutoff k must be at least 1")
    running = np.concatenate([[0.0], np.cumsum(weights)])
    running.flags.writeable = False  # cached and shared
    return running


def _hits(ranked: np.ndarray, relevant: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """bool [Q, min(k, L)] of relevant items in the list, and int [Q] the number of relevant items."""
    if k < 1:
        raise ValueError("the cutoff k must be at least 1")
    ranked, relevant = _codes(ranked, relevant)
    return np.isin(ranked[:, :k], relevant[relevant >= 0]), (relevant >= 0).sum(axis=1)


def _codes(ranked: np.ndarray, relevant: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same items as numbers that differ from row to row, so that one set operation serves all rows."""
    ranked, relevant = np.asarray(ranked, np.int64), np.asarray(relevant, np.int64)
    if ranked.ndim != 2 or relevant.ndim != 2 or len(ranked) != len(relevant):
        raise ValueError(f"ranked {ranked.shape} and relevant {relevant.shape} must be [Q, L] and [Q, R]")
    stride = 1 + max(ranked.max(initial=0), relevant.max(initial=0))
    offset = np.arange(len(ranked))[:, None] * stride
    coded = []
    for name, items in (("ranked", ranked), ("relevant", relevant)):
        codes = np.where(items >= 0, items + offset, -1)
        listed = codes[codes >= 0]
        if len(np.unique(listed)) != len(listed):
            raise ValueError(f"{name} lists an item twice in one row")
        coded.append(codes)
    return coded[0], coded[1]
