"""Steps per second of the environment on one core.

    python benchmarks/environment.py

Plays scripted episodes (text, graph, image, then all candidates scored) over generated evidence, first with
cold tools, then again with the same episodes, as rollouts do with many samples and methods per episode. A
reset counts as time but not as a step. Times are CPU times, so other work on the machine matters less.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import statistics
import time

import numpy as np

from mma_jax.envs.environment import Environment, Options
from mma_jax.envs.evidence import Evidence
from mma_jax.envs.prompts import read_prompt
from mma_jax.types import FAMILIES, Case, Episode

WORDS = [f"word{k}" for k in range(500)]


class GeneratedStores:
    """Text, pictures and graph over `n` items, random but for the seed."""

    def __init__(self, n: int, rng: np.random.Generator):
        self.has = np.ones(n, bool)
        self.words = rng.integers(0, len(WORDS), (n, 30))
        self.neighbors = rng.integers(0, n, (n, 20)).astype(np.int32)
        self.popularity = rng.integers(0, 1000, n).astype(np.int32)

    def item(self, i: int) -> dict[str, str]:
        words = [WORDS[w] for w in self.words[i]]
        return {"title": " ".join(words[:8]), "category": " > ".join(words[8:12]), "description": " ".join(words[12:])}

    def tags(self, i: int) -> list[str]:
        return [WORDS[w] for w in self.words[i, :5]]

    def search(self, history: np.ndarray, k: int) -> np.ndarray:
        return np.unique(self.neighbors[history])[:k]


class Text(GeneratedStores):
    def profile(self, history: np.ndarray) -> dict[str, dict[str, int]]:
        return {field: dict.fromkeys(WORDS[:6], len(history)) for field in ("title", "category", "description")}


class Image(GeneratedStores):
    def profile(self, history: np.ndarray) -> dict[str, int]:
        return dict.fromkeys(WORDS[:10], len(history))


def make_episodes(n_items: int, pool_size: int, count: int, rng: np.random.Generator) -> list[Episode]:
    families = list(FAMILIES)
    episodes = []
    for k in range(count):
        pool = rng.choice(n_items, pool_size, replace=False).astype(np.int32)
        history = rng.integers(0, n_items, 15).astype(np.int32)
        ranks = np.arange(1, pool_size + 1, dtype=np.int32)
        family = families[k % len(families)]
        case = Case(pool, (1 / ranks).astype(np.float32), ranks, history, FAMILIES[family])
        episodes.append(Episode(str(k), case, k, int(rng.choice(pool)), family, "ooma", True))
    return episodes


def make_script(pool_size: int) -> list[str]:
    handles = [str(j + 1) for j in range(pool_size)]
    calls = [
        ("Analyze_Text", {"item_id": handles}),
        ("Retrieve_Graph", {"user_id": "u"}),
        ("Analyze_Image", {"item_id": handles}),
        ("Score_Candidates", {"scores": {h: (37 * int(h)) % 100 for h in handles}}),
    ]
    return [f"Next.\n{json.dumps({'tool': t, 'args': a}, separators=(',', ':'))}" for t, a in calls]


def play(environment: Environment, episodes: list[Episode], script: list[str]) -> float:
    """Steps per second."""
    start = time.process_time()
    for episode in episodes:
        state, _ = environment.reset(episode)
        for text in script:
            state, *_ = environment.step(state, text)
    return len(episodes) * len(script) / (time.process_time() - start)


def time_each(environment: Environment, episodes: list[Episode], text: str) -> float:
    """Microseconds of one kind of step."""
    states = [environment.reset(episode)[0] for episode in episodes]
    start = time.process_time()
    for state in states:
        environment.step(state, text)
    return 1e6 * (time.process_time() - start) / len(states)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--episodes", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--context", type=int, default=8192)
    parser.add_argument("--profile", action="store_true", help="print where a cold round spends its time")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    text, image = Text(5000, rng), Image(5000, rng)
    for pool_size in (20, 100):
        environment = Environment(Evidence(text, image, text, text.search), Options(context=args.context))
        episodes, script = make_episodes(5000, pool_size, args.episodes, rng), make_script(pool_size)
        cold = play(environment, episodes, script)
        warm = [play(environment, episodes, script) for _ in range(args.rounds)]
        prompt = environment.reset(episodes[0])[1]
        start = time.process_time()
        for _ in range(100):
            read_prompt(prompt)
        read = 1e4 * (time.process_time() - start)
        each = ", ".join(f"{json.loads(s[6:])['tool']} {time_each(environment, episodes, s):.0f}" for s in script)
        print(
            f"B={pool_size}: {statistics.median(warm):,.0f} steps/s warm (min {min(warm):,.0f}), {cold:,.0f} cold; "
            f"us per step: {each}; read_prompt {read:.0f} us"
        )
        if args.profile:
            profiler = cProfile.Profile()
            environment = Environment(environment.evidence, environment.options)
            profiler.runcall(play, environment, episodes, script)
            pstats.Stats(profiler).sort_stats("tottime").print_stats(14)


if __name__ == "__main__":
    main()
