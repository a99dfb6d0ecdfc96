"""The reward of a step (MMA §3.4, Eq. 3)."""

from __future__ import annotations

import dataclasses

import numpy as np

from mma_jax.envs.fusion import fuse
from mma_jax.metrics.ranking import ndcg

CUTOFF = 10


@dataclasses.dataclass(frozen=True)
class Costs:
    """The lambdas of Eq. 3, added to the return as they are."""

    tool: float = -0.02
    ask: float = -0.10
    invalid: float = -0.20  # invalid JSON, unknown tool, bad arguments, malformed terminal, repeated Null


def terminal_reward(first_stage: np.ndarray, agent: np.ndarray, target: int, alpha: float) -> float:
    """NDCG@10 of the ranking by Eq. 2, expected over the order of ties.

    Args:
        first_stage: [B] normalized first-stage scores.
        agent: [B] raw scores of the agent, nan where it gave none.
        target: row of the target in the pool; -1, which is worth 0, if it is not there.
        alpha: weight of the first stage.
    """
    return float(ndcg(fuse(first_stage, agent, alpha), np.asarray(target), CUTOFF))
