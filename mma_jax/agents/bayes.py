"""Bounds of the generated world: the Bayes scorer, and the router that earns the most reward on average (DESIGN §7).

Both know the world's truth, which no method may; they exist to say how much there is to win.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from mma_jax.agents.notes import read
from mma_jax.agents.optimal_router import plan
from mma_jax.agents.rollout import play as play_policy
from mma_jax.agents.routers import probe, score
from mma_jax.data.world import World, expected_ndcg
from mma_jax.envs.prompts import LEAST_SUMMARY
from mma_jax.types import FAMILIES, MODALITIES, Episode, History, Mask


def posterior(
    world: World, distributions: dict[str, np.ndarray], episodes: Sequence[Episode], evidence: Mask
) -> np.ndarray:
    """P(target = candidate | evidence, pool rule), float64 [E, B].

    distributions: family -> float64 [B], how often the pool's rule puts an inserted target at each rank. A pool that is
    the first stage's own top B says nothing of where the target stands.
    """
    pools = np.stack([e.case.pool for e in episodes])
    prior = np.ones(pools.shape)
    for n, episode in enumerate(episodes):
        if episode.inserted:
            prior[n] = _tied_mean(distributions[episode.family][episode.case.ranks - 1], episode.case.scores)
    return world.predictive(pools, [e.case.history for e in episodes], evidence, prior)


def _tied_mean(weights: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Candidates with the same first-stage score are exchangeable: each gets the mean weight of its block."""
    _, block = np.unique(scores, return_inverse=True)
    return (np.bincount(block, weights) / np.bincount(block))[block]


def by_mask(masks: Iterable[Mask]) -> dict[Mask, list[int]]:
    """Rows of each mask."""
    rows: dict[Mask, list[int]] = {}
    for n, mask in enumerate(masks):
        rows.setdefault(mask, []).append(n)
    return rows


def _masks(episodes: Sequence[Episode]) -> list[Mask]:
    return [episode.case.mask for episode in episodes]


def belief(
    world: World,
    distributions: dict[str, np.ndarray],
    episodes: Sequence[Episode],
    evidence: Sequence[Mask] | None = None,
) -> np.ndarray:
    """The posterior of each episode given evidence of its own, float64 [E, B]; None: given all that survives."""
    table = np.empty((len(episodes), len(episodes[0].case.pool)))
    for mask, rows in by_mask(_masks(episodes) if evidence is None else evidence).items():
        table[rows] = posterior(world, distributions, [episodes[n] for n in rows], mask)
    return table


def bayes(context):
    """The Bayes scorer: everything that the surviving modalities can say, for free."""
    return lambda env, episodes: belief(context.world, context.distributions, episodes)


def values(world: World, distributions: dict[str, np.ndarray], episodes: Sequence[Episode]) -> dict:
    """(mask, evidence) -> expected NDCG@10 of the best ranking with that evidence, for evidence within the mask."""
    table = {}
    for mask, rows in by_mask(_masks(episodes)).items():
        members = [episodes[n] for n in rows]
        for bits in np.ndindex(2, 2, 2):
            evidence = tuple(bool(b) for b in bits)
            if all(m or not e for m, e in zip(mask, evidence, strict=True)):
                table[(mask, evidence)] = float(
                    expected_ndcg(posterior(world, distributions, members, evidence), 10).mean()
                )
    return table


def optimal_router(context):
    """The route of the dynamic programme over masks and call costs, values measured on training episodes."""

    def play(env, episodes: list[Episode]):
        families = {e.family: FAMILIES[e.family] for e in context.train}
        route = plan(
            values(context.world, context.distributions, context.train),
            families,
            env.options.costs,
            env.options.turns,
            revealed=env.budget(len(episodes[0].case.pool)).summary // LEAST_SUMMARY,
        )
        oracle = _Oracle(context, route)
        return [trajectory for e in episodes for trajectory in play_policy(oracle.of(e), env, [e], batch=1)]

    return play


class _Oracle:
    """Plays the plan; scores with the posterior given what has been asked and answered."""

    def __init__(self, context, route):
        self.context, self.route = context, route

    def of(self, episode: Episode):
        def act(history: History) -> str:
            notes = read(history)
            called = {m: notes.got(m) is None for m in MODALITIES if notes.was_called(m)}
            choice = self.route.next(called, episode.case.mask)
            if choice != "score":
                return probe(choice, notes)
            heard = tuple(bool(notes.got(m)) for m in MODALITIES)
            belief = posterior(self.context.world, self.context.distributions, [episode], heard)[0]
            return score(notes, np.log(np.maximum(belief, 1e-12)))

        return lambda histories: [act(history) for history in histories]
