"""Fusion of the agent's scores with the first stage's (MMA §3.3, Eq. 2)."""

from __future__ import annotations

import numpy as np


def normalize(first_stage: np.ndarray, agent: np.ndarray) -> np.ndarray:
    """s^MMA float64 [..., B]: the agent's scores, min-max normalized over the candidates it scored.

    A candidate without a score (nan) keeps its first-stage score as it is. A map that carries no order (no
    score, one score, all equal) leaves every candidate with its first-stage score.
    """
    # Halved, which is exact, so that two huge scores of opposite sign lie a finite distance apart.
    half = 0.5 * np.asarray(agent, np.float64)
    low = np.fmin.reduce(half, -1, keepdims=True)  # fmin and fmax skip nan
    high = np.fmax.reduce(half, -1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        scaled = (half - low) / (high - low)
    return np.where((low < high) & (half == half), scaled, first_stage)


def fuse(first_stage: np.ndarray, agent: np.ndarray, alpha: float | np.ndarray) -> np.ndarray:
    """Eq. 2: alpha s0 + (1 - alpha) s^MMA.

    Args:
        first_stage: [..., B] normalized first-stage scores s0.
        agent: [..., B] raw scores of the agent, nan where it gave none.
        alpha: weight of the first stage; an array [A...] gives one result for each of its entries.

    Returns:
        float64 [A..., ..., B].
    """
    first_stage = np.asarray(first_stage, np.float64)
    normalized = normalize(first_stage, agent)
    alpha = np.asarray(alpha, np.float64)
    alpha = alpha.reshape(alpha.shape + (1,) * normalized.ndim)
    fused = alpha * first_stage + (1.0 - alpha) * normalized
    # Where both agree, no rounding may set a candidate apart from its equals.
    return np.where(normalized == first_stage, first_stage, fused)
