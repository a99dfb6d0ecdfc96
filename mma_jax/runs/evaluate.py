"""config.run = evaluate: every method on every protocol, judged on the same episodes; one cell is one unit of work.

Of several processes the first judges and writes; the others play their share of what language models play.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

from tqdm import tqdm

from mma_jax.agents.registry import METHODS, Context, Play, plays
from mma_jax.data.disk import write_atomically
from mma_jax.evaluation import judge
from mma_jax.evaluation.access import Ledger
from mma_jax.evaluation.checks import listed, seeds
from mma_jax.evaluation.compare import compare_all
from mma_jax.evaluation.experiment import Experiment
from mma_jax.evaluation.results import Cell, ResultLog, read_episodes
from mma_jax.runs import hosts, prepare
from mma_jax.runs.agents import Agents
from mma_jax.runs.beyond import Beyond
from mma_jax.runs.prepare import experiment
from mma_jax.runs.workdir import FREE
from mma_jax.types import InputError


def run(config, directory: Path, dry_run: bool) -> None:
    if dry_run:
        prepare.run(config, directory, dry_run)
        return
    if hosts.several():
        hosts.alone(lambda: prepare.build(experiment(config, directory)), "evidence and episodes")
    made = experiment(config, directory)
    prepare.check_agents(made)
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
    study = Beyond(made, Agents(made))
    if hosts.first():
        judge_all(made, cells, study)
    else:
        help_judging(made, cells, study)
    hosts.meet("all is judged")


def judge_all(made: Experiment, cells: list[Cell], study: Beyond) -> None:
    """Judge and write what is not done yet; compare all that there is."""
    config, directory = made.config, made.directory
    with ResultLog(directory) as log:
        ledger = Ledger(made, filter(log.done, cells), FREE)
        open_cells = _open(cells, [log.done(cell) for cell in cells])
        comparisons = directory / "comparisons.jsonl"
        if open_cells:
            comparisons.unlink(missing_ok=True)  # a kill from here on must not leave it without the new methods
        for cell in (bar := tqdm(open_cells, desc="evaluate")):
            bar.set_postfix_str(f"{cell.protocol} {cell.method}")
            if _is_shared(cell):
                hosts.meet(str(cell))
            found, *lines = evaluate_cell(made, cell, study)
            _remember(directory, cell, found)
            log.write(cell, *lines)
            ledger.record(cell)
    gather(directory)
    if not comparisons.exists():
        rows = [
            line
            for metric in ("ndcg@10", judge.EXPECTED)
            for line in compare_all(read_episodes(directory), config.eval.reference, config.eval.bootstrap, metric)
        ]
        if not rows:
            print(f"no paired tests: {config.eval.reference} (config.eval.reference) is not among the methods played")
        write_atomically(comparisons, _lines(rows))


def help_judging(made: Experiment, cells: list[Cell], study: Beyond) -> None:
    """Play this process's share wherever the first one judges a language model."""
    for cell in filter(_is_shared, _open(cells, [False] * len(cells))):
        hosts.meet(str(cell))  # the first one may be long at cells that it judges alone
        evaluate_cell(made, cell, study)


def _open(cells: list[Cell], done: list[bool]) -> list[Cell]:
    """The cells that are not done, as the first process knows."""
    return [cell for cell, is_done in zip(cells, hosts.agree(done), strict=True) if not is_done]


def _is_shared(cell: Cell) -> bool:
    return METHODS[cell.method].needs_language_model


def gather(directory: Path) -> None:
    """DIR/regret.jsonl and DIR/information.jsonl, from what every cell has left in DIR/beyond."""
    cells = [json.loads(path.read_text()) for path in sorted((directory / "beyond").glob("*.json"))]
    for name in ("regret", "information"):
        write_atomically(directory / f"{name}.jsonl", _lines(row for cell in cells for row in cell[name]))


def _lines(rows: Iterable[dict]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _is_asked(config, name: str, protocol: str) -> bool:
    """Language models are slow: they may be asked to play fewer protocols than scripts do."""
    return not METHODS[name].needs_language_model or protocol in listed(config.eval.language_protocols)


def evaluate_cell(made: Experiment, cell: Cell, study: Beyond) -> tuple[dict, list[dict], list[dict], list[dict]]:
    """Fit on training episodes, choose alpha on validation, judge on test.

    (regret and information, result rows, episode rows, traces)
    """
    method = METHODS[cell.method]
    play = method.make(context(made, cell, lambda: study.agents.player(cell.method, cell.seed)))
    alpha, valid = None, None
    if method.fused:
        validation = play(made.environment("valid", cell.protocol), made.episodes("valid", cell.protocol))
        alpha, valid = judge.choose_alpha(validation, made.config.eval.alpha_step)
    trajectories = play(made.environment("test", cell.protocol), made.episodes("test", cell.protocol))
    rows = judge.episode_rows(trajectories, alpha, study.belief(cell, trajectories))
    found = {"regret": study.regret(cell, trajectories, alpha), "information": study.information(cell, trajectories)}
    return found, judge.result_rows(rows, alpha, valid), rows, study.traces(cell, play, trajectories, alpha)


def _remember(directory: Path, cell: Cell, found: dict) -> None:
    """DIR/beyond/CELL.json, for `gather`; there before the cell counts as done."""
    folder = directory / "beyond"
    folder.mkdir(exist_ok=True)
    write_atomically(folder / f"{cell.protocol}_{cell.method}_{cell.seed}.json", json.dumps(found))


def context(made: Experiment, cell: Cell, trained: Callable[[], Play]) -> Context:
    """What a cell's method may learn from. trained: makes it, if it has to be trained."""
    config, families = made.config, made.families(cell.protocol)
    has_rule = cell.protocol != "full_catalog"  # there the pool is the first stage's own
    return Context(
        name=f"{cell.protocol} {cell.method}",
        train_env=made.environment("train", cell.protocol),
        train=made.fit_episodes(cell.protocol),
        distributions={family: made.distribution(family) for family in families} if has_rule else {},
        world=made.world,
        seed=cell.seed,
        batch=config.eval.batch,
        trained=trained,
    )
