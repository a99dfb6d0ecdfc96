"""config.run = evaluate: every method on every protocol, judged on the same episodes; one cell is one unit of work."""

from __future__ import annotations

import json
from pathlib import Path

from tqdm import tqdm

from mma_jax.agents.registry import METHODS, Context, plays
from mma_jax.evaluation import judge
from mma_jax.evaluation.checks import listed, seeds
from mma_jax.evaluation.compare import compare_all
from mma_jax.evaluation.experiment import Experiment
from mma_jax.evaluation.results import Cell, ResultLog, read_episodes
from mma_jax.runs import prepare
from mma_jax.runs.agents import Agents
from mma_jax.runs.prepare import experiment
from mma_jax.runs.workdir import write_atomically
from mma_jax.types import InputError


def run(config, directory: Path, dry_run: bool) -> None:
    if dry_run:
        prepare.run(config, directory, dry_run)
        return
    made = experiment(config, directory)
    names = prepare.methods(made)
    cells = [
        Cell(made.dataset.name, protocol, name, seed)
        for protocol in made.protocols
        for name in names
        if plays(name, protocol, config.eval.reference) and _is_asked(config, name, protocol)
        for seed in seeds(config)[: None if METHODS[name].randomness else 1]
    ]
    if not cells:
        raise InputError(f"config.methods={config.methods!r} has nothing to play in protocols {config.protocols!r}")
    agents = Agents(made)
    with ResultLog(directory) as log:
        open_cells = [cell for cell in cells if not log.done(cell)]
        comparisons = directory / "comparisons.jsonl"
        if open_cells:
            comparisons.unlink(missing_ok=True)  # a kill from here on must not leave it without the new methods
        for cell in (bar := tqdm(open_cells, desc="evaluate")):
            bar.set_postfix_str(f"{cell.protocol} {cell.method}")
            log.write(cell, *evaluate_cell(made, cell, agents))
    if not comparisons.exists():
        rows = compare_all(read_episodes(directory), config.eval.reference, config.eval.bootstrap)
        if not rows:
            print(f"no paired tests: {config.eval.reference} (config.eval.reference) is not among the methods played")
        write_atomically(comparisons, "".join(json.dumps(row) + "\n" for row in rows))


def _is_asked(config, name: str, protocol: str) -> bool:
    """Language models are slow: they may be asked to play fewer protocols than scripts do."""
    return not METHODS[name].needs_language_model or protocol in listed(config.eval.language_protocols)


def evaluate_cell(made: Experiment, cell: Cell, agents: Agents) -> tuple[list[dict], list[dict], list[dict]]:
    """Fit on training episodes, choose alpha on validation, judge on test: (result rows, episode rows, traces)."""
    config, method = made.config, METHODS[cell.method]
    families = made.families(cell.protocol)
    can_calibrate = config.pool.kind == "calibrated" and cell.protocol != "full_catalog"
    context = Context(
        name=f"{cell.protocol} {cell.method}",
        train_env=made.environment("train", cell.protocol),
        train=made.fit_episodes(cell.protocol),
        distributions={family: made.distribution(family) for family in families} if can_calibrate else {},
        world=made.world,
        seed=cell.seed,
        batch=config.eval.batch,
        language=lambda: agents.player(cell.method, cell.seed),
    )
    play = method.make(context)
    alpha = 0.0
    if method.fused:
        validation = play(made.environment("valid", cell.protocol), made.episodes("valid", cell.protocol))
        alpha = judge.choose_alpha(validation, config.eval.alpha_step)
    trajectories = play(made.environment("test", cell.protocol), made.episodes("test", cell.protocol))
    rows = judge.episode_rows(trajectories, alpha)
    return judge.result_rows(rows, alpha), rows, sample_traces(made, trajectories, alpha)


def sample_traces(made: Experiment, trajectories, alpha: float) -> list[dict]:
    """The first few played episodes of every family, for the trace viewer."""
    kept: dict[str, list] = {}
    for trajectory in trajectories:
        members = kept.setdefault(trajectory.episode.family, [])
        if trajectory.turns and len(members) < made.config.eval.traces:
            members.append(trajectory)
    titles = made.dataset.catalog.title
    return [judge.trace(t, alpha, titles) for members in kept.values() for t in members]
