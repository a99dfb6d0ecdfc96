"""Controls that read no evidence. If one of them does well, the benchmark is at fault, not the control clever."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.stats import rankdata

from mma_jax.agents import choice
from mma_jax.types import Case, Episode


def first_stage(case: Case) -> np.ndarray:
    """The pool as it came: float64 [B]."""
    return case.scores.astype(float)


def reverse_rank(case: Case) -> np.ndarray:
    """The pool upside down: float64 [B]."""
    return -case.scores.astype(float)


def popularity_scores(case: Case, popularity: np.ndarray) -> np.ndarray:
    """Popularity where behaviour survives, constant elsewhere (DESIGN §5.2). popularity: int [I], see `GraphStore`."""
    counts = popularity[case.pool].astype(float)
    return counts if case.mask[2] else np.zeros_like(counts)


def rank_features(case: Case) -> np.ndarray:
    """Smooth and sharp functions of rank and s0, float64 [B, 10]: enough to learn "last wins" or "middle wins"."""
    size, score = len(case.pool), case.scores.astype(float)
    rank = rankdata(-score)  # ties share their mean rank: where the first stage says nothing, neither may its rank
    place = (rank - 1) / max(size - 1, 1)
    return np.stack(
        [
            np.log2(1 + rank),
            1 / rank,
            place,
            place**2,
            rank == 1,
            rank == size,
            score,
            score**2,
            score == 0,
            score == 1,
        ],
        axis=1,
    ).astype(float)


def rank_only(train: list[Episode], l2: float = 10.0) -> Callable[[list[Episode]], np.ndarray]:
    """Fit the scorer "Rank-only" (DESIGN §5.4) on training episodes with the target in the pool.

    Returns a function of episodes: float64 [E, B].
    """
    features = np.concatenate([rank_features(e.case) for e in train])
    model = choice.fit(features, np.array([e.target_position for e in train]), len(train[0].case.pool), l2)
    return lambda episodes: np.stack([model.scores(rank_features(e.case)) for e in episodes])
