"""Trajectories -> one row per episode -> result rows. Every method goes through here, whatever it is.

Eq. 2 fuses the agent's scores with the first stage's; its weight is chosen on validation once per dataset, protocol
and method (DESIGN §5.6), for each training seed, whose model is its own, and never per family: that would reveal the
mask.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from mma_jax.envs.fusion import fuse
from mma_jax.metrics import diagnostics, ranking
from mma_jax.types import Trajectory

CUTOFFS = (10, 20)
EXPECTED = "expected_ndcg@10"
"""NDCG@10 on average over the targets that an episode's surviving evidence leaves possible, as the generated world's
posterior has them: the same mean without the luck of the one that was drawn, so that far smaller differences show.
It is some thousandths too high (notebooks/LOG.md): compare by it, and take the level from NDCG@10."""


def alpha_grid(step: float) -> np.ndarray:
    """{0, step, …, 1}. step: 1 over a whole number."""
    return np.linspace(0.0, 1.0, round(1.0 / step) + 1)


def fused_scores(trajectories: list[Trajectory], alpha: float | None) -> np.ndarray:
    """float64 [E, B] final scores of Eq. 2; an episode without scores keeps its first stage.

    alpha: None for controls and bounds, whose scores stand for themselves: where all are equal, that is a tie, and not
        the first stage.
    """
    first = np.stack([t.episode.case.scores for t in trajectories]).astype(np.float64)
    own = np.stack([t.scores for t in trajectories])
    if alpha is None:
        return np.where(np.isfinite(own).all(axis=1, keepdims=True), own, fuse(first, own, 0.0))
    return fuse(first, own, alpha)


def choose_alpha(validation: list[Trajectory], step: float) -> tuple[float, float]:
    """The fusion weight with the best mean NDCG@10 on validation, the smallest of equals; and that NDCG@10."""
    targets, grid = _targets(validation), alpha_grid(step)
    values = [ranking.ndcg(fused_scores(validation, alpha), targets, 10).mean() for alpha in grid]
    best = int(np.argmax(np.round(values, 12)))
    return float(grid[best]), float(values[best])


def episode_rows(trajectories: list[Trajectory], alpha: float | None, belief: np.ndarray | None = None) -> list[dict]:
    """One dict per episode: identity, ranking metrics, routing diagnostics (nan where undefined).

    belief: float64 [E, B], P(target = candidate) of whoever knows the world, for EXPECTED.
    """
    scores, targets = fused_scores(trajectories, alpha), _targets(trajectories)
    columns = {f"ndcg@{k}": ranking.ndcg(scores, targets, k) for k in CUTOFFS}
    columns |= {f"hr@{k}": ranking.hit_rate(scores, targets, k) for k in CUTOFFS}
    columns["mrr"] = ranking.mrr(scores, targets)
    if belief is not None:
        columns[EXPECTED] = ranking.mean_ndcg(scores, belief)
    rows = []
    for n, trajectory in enumerate(trajectories):
        episode = trajectory.episode
        row = {"episode_id": episode.episode_id, "user": episode.user, "subset": episode.family}
        row |= {"recalled": episode.recalled, "inserted": episode.inserted}
        row[f"recall@{scores.shape[1]}"] = float(episode.recalled)  # of the first stage, before any insertion
        row |= {name: float(values[n]) for name, values in columns.items()}
        if trajectory.prompt:  # it was played, not judged from a score table
            row |= diagnostics.diagnose(trajectory)
        rows.append(row)
    return rows


def result_rows(rows: list[dict], alpha: float | None, valid: float | None = None) -> list[dict]:
    """{"subset", "metric", "value", "n"} for all episodes, each family, and recalled and inserted targets apart; none
    for what no episode is. A target may be neither: recalled among negatives alone, or absent from a fixed pool.

    alpha: the fusion weight, None as for `fused_scores`. valid: the NDCG@10 on validation that it was chosen by; None
        where nothing was chosen.
    """
    subsets: dict[str, list[dict]] = {"all": rows}
    for family in dict.fromkeys(row["subset"] for row in rows):
        subsets[family] = [row for row in rows if row["subset"] == family]
    for how in ("recalled", "inserted"):
        subsets[f"all/{how}"] = [row for row in rows if row[how]]
    results = [
        {"subset": subset, "metric": metric, "value": value, "n": len(members)}
        for subset, members in subsets.items()
        for metric, value in _averages(members).items()
    ]
    chosen = {"alpha": alpha or 0.0} | ({} if valid is None else {"valid_ndcg@10": valid})
    return [*results, *({"subset": "all", "metric": name, "value": chosen[name], "n": len(rows)} for name in chosen)]


def _averages(members: list[dict]) -> dict[str, float]:
    if not members:
        return {}
    metrics = [name for name in members[0] if name.startswith(("ndcg@", "hr@", "recall@", "mrr", EXPECTED))]
    values = {name: math.fsum(row[name] for row in members) / len(members) for name in metrics}
    return values | (diagnostics.summarize(members) if "turns" in members[0] else {})


def trace(trajectory: Trajectory, alpha: float | None, titles: tuple[str, ...]) -> dict:
    """An episode for the trace viewer, evaluator's knowledge included (the report is not an agent)."""
    episode, case = trajectory.episode, trajectory.episode.case
    final = fused_scores([trajectory], alpha)[0]
    order = np.lexsort((case.ranks, -final))
    final_rank = np.empty(len(order), int)
    final_rank[order] = np.arange(1, len(order) + 1)
    position = episode.target_position
    row = episode_rows([trajectory], alpha)[0]
    return {
        "episode_id": episode.episode_id,
        "subset": episode.family,
        "family": episode.family,
        "mask": list(case.mask),
        "prompt": [{"role": m.role, "content": m.content} for m in trajectory.prompt],
        "turns": [
            {
                "text": turn.text,
                "tool": turn.tool,
                "args": turn.args if turn.tool != "Score_Candidates" else {},
                "observation": turn.observation,
                "reward": turn.reward,
                "error": turn.error,
                "null": turn.null,
                "value": None if math.isnan(turn.value) else turn.value,
            }
            for turn in trajectory.turns
        ],
        "stop_reason": trajectory.stop_reason,
        "scores": {str(n + 1): float(s) for n, s in enumerate(trajectory.scores) if np.isfinite(s)},
        "candidates": [
            {
                "handle": str(n + 1),
                "title": titles[item],
                "first_stage_rank": int(case.ranks[n]),
                "s0": float(case.scores[n]),
                "final_rank": int(final_rank[n]),
                "final_score": float(final[n]),
                "is_target": n == position,
            }
            for n, item in enumerate(case.pool)
        ],
        "target_rank_before": int(case.ranks[position]) if position >= 0 else None,
        "target_rank_after": int(final_rank[position]) if position >= 0 else None,
        "ndcg@10": row["ndcg@10"],
    }


def _targets(trajectories: Iterable[Trajectory]) -> np.ndarray:
    return np.array([t.episode.target_position for t in trajectories])
