"""config.run = cost: what a query costs each method, for Table 8 of the MMA paper; DIR/cost.jsonl.

Queries are played alone, one after the other, after each has been played once to compile what it needs. A method is
measured once; DIR/cost/METHOD.json holds it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import resource
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from mma_jax.agents.registry import METHODS, Play
from mma_jax.baselines import fit
from mma_jax.baselines.registry import BASELINES
from mma_jax.data.disk import write_atomically
from mma_jax.envs.environment import Environment
from mma_jax.evaluation import judge
from mma_jax.evaluation.checks import options, seeds
from mma_jax.evaluation.cost import Meter, metered, replaced
from mma_jax.evaluation.experiment import Experiment
from mma_jax.evaluation.results import Cell
from mma_jax.runs import baselines, prepare
from mma_jax.runs.agents import Agents
from mma_jax.runs.evaluate import context
from mma_jax.runs.prepare import experiment
from mma_jax.types import Episode


def run(config, directory: Path, dry_run: bool) -> None:
    if dry_run:
        prepare.run(config, directory, dry_run)
        return
    made, folder = experiment(config, directory), directory / "cost"
    folder.mkdir(exist_ok=True)
    agents = Agents(made)
    for name in (bar := tqdm(prepare.methods(made), desc="cost")):
        bar.set_postfix_str(name)
        path = folder / f"{name}.json"
        if not path.exists():
            write_atomically(path, json.dumps(measure(made, agents, name)))
    rows = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    write_atomically(directory / "cost.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    for row in rows:
        print(f"  {row['method']:<24} {row['seconds']:.3g} s a query, {row['passes']:.1f} forward passes")
    print(directory / "cost.jsonl")


def measure(made: Experiment, agents: Agents, name: str) -> dict:
    """A row of cost.jsonl.

    Returns:
        seconds: median over queries of prompt, play and final scores.
        flops, passes: mean over queries of what device programs took, and of runs of the model; 0 on the host alone.
        program_bytes: of the largest program. process_bytes: most resident memory of the process while playing.
        loops: whether a program has a loop that flops counts one round of.
        turns: mean; 0 for who takes none. queries, seed, device, dataset, method.
    """
    protocol = "interactive" if METHODS[name].asks else "ooma"
    seed = seeds(made.config)[0]
    known = context(made, Cell(made.dataset.name, protocol, name, seed), lambda: agents.player(name, seed))
    play = METHODS[name].make(dataclasses.replace(known, name="", batch=1))  # no progress bar inside of what is timed
    queries = _queries(made, protocol)
    with _alone(agents, name) as meters:
        _play(made, play, queries, protocol)
        for meter in meters:
            meter.reset()
        _forget_peak()
        seconds, turns = _play(made, play, queries, protocol)
    return {
        "dataset": made.dataset.name,
        "method": name,
        "seed": seed,
        "queries": len(queries),
        "device": jax.devices()[0].device_kind,
        "seconds": statistics.median(seconds),
        "flops": sum(meter.flops for meter in meters) / len(queries),
        "passes": sum(meter.runs for meter in meters) / len(queries),
        "program_bytes": max((meter.bytes for meter in meters), default=0),
        "process_bytes": _peak(),
        "loops": any(meter.loops for meter in meters),
        "turns": float(np.mean(turns)),
    }


def _queries(made: Experiment, protocol: str) -> list[Episode]:
    """config.eval.queries test episodes, spread evenly over the families."""
    episodes = made.episodes("test", protocol)
    count = min(made.config.eval.queries, len(episodes))
    return [episodes[row] for row in np.linspace(0, len(episodes), count, endpoint=False).astype(int)]


def _play(made: Experiment, play: Play, queries: list[Episode], protocol: str) -> tuple[list[float], list[int]]:
    """Seconds and turns of each query, in an environment that has seen none of them."""
    env = Environment(made.view("test").evidence, options(made.config, protocol), made.count_tokens)
    seconds, turns = [], []
    for query in queries:
        begin = time.perf_counter()
        trajectories = play(env, [query])
        judge.fused_scores(trajectories, 0.5)
        seconds.append(time.perf_counter() - begin)
        turns.append(len(trajectories[0].turns))
    return seconds, turns


@contextlib.contextmanager
def _alone(agents: Agents, name: str) -> Iterator[list[Meter]]:
    """Meters on the programs that a method runs, and programs as wide as one query."""
    with contextlib.ExitStack() as stack:
        if name in BASELINES:
            stack.enter_context(replaced(baselines, "CHUNK", 1))
            yield [stack.enter_context(metered(fit, "_score"))]
        elif METHODS[name].needs_language_model:
            sampler = agents.trainer.language.sampler
            stack.enter_context(replaced(sampler, "block", None))
            prefill = stack.enter_context(metered(sampler, "prefill"))
            yield [prefill, stack.enter_context(metered(sampler, "decode", _steps))]
        else:
            yield []


def _steps(arguments: tuple, outcome: tuple) -> int:
    """Steps of `sampling.step.decode`: tokens that the longest row gained. Where a grammar forces tokens, a step may
    bring several, and this is an upper bound."""
    _, _, length, *_ = arguments
    return int(np.max(np.asarray(outcome[0].length) - np.asarray(length)))


STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def _forget_peak() -> None:
    """Where Linux allows it, so that what was loaded or compiled before is counted as far as it is still there."""
    with contextlib.suppress(OSError):
        CLEAR.write_text("5")


def _peak() -> int:
    """Bytes: most resident memory since `_forget_peak`, or of the whole process where that cannot be had."""
    with contextlib.suppress(OSError):
        if found := re.search(r"VmHWM:\s+(\d+) kB", STATUS.read_text()):
            return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
