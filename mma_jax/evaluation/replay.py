"""Counterfactual replay: change what one call was told, leave all else as it was, and let the agent go on.

Two changes per kind of answer. *flip*: a Null becomes an answer, as if that modality had survived; from this turn on
it does, while the prompt stays the one that was read. *swap*: an answer becomes what another user of the same family
would have been told about the same handles; later calls are answered truthfully.

The method plays the episode again with the same seeds, in an environment that answers one call differently. What it
draws depends on (seed, episode, turn) and not on the row it occupies (DESIGN §6.15), so its past comes out the same;
where it does not, by rounding or because the method is not reproducible, the replay says nothing and is dropped.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence

from mma_jax.agents.registry import Play
from mma_jax.envs.environment import Environment, State, Step
from mma_jax.evaluation.judge import trace
from mma_jax.evaluation.regret import modality_of
from mma_jax.types import MODALITIES, Episode, History, Trajectory

TOP = 5  # candidates shown of a ranking


@dataclasses.dataclass(frozen=True, eq=False)
class Change:
    """What happens at one call instead."""

    turn: int  # index of the changed call among the trajectory's turns
    kind: str  # "flip" | "swap"
    answering: Episode  # answers this call
    after: Episode  # answers later ones; its target and pool are those of the trajectory


def changes(env: Environment, trajectory: Trajectory, donors: Sequence[Episode]) -> list[Change]:
    """A flip for the first Null of every modality that the data has, a swap for every answer; none at the last turn.

    donors: episodes to borrow answers from; which one serves depends on the two episodes' ids alone.
    """
    found: dict[tuple, Change] = {}
    for n, turn in enumerate(trajectory.turns[:-1]):
        modality, episode = modality_of(turn), trajectory.episode
        if not modality or turn.error:
            continue
        if turn.null:
            there = _with(episode, modality)
            if env.evidence.observes(there.case, modality):
                found.setdefault(("flip", modality), Change(n, "flip", there, there))
        elif (donor := _donor(episode, donors)) is not None:
            found["swap", n] = Change(n, "swap", donor, episode)
    return list(found.values())


def _with(episode: Episode, modality: str) -> Episode:
    mask = tuple(there or name == modality for name, there in zip(MODALITIES, episode.case.mask, strict=True))
    return dataclasses.replace(episode, case=dataclasses.replace(episode.case, mask=mask))


def _donor(episode: Episode, donors: Sequence[Episode]) -> Episode | None:
    """Another user's episode of the same family, with as many handles."""
    others = [
        d
        for d in donors
        if d.family == episode.family and d.user != episode.user and len(d.case.pool) == len(episode.case.pool)
    ]
    return min(others, key=lambda d: zlib.crc32(f"{episode.episode_id} {d.episode_id}".encode()), default=None)


class AlteredEnvironment:
    """The same environment, but with one call of each episode changed.

    Args:
        env: answers everything else.
        changes: pairs of an episode and its change; the same episode may come several times, as copies.
    """

    def __init__(self, env: Environment, changes: Sequence[tuple[Episode, Change]]):
        self._env, self._changes = env, {id(episode): (episode, change) for episode, change in changes}
        self.options, self.budget = env.options, env.budget

    def reset(self, episode: Episode) -> tuple[State, History]:
        """As `Environment.reset`."""
        return self._env.reset(episode)

    def step(self, state: State, text: str) -> Step:
        """As `Environment.step`."""
        _, change = self._changes.get(id(state.episode), (None, None))
        if change is None or state.turn != change.turn:
            return self._env.step(state, text)
        state, *rest = self._env.step(dataclasses.replace(state, episode=change.answering), text)
        return (dataclasses.replace(state, episode=change.after), *rest)


def replay(play: Play, env: Environment, cases: Sequence[tuple[Trajectory, Change]]) -> list[Trajectory | None]:
    """The trajectories that the changes lead to; None where the past came out different.

    Args:
        play: the method, with the seeds it has played with.
        env: the one it has played in.
        cases: pairs of a trajectory and a change of it.
    """
    copies = [dataclasses.replace(trajectory.episode) for trajectory, _ in cases]
    altered = AlteredEnvironment(env, [(e, change) for e, (_, change) in zip(copies, cases, strict=True)])
    return [
        after if _past(after, change) == _past(before, change) else None
        for (before, change), after in zip(cases, play(altered, copies), strict=True)
    ]


def _past(trajectory: Trajectory, change: Change) -> list[str]:
    return [turn.text for turn in trajectory.turns[: change.turn + 1]]


def counterfactuals(
    play: Play,
    env: Environment,
    trajectories: Sequence[Trajectory],
    donors: Sequence[Episode],
    alpha: float,
    titles: tuple[str, ...],
) -> list[list[dict]]:
    """Per trajectory, what each of its `changes` leads to: the "counterfactuals" of its entry in traces.jsonl.

    An entry holds turn (1-based, as the viewer counts), change ("flip" or "swap"), donor (episode_id, None for a
    flip), turns (from the changed call on, as in the trace), stop_reason, and before and after the change: rank (of
    the target, None if it is not in the pool), ndcg, return, top (handles of the first candidates).
    """
    cases = [(t, change) for t in trajectories for change in changes(env, t, donors)]
    told: dict[int, list[dict]] = {id(t): [] for t in trajectories}
    for (before, change), after in zip(cases, replay(play, env, cases) if cases else [], strict=True):
        if after is not None:
            told[id(before)].append(_entry(before, change, after, alpha, titles))
    return [told[id(t)] for t in trajectories]


def _entry(before: Trajectory, change: Change, after: Trajectory, alpha: float, titles: tuple[str, ...]) -> dict:
    seen = {"before": trace(before, alpha, titles), "after": trace(after, alpha, titles)}
    return {
        "turn": change.turn + 1,
        "change": change.kind,
        "donor": change.answering.episode_id if change.kind == "swap" else None,
        "turns": seen["after"]["turns"][change.turn :],
        "stop_reason": after.stop_reason,
        **{f"rank_{when}": seen[when]["target_rank_after"] for when in seen},
        **{f"ndcg_{when}": seen[when]["ndcg@10"] for when in seen},
        **{f"return_{when}": sum(turn["reward"] for turn in seen[when]["turns"]) for when in seen},
        **{f"top_{when}": _top(seen[when]["candidates"]) for when in seen},
    }


def _top(candidates: list[dict]) -> list[str]:
    return [c["handle"] for c in sorted(candidates, key=lambda c: c["final_rank"])[:TOP]]
