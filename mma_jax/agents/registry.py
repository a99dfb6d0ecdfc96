"""Every method by its name in results. A new one is one file and one line here.

A method is made from a `Context` (training episodes and what may be known before test time) and answers
`play(env, episodes) -> list[Trajectory]`; scorers that take no turn are judged by the same road.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from mma_jax.agents import bayes, controls, evidence_linear, overlap, routers
from mma_jax.agents.rollout import judged
from mma_jax.agents.rollout import play as play_policy
from mma_jax.baselines.registry import BASELINES
from mma_jax.data.world import World
from mma_jax.envs.environment import Environment
from mma_jax.types import Episode, InputError, Policy, Trajectory

Play = Callable[[Environment, list[Episode]], list[Trajectory]]


@dataclasses.dataclass(frozen=True, eq=False)
class Context:
    """What a method may learn from. Everything in it comes from the training part."""

    name: str
    train_env: Environment
    train: list[Episode]
    distributions: dict[str, np.ndarray]  # family -> float64 [B], see `Experiment.distribution`
    world: World | None  # the truth of a generated dataset, for its bounds alone
    seed: int  # of whatever randomness the method has of its own
    batch: int
    trained: Callable[[], Play] | None = None  # the agent or baseline of this name and seed, trained if need be


@dataclasses.dataclass(frozen=True)
class Method:
    """`fused`: Eq. 2 mixes its scores with the first stage's; controls and bounds stand for themselves."""

    make: Callable[[Context], Play]
    fused: bool = True
    needs_world: bool = False
    needs_language_model: bool = False
    asks: bool = False  # calls Ask_User
    randomness: bool = False  # it has seeds of its own; without, one seed is all there is
    exploits: bool = False  # tries the reward, not the ranking


def policy(make: Callable[[Context], Policy]) -> Callable[[Context], Play]:
    """A method that plays the environment."""

    def made(context: Context) -> Play:
        acting = make(context)
        return lambda env, episodes: play_policy(acting, env, episodes, context.batch, context.name)

    return made


def scorer(make: Callable[[Context], Callable[[Environment, list[Episode]], np.ndarray]]) -> Callable[[Context], Play]:
    """A method that maps episodes to scores [E, B] without a turn."""

    def made(context: Context) -> Play:
        scoring = make(context)
        return lambda env, episodes: [
            judged(episode, row) for episode, row in zip(episodes, scoring(env, episodes), strict=True)
        ]

    return made


def trained(context: Context) -> Play:
    """An agent with a language model, or a baseline: whoever made the context knows how it comes about."""
    if context.trained is None:
        raise ValueError(f"{context.name} has to be trained, and the context does not say how")
    return context.trained()


def _first_stage(context: Context):
    return lambda env, episodes: [controls.first_stage(e.case) for e in episodes]


def _reverse_rank(context: Context):
    return lambda env, episodes: [controls.reverse_rank(e.case) for e in episodes]


def _rank_only(context: Context):
    fitted = controls.rank_only(context.train)
    return lambda env, episodes: fitted(episodes)


def _popularity(context: Context, sign: int = 1):
    def scores(env: Environment, episodes: list[Episode]):
        graph = env.evidence.graph
        counts = graph.popularity if graph is not None else np.zeros(1 + max(e.case.pool.max() for e in episodes))
        return [sign * controls.popularity_scores(e.case, counts) for e in episodes]

    return scores


def _learned(context: Context, route: Callable[[routers.Scorer], Policy]) -> routers.Scorer:
    return evidence_linear.fit(context.train_env, context.train, route)


METHODS: dict[str, Method] = {
    "First-stage": Method(scorer(_first_stage), fused=False),
    "Reverse-rank": Method(scorer(_reverse_rank), fused=False),
    "Rank-only": Method(scorer(_rank_only), fused=False),
    "Popularity": Method(scorer(_popularity), fused=False),
    "Reverse-popularity": Method(scorer(functools.partial(_popularity, sign=-1)), fused=False),
    "RuleRouter-Fuse": Method(policy(lambda c: routers.rule_router(overlap.fused))),
    "Router-StopAtFirst": Method(policy(lambda c: routers.router(routers.until_first_success, overlap.fused))),
    "RuleRouter-Peek": Method(policy(lambda c: routers.router(routers.peeked, overlap.fused))),
    "Expert": Method(policy(lambda c: routers.expert(_learned(c, routers.expert)))),
    "Router-Ask": Method(policy(lambda c: routers.asking(overlap.fused)), asks=True),
    "Exploit-ScoreAtOnce": Method(policy(lambda c: routers.repeat(routers.score_at_once)), exploits=True),
    "Exploit-Reverse": Method(policy(lambda c: routers.repeat(routers.reverse_at_once)), exploits=True),
    "Exploit-Invalid": Method(policy(lambda c: routers.repeat(routers.spam_invalid)), exploits=True),
    "Exploit-RepeatNull": Method(policy(lambda c: routers.repeat(routers.repeat_null)), exploits=True),
    "Evidence-linear": Method(policy(lambda c: routers.rule_router(_learned(c, routers.rule_router)))),
    "ReAct": Method(trained, needs_language_model=True),
    "AgentCF": Method(trained, needs_language_model=True),
    "MMA-SFT": Method(trained, needs_language_model=True, randomness=True),
    "MMA-Pooled": Method(trained, needs_language_model=True, randomness=True),
    "MMA-Auto": Method(trained, needs_language_model=True, randomness=True),
    "MMA-Interactive": Method(trained, needs_language_model=True, randomness=True, asks=True),
    **{name: Method(trained, randomness=True) for name in BASELINES},
    "Optimal-router": Method(bayes.optimal_router, fused=False, needs_world=True),
    "Bayes": Method(scorer(bayes.bayes), fused=False, needs_world=True),
}


def plays(name: str, protocol: str, reference: str) -> bool:
    """Whether a method has something to say in a protocol.

    Ask_User exists under "interactive" alone, so those who ask play there, beside the reference they are compared with
    (for all others it would be "ooma" again); the reward's exploiters are tried on "ooma" only, and under stress the
    bounds, which read no evidence, say nothing.
    """
    method = METHODS[name]
    if protocol == "interactive":
        return method.asks or name == reference
    if protocol.startswith("stress_"):
        return name == reference or not (method.asks or method.exploits or method.needs_world)
    return not method.asks and (protocol == "ooma" or not method.exploits)


def chosen(names: str, world: bool) -> list[str]:
    """Resolve config.methods. "scripted" stands for all that need no training by gradient, "baselines" and "agents" for
    the recommenders and the language models that do; the bounds need a generated world.

    Raises InputError for an unknown name, listing the known ones.
    """
    picked: list[str] = []
    for name in filter(None, (part.strip() for part in names.split(","))):
        if name == "scripted":
            scripted = [n for n, m in METHODS.items() if not m.needs_language_model and n not in BASELINES]
            picked += [n for n in scripted if world or not METHODS[n].needs_world]
        elif name == "baselines":
            picked += list(BASELINES)
        elif name == "agents":
            picked += [n for n, m in METHODS.items() if m.needs_language_model]
        elif name not in METHODS:
            known = ", ".join(("scripted", "baselines", "agents", *METHODS))
            raise InputError(f"unknown method {name!r} in config.methods: known are {known}")
        elif METHODS[name].needs_world and not world:
            raise InputError(
                f"method {name!r} needs the truth: data.source=generated, as it is (data.drop_rate=0, data.max_history "
                "no less than world.history, pool.negatives=all)"
            )
        else:
            picked.append(name)
    if not picked:
        raise InputError("config.methods names no method: try --config.methods=scripted")
    return list(dict.fromkeys(picked))
