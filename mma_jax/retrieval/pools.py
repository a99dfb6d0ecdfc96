"""Candidate pools around a first stage (MMA §3.1, §4.1).

A target-positive pool holds the target and B - 1 hard negatives. Three kinds:

- "paper": the target joins the top B - 1 negatives. If it is not among the best B of itself and all negatives, it is
  then always last, so a scorer that only *reverses* the ranking looks brilliant.
- "calibrated" (default): a target among those best B keeps the plain pool. Any other is given a
  within-pool rank drawn from the rank distribution of the former, of *training* targets, and the negatives
  that stand around its true rank. Then rank and score alone carry no more than the first stage says:
  the distribution never increases, so that no reordering by rank can beat the first stage.
  At the bottom of the catalogue, where items without the modality tie, there are not enough negatives below; a
  drawn rank cannot be had, the target would be last again, and so the first stage is made to say nothing (all s0
  equal).
- "top": the first stage's top B as it is (full-catalog protocol); the target may be absent.

Ties are broken by a seeded shuffle that knows nothing of the target, both when items are ordered and
again when ranks within the pool are written down; otherwise a block of tied items would leak the drawn rank.

Targets are more popular than the catalogue, so whoever knows a candidate's popularity, even where a mask hides it (a
model that has memorised the catalogue does), ranks well without any taste. With `pool.negatives=popularity` every query
plays in a sample of the catalogue that is as popular as training targets are (`matched`); pools of the target-positive
kinds are made as if there were nothing else.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import optimize, special

KINDS = ("calibrated", "paper")
"""The target-positive kinds."""

NEGATIVES = ("all", "popularity")
"""What a target-positive pool's negatives are taken from: every item, or a sample as popular as targets are."""

BINS = 10  # of `target_density`


@dataclasses.dataclass(frozen=True, eq=False)
class Query:
    """One (user, target) to build a pool for."""

    history: np.ndarray  # int32 [H] the most recent earlier items, from which evidence is made
    seen: np.ndarray  # int32 all earlier items: never candidates
    known: np.ndarray  # int32 [P] the user's positives in the target's part and before, later ones too: never negatives
    target: int
    key: int  # seeds every random choice of this query
    absent: np.ndarray | None = None  # int32 items that `matched` has left out of the catalogue

    @property
    def no_negatives(self) -> np.ndarray:
        """Items that a target-positive pool may not hold beside the target."""
        items = np.concatenate([self.seen, self.known, *([] if self.absent is None else [self.absent])])
        return items[items != self.target]


@dataclasses.dataclass(frozen=True, eq=False)
class Pool:
    """A shuffled pool. `scores` are min–max normalised within the pool (a constant stays constant)."""

    items: np.ndarray  # int32 [B]
    scores: np.ndarray  # float32 [B]
    ranks: np.ndarray  # int32 [B], 1 = best
    recalled: bool  # the target is in the first stage's top B of all unseen items
    inserted: bool  # the target stands where the kind's rule put it, not where the first stage does


def seeded(seed: int, *key: int) -> np.random.Generator:
    """A generator that depends on nothing but (seed, key)."""
    return np.random.default_rng((seed, *key))


def catalog_order(scores: np.ndarray, excluded: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Item ids of one query, best first; exact ties in random order, `excluded` items left out.

    scores: float32 [I], finite. Returns int32 [I - len(set(excluded))].
    """
    shuffled = rng.permutation(len(scores)).astype(np.int32)
    keep = np.ones(len(scores), bool)
    keep[excluded] = False
    shuffled = shuffled[keep[shuffled]]
    return shuffled[np.argsort(-scores[shuffled], kind="stable")]


def target_ranks(scores: np.ndarray, queries: list[Query], seed: int, negatives_only: bool = False) -> np.ndarray:
    """0-based catalogue rank of each target among unseen items, ties broken at random: recall@k before insertion.

    scores: float32 [Q, I]. negatives_only: rank it among possible negatives instead, as a pool does, without the
    user's later positives. Returns int64 [Q].
    """
    ranks = np.empty(len(queries), np.int64)
    for row, query in enumerate(queries):
        own = scores[row, query.target]
        outside = np.ones(scores.shape[1], bool)
        outside[query.no_negatives if negatives_only else query.seen] = False
        outside[query.target] = False
        above = int((scores[row, outside] > own).sum())
        tied = int((scores[row, outside] == own).sum())
        ranks[row] = above + seeded(seed, query.key).integers(tied + 1)
    return ranks


def rank_distribution(ranks: np.ndarray, size: int) -> np.ndarray:
    """Distribution of within-pool ranks of recalled targets, float64 [size], never increasing.

    ranks: int [n] 0-based catalogue ranks of training targets; those beyond `size` are unrecalled and ignored.

    A power law P(r) ~ (1 + r)^-a with a >= 0 by maximum likelihood. One parameter, because the ranks drawn from it
    become the first stage's own success: a monotone histogram, fitted to the few dozen targets that a weak source
    recalls, finds a slope in pure noise (33 targets anywhere in 20 ranks: .274 NDCG@10; this .246; chance .227).
    """
    log_rank = np.log1p(np.arange(size))
    recalled = ranks[ranks < size]
    if len(recalled) == 0:
        return np.full(size, 1.0 / size)
    mean = log_rank[recalled].mean()

    def loss(exponent: float) -> float:
        return exponent * mean + special.logsumexp(-exponent * log_rank)

    exponent = optimize.minimize_scalar(loss, bounds=(0.0, 5.0), method="bounded").x
    return special.softmax(-exponent * log_rank)


def popularity_ranks(counts: np.ndarray, seed: int) -> np.ndarray:
    """Rank of each item by how often it was taken, 0 the most popular, ties in random order. int64 [I]."""
    ranks = np.empty(len(counts), np.int64)
    ranks[np.lexsort((np.random.default_rng(seed).permutation(len(counts)), -counts))] = np.arange(len(counts))
    return ranks


def target_density(ranks: np.ndarray, items: int) -> np.ndarray:
    """How often an item of each popularity rank is a target, as a histogram of BINS bins with equally many targets.

    ranks: int64 [n], popularity ranks of training targets, at least one. Returns float64 [items], above 0.
    """
    edges = np.unique(np.append(np.quantile(ranks, np.arange(BINS) / BINS, method="lower"), items))
    edges[0] = 0
    sizes = np.diff(edges)
    return np.repeat(np.histogram(ranks, edges)[0] / sizes, sizes)


def matched(query: Query, weights: np.ndarray, size: int, seed: int) -> Query:
    """The query with a sample of the catalogue, each item kept or not for itself, with a chance in proportion to its
    weight; the largest weight is kept for certain, and no fewer items than a pool needs.

    Args:
        query: its `absent` is replaced.
        weights: float64 [I], above 0, `target_density` at each item's rank.
        size: of the pool.
        seed: with the query's key, of the sample.
    """
    possible = np.setdiff1d(np.arange(len(weights)), np.append(query.no_negatives, query.target))
    draws = seeded(seed, query.key, 1).random(len(possible)) / weights[possible] * weights.max()
    kept = max(size - 1, int((draws < 1).sum()))
    return dataclasses.replace(query, absent=possible[np.argsort(draws)[kept:]].astype(np.int32))


def build_pool(
    kind: str, scores: np.ndarray, query: Query, size: int, distribution: np.ndarray | None, seed: int
) -> Pool:
    """The pool of one query.

    scores: float32 [I] finite first-stage scores. distribution: float64 [size], for kind "calibrated" only.
    """
    rng = seeded(seed, query.key)
    order = catalog_order(scores, query.seen[query.seen != query.target], rng)
    recalled = bool((order[:size] == query.target).any())
    if kind == "top":
        return _finish(order[:size], scores, recalled, inserted=False, rng=rng)
    order = order[~np.isin(order, query.no_negatives)]
    place = int(np.flatnonzero(order == query.target)[0])
    inserted = place >= size
    chosen = order[:size]
    if inserted and kind == "paper":
        chosen = np.append(order[: size - 1], np.int32(query.target))
    elif inserted:
        start = max(0, place - int(rng.choice(size, p=distribution)))
        if start + size > len(order):  # nothing stands deep enough below
            start, scores = len(order) - size, np.zeros_like(scores)
        chosen = order[start : start + size]
    return _finish(chosen, scores, recalled, inserted, rng)


def _finish(chosen: np.ndarray, scores: np.ndarray, recalled: bool, inserted: bool, rng: np.random.Generator) -> Pool:
    items = rng.permutation(chosen)
    own = scores[items].astype(np.float64)
    ranks = np.empty(len(items), np.int32)
    ranks[np.argsort(-own, kind="stable")] = np.arange(1, len(items) + 1)
    span = own.max() - own.min()
    normalized = (own - own.min()) / span if span > 0 else np.zeros(len(items))
    return Pool(items.astype(np.int32), normalized.astype(np.float32), ranks, recalled, inserted)
