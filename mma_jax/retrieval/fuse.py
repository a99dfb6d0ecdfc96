"""Several surviving modalities, one ranking (DESIGN: normalized mean by default)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def fuse(score_matrices: Sequence[np.ndarray]) -> np.ndarray:
    """Mean over sources of each query's min–max normalized scores: float32 [Q, I] in [0, 1].

    A source takes part with its finite entries; an item it cannot score (-inf) and every item of a row it scores
    alike count 0 there.
    """
    return np.mean([normalize(scores) for scores in score_matrices], axis=0, dtype=np.float32)


def normalize(scores: np.ndarray) -> np.ndarray:
    """Per row (x - min) / (max - min) over its finite entries: float32 [Q, I]; the rest, and constant rows, are 0."""
    finite = np.isfinite(scores)
    low = np.min(scores, axis=1, keepdims=True, where=finite, initial=np.inf)
    high = np.max(scores, axis=1, keepdims=True, where=finite, initial=-np.inf)
    spread = high - low
    varied = finite & (spread > 0)
    return np.divide(scores - low, spread, out=np.zeros(scores.shape, np.float32), where=varied, casting="same_kind")
