"""What is looked at beyond the paper, for one cell of evaluation: regret, counterfactuals, the value of information."""

from __future__ import annotations

import functools

import numpy as np

from mma_jax.agents import agentcf, bayes, evidence_linear, routers
from mma_jax.agents.language_model import Forced
from mma_jax.agents.registry import METHODS, Play
from mma_jax.evaluation import information, judge, regret, replay
from mma_jax.evaluation.experiment import Experiment
from mma_jax.evaluation.results import Cell
from mma_jax.runs.agents import Agents
from mma_jax.runs.train import RECIPES
from mma_jax.types import Episode, History, Trajectory


class Beyond:
    """Remembers what the cells of a protocol share."""

    def __init__(self, made: Experiment, agents: Agents):
        self.made, self.agents, self.config = made, agents, made.config
        self.reference = functools.cache(self._reference)

    def regret(self, cell: Cell, trajectories: list[Trajectory], alpha: float | None) -> list[dict]:
        """Rows of regret.jsonl; none where evidence lies, for then no reference knows better."""
        if cell.protocol.startswith("stress") or not any(t.turns for t in trajectories):
            return []
        return regret.decompose(cell, trajectories, alpha, self.reference(cell.protocol), self.config.eval.alpha_step)

    def belief(self, cell: Cell, trajectories: list[Trajectory]) -> np.ndarray | None:
        """P(target = candidate) given what survives in each episode, float64 [E, B]; None where nobody knows it."""
        if not self._bounded(cell.protocol):
            return None
        return bayes.belief(self.made.world, self._distributions(cell.protocol), [t.episode for t in trajectories])

    def _distributions(self, protocol: str) -> dict[str, np.ndarray]:
        return {family: self.made.distribution(family) for family in self.made.families(protocol)}

    def _bounded(self, protocol: str) -> bool:
        """Whether Bayes knows how a protocol's pools came about."""
        known = self.made.world is not None and self.config.pool.kind == "calibrated"
        return known and protocol != "full_catalog"

    def _reference(self, protocol: str) -> regret.Reference:
        made = self.made
        if self._bounded(protocol):
            return regret.bayes_reference(made.world, self._distributions(protocol))
        scorer = evidence_linear.fit(
            made.environment("train", protocol), made.fit_episodes(protocol), routers.rule_router
        )
        env, episodes = made.environment("test", protocol), made.episodes("test", protocol)
        return regret.FittedReference(env, episodes, scorer, self.config.eval.batch, self.config.eval.alpha_step)

    def traces(self, cell: Cell, play: Play, trajectories: list[Trajectory], alpha: float | None) -> list[dict]:
        """The first few played episodes of every family, for the trace viewer, with what else could have happened."""
        kept: dict[str, list[Trajectory]] = {}
        for trajectory in trajectories:
            members = kept.setdefault(trajectory.episode.family, [])
            if trajectory.turns and len(members) < self.config.eval.traces:
                members.append(trajectory)
        shown, titles = [t for members in kept.values() for t in members], self.made.dataset.catalog.title
        entries = [judge.trace(t, alpha, titles) for t in shown]
        # a bound plans with the truth and cannot be told otherwise; where tools lie, a truth is no counterfactual
        if METHODS[cell.method].needs_world or cell.protocol.startswith("stress_") or not shown:
            return entries
        env, donors = self.made.environment("test", cell.protocol), self.made.episodes("test", cell.protocol)
        told = replay.counterfactuals(play, env, shown, donors, alpha, titles)
        return [entry | {"counterfactuals": one} for entry, one in zip(entries, told, strict=True)]

    def information(self, cell: Cell, trajectories: list[Trajectory]) -> list[dict]:
        """Rows of information.jsonl: predicted and realized gain of the calls of some episodes of every family; none of
        a method without PPO, which alone fits the value head."""
        if cell.method not in RECIPES or not RECIPES[cell.method].start:
            return []
        env = self.made.environment("test", cell.protocol)
        probed: dict[str, list[tuple[Trajectory, int]]] = {}
        for trajectory in trajectories:
            calls = probed.setdefault(trajectory.episode.family, [])
            if len(calls) < self.config.eval.probes:
                calls += [(trajectory, n) for n in information.valued_calls(trajectory)]
        asked = [pair for calls in probed.values() for pair in calls]
        by_turn: dict[int, list[Trajectory]] = {}
        for trajectory, n in asked:
            by_turn.setdefault(n, []).append(trajectory)
        scored = {
            (n, played.episode.episode_id): after
            for n, members in by_turn.items()
            for played, after in zip(
                members, self.agents.scripted(cell, env, [t.episode for t in members], _score_at(n)), strict=True
            )
        }
        return information.gains(cell, [(t, n, scored[n, t.episode.episode_id]) for t, n in asked])


def _score_at(turn: int):
    """A script that makes an agent score at a turn, instead of whatever it would have done."""

    def script(episode: Episode, at: int, history: History) -> Forced | None:
        return Forced(agentcf.OPENING, complete=False) if at == turn else None

    return script
