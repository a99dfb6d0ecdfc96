"""Where NDCG@10 is lost between a perfect ranking and the one achieved, in parts that sum exactly.

Per episode, with the target in the pool or not, `everything` the ranking of a reference that has all surviving
evidence, `heard` that of the same reference with what this agent's calls brought, `best` the agent's own scores under
the best fusion weight, `achieved` the ranking it is judged by:

    1 - achieved = retrieval     1 - [target in the pool]              the first stage did not find it
                 + uncertainty   [target in the pool] - everything     what even the reference cannot know
                 + routing       everything - heard                    evidence that was there and not called for
                 + scoring       heard - best                          evidence that was heard and not used
                 + fusion        best - achieved                       the validated alpha against the family's best

Regret is routing + scoring + fusion. In the generated world the reference is Bayes. On real data there is no such
bound, and oracles are substituted: the reference is the Evidence-linear scorer, given every answer or those heard,
so an agent that scores better than it has negative scoring regret.

Conventions. The first-stage scores reach every agent for free, so `heard` is fused with them; without that, an agent
that calls nothing would beat its reference. A modality counts as heard once its tool (or Ask_User about it) has
answered: what an Analyze call left out counts as scoring. Who has heard all that survives has no routing regret.
Fusion weights of `heard` and `best` are chosen per family on the very episodes they are judged by (they are oracles),
which flatters them by the little that a choice among 21 can. Episodes that were not played, but judged from a table of
scores, took no route and are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mma_jax.agents import bayes, routers
from mma_jax.agents.notes import TOOL_OF, Notes, read
from mma_jax.agents.rollout import play
from mma_jax.data.world import World
from mma_jax.envs.environment import Environment
from mma_jax.envs.fusion import fuse
from mma_jax.envs.observations import read_observation
from mma_jax.evaluation.judge import alpha_grid, fused_scores
from mma_jax.evaluation.results import Cell
from mma_jax.metrics.diagnostics import asks
from mma_jax.metrics.ranking import ndcg
from mma_jax.types import MODALITIES, Episode, Mask, Trajectory, Turn

LOSSES = ("retrieval", "uncertainty", "routing", "scoring", "fusion")
"""What 1 - achieved consists of."""

PARTS = (*LOSSES, "regret", "achieved")
"""All parts reported; regret = routing + scoring + fusion."""

Reference = Callable[[Sequence[Trajectory]], tuple[np.ndarray, np.ndarray]]
"""Played episodes -> final scores with all surviving evidence, raw scores with what was heard; float64 [E, B] each."""


def decompose(
    cell: Cell, trajectories: Sequence[Trajectory], alpha: float | None, reference: Reference, step: float
) -> list[dict]:
    """Rows of regret.jsonl: the cell's fields, subset ("all" or a family), part, value, se, n.

    Args:
        cell: names the method, for the rows.
        trajectories: of its test episodes.
        alpha: the validated fusion weight it is judged with; None as for `judge.fused_scores`.
        reference: `bayes_reference` or a `FittedReference`.
        step: of the grid of fusion weights; `alpha` should lie on it, or fusion may come out negative.

    Returns:
        value: mean over the episodes of the part; se: its standard error, clustered by user (nan for one user).
        No row if no episode was played.
    """
    played = [t for t in trajectories if t.prompt]
    if not played:
        return []
    parts = split(played, alpha, reference, alpha_grid(step))
    users, of_family = (np.array([getattr(t.episode, name) for t in played]) for name in ("user", "family"))
    subsets = {"all": np.ones(len(played), bool)} | {f: of_family == f for f in dict.fromkeys(of_family.tolist())}
    return [
        {
            **cell._asdict(),
            "subset": subset,
            "part": part,
            "value": float(parts[part][members].mean()),
            "se": clustered_error(parts[part][members], users[members]),
            "n": int(members.sum()),
        }
        for subset, members in subsets.items()
        for part in PARTS
    ]


def split(
    played: Sequence[Trajectory], alpha: float | None, reference: Reference, grid: np.ndarray
) -> dict[str, np.ndarray]:
    """The PARTS of every episode, float64 [E] each. grid: fusion weights that the oracles choose among."""
    targets = np.array([t.episode.target_position for t in played])
    inside = (targets >= 0).astype(float)
    final, raw = reference(played)
    missed = np.array([heard(t) != t.episode.case.mask for t in played])
    everything = ndcg(final, targets, 10)
    partly = np.where(missed, ndcg(best_fusion(played, raw, grid, missed), targets, 10), everything)
    best = ndcg(best_fusion(played, np.stack([t.scores for t in played]), grid), targets, 10)
    achieved = ndcg(fused_scores(played, alpha), targets, 10)
    return {
        "retrieval": 1 - inside,
        "uncertainty": inside - everything,
        "routing": everything - partly,
        "scoring": partly - best,
        "fusion": best - achieved,
        "regret": everything - achieved,
        "achieved": achieved,
    }


def best_fusion(
    played: Sequence[Trajectory], raw: np.ndarray, grid: np.ndarray, counted: np.ndarray | None = None
) -> np.ndarray:
    """Final scores float64 [E, B] of raw ones [E, B] under each family's best weight in Eq. 2, smallest of equals.

    counted: bool [E], the episodes whose mean NDCG@10 decides; None for all.
    """
    counted = np.ones(len(played), bool) if counted is None else counted
    targets = np.array([t.episode.target_position for t in played])
    of_family = np.array([t.episode.family for t in played])
    first = np.stack([t.episode.case.scores for t in played]).astype(np.float64)
    final = fuse(first, raw, grid)  # [A, E, B]
    values = np.stack([ndcg(scores, targets, 10) for scores in final])
    best = np.empty(len(played), int)
    for family in np.unique(of_family):
        members = of_family == family
        best[members] = np.argmax(values[:, members & counted].sum(1).round(9))
    return final[best, np.arange(len(played))]


def clustered_error(values: np.ndarray, clusters: np.ndarray) -> float:
    """Standard error of the mean of values [N] whose errors may be correlated within a cluster [N].

    The sandwich estimator with the factor G / (G - 1) for G clusters (Cameron and Miller, 2015, Eq. 11 for a mean);
    nan for one cluster.
    """
    _, index = np.unique(clusters, return_inverse=True)
    totals = np.bincount(index, values - values.mean())
    count = len(totals)
    return float(np.sqrt(count / (count - 1) * (totals**2).sum()) / len(values)) if count > 1 else float("nan")


def heard(trajectory: Trajectory) -> Mask:
    """The modalities that have answered this agent, by their own tool or by Ask_User."""
    found = {modality_of(turn) for turn in trajectory.turns if not turn.null and not turn.error}
    return tuple(modality in found for modality in MODALITIES)


def modality_of(turn: Turn) -> str:
    """The modality that a turn asks for, "" for none."""
    asked = {tool: modality for modality, tool in TOOL_OF.items()} | {"Ask_User": turn.args.get("modality_type", "")}
    return asked.get(turn.tool, "")


def bayes_reference(world: World, distributions: Mapping[str, np.ndarray]) -> Reference:
    """The generated world's bound. distributions: as in `agents.bayes.posterior`."""

    def belief(episodes: Sequence[Episode], evidence: Sequence[Mask]) -> np.ndarray:
        return np.log(np.maximum(bayes.belief(world, distributions, episodes, evidence), 1e-12))

    def reference(played: Sequence[Trajectory]) -> tuple[np.ndarray, np.ndarray]:
        episodes = [t.episode for t in played]
        return belief(episodes, [e.case.mask for e in episodes]), belief(episodes, [heard(t) for t in played])

    return reference


class FittedReference:
    """A fitted scorer in the place of Bayes, for data whose truth nobody knows.

    Args:
        env: of the test episodes.
        episodes: all that will be asked about; played once here, on the route that calls every tool.
        scorer: `agents.evidence_linear.fit(train_env, train, routers.rule_router)`.
        batch: episodes played side by side.
        step: of the grid of fusion weights.
    """

    def __init__(self, env: Environment, episodes: Sequence[Episode], scorer: routers.Scorer, batch: int, step: float):
        self._scorer = scorer
        played = play(routers.rule_router(scorer), env, episodes, batch, "regret reference")
        final = best_fusion(played, np.stack([t.scores for t in played]), alpha_grid(step))
        self._everything = {t.episode.episode_id: scores for t, scores in zip(played, final, strict=True)}

    def __call__(self, played: Sequence[Trajectory]) -> tuple[np.ndarray, np.ndarray]:
        everything = np.stack([self._everything[t.episode.episode_id] for t in played])
        return everything, np.stack([self._scorer(notes_of(t)) for t in played])


def notes_of(trajectory: Trajectory) -> Notes:
    """All that an agent has heard, whatever its texts look like; answers of one tool are put together."""
    notes = read(trajectory.prompt)
    for turn in trajectory.turns:
        if asks(turn) and not turn.null and not turn.error:
            known = notes.answers.setdefault(turn.tool, {})
            for field, value in read_observation(turn.observation).items():
                known[field] = {**known.get(field, {}), **value} if isinstance(value, dict) else value
    return notes
