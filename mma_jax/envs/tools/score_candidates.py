"""Score_Candidates: the terminal action (MMA §3.3)."""

from __future__ import annotations

from itertools import repeat

import numpy as np

from mma_jax.envs.evidence import Evidence
from mma_jax.envs.tools.schema import Handle, handles
from mma_jax.types import Case


def score_candidates(evidence: Evidence, case: Case, scores: dict[Handle, float]) -> np.ndarray:
    """End with relevance scores, higher is better; a candidate left out keeps its first-stage score.

    Returns float64 [B], nan where the agent gave no score.
    """
    return np.array([*map(scores.get, handles(len(case.pool)), repeat(np.nan))], np.float64)
