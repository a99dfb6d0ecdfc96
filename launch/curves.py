"""What curves over a setting share: a run per value, evidence that runs need not build again, and what came out.

Each value is a workdir of its own, so a rerun of the same command does only what is not done; points that share their
first point's data get its files by hard links, which is safe because none of them is ever changed in place.
"""

from __future__ import annotations

import os
import runpy
import shlex
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from absl import flags

from launch import common, sweep
from mma_jax.agents.registry import METHODS
from mma_jax.data.disk import write_atomically
from mma_jax.evaluation.checks import listed, one_of
from mma_jax.evaluation.episodes import PROTOCOLS
from mma_jax.metrics.significance import cluster_bootstrap
from mma_jax.reports import tables
from mma_jax.reports.load import Sample, read_samples
from mma_jax.reports.picture import standalone
from mma_jax.types import FAMILIES, InputError

_METHODS = flags.DEFINE_string("methods", "", "Methods to draw, comma-separated; empty: see the program's own text.")
_PROTOCOLS = flags.DEFINE_string("protocols", "ooma,lomo", "Protocols to draw, comma-separated.")

RESAMPLES = 1000  # of users, behind every interval

Key = tuple[str, str, str]
"""(protocol, family or "all", method)."""


def settings():
    """The config that --config names, without what the command line changes in it."""
    path, argument = common.config_file()
    return runpy.run_path(path)["get_config"](*([argument] if argument else []))


def methods(default: Sequence[str]) -> list[str]:
    """--methods, or the default. Raises InputError for one that is unknown."""
    chosen = listed(_METHODS.value) or list(default)
    for name in chosen:
        one_of("methods", name, METHODS)
    return chosen


def judged(names: Sequence[str], rest: Sequence[str]) -> list[str]:
    """The options of a run that evaluates these methods; `rest`: what followed `--`, which has the last word."""
    return [
        "--config.run=evaluate",
        f"--config.methods={','.join(names)}",
        f"--config.protocols={','.join(protocols())}",
        "--config.eval.traces=0",  # nobody steps through episodes of a curve
        *rest,
    ]


def run(points: Sequence[tuple[dict[str, str], list[str]]], link: Callable[[Path, Path], None]) -> None:
    """Runs points (settings, options) below --workdir: the first alone, then the others, --jobs at a time.

    link: called as link(first point's folder, another's) before that one runs.

    Raises:
      InputError: a point failed; its log says why. What is done stays done.
    """
    root = Path(common.WORKDIR.value)
    todo = [
        (root / sweep.name(point), sweep.command(common.CONFIG.value, root, point, options))
        for point, options in points
    ]
    if common.PRINT_ONLY.value:
        print("\n".join(shlex.join(words) for _, words in todo))
        return
    first, *others = todo
    _run([first])
    for folder, _ in others:
        link(first[0], folder)
    _run(others)


def _run(todo: list[tuple[Path, list[str]]]) -> None:
    if failed := sweep.run_here([entry for entry in todo if not sweep.done(*entry)], flags.FLAGS.jobs):
        raise InputError(f"{failed[0]} failed: see its {sweep.LOG}; the same command goes on")


def share(source: Path, target: Path, copy: Callable[[str, str], object] | None = None) -> None:
    """A folder of finished files under a second name; nothing if it is there.

    copy: copy(source, target) of a file; None for hard links, where the disk has them.
    """
    if target.exists() or not source.is_dir():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".linking")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial, copy_function=copy or _link)
    os.replace(partial, target)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def samples(folder: Path, names: Sequence[str], metrics: Sequence[str] = ("ndcg@10",)) -> dict[Key, Sample]:
    """Per-episode metrics of some methods in a point's folder, by protocol, family and method, and by all families.

    All families play the same targets, so "all" is the mean over families of each target: float64 [E] of that.
    """
    found: dict[Key, Sample] = {}
    families: dict[tuple[str, str], list[Sample]] = {}
    for (_, protocol, family, method), sample in read_samples(folder, metrics).items():
        if method in names and protocol in protocols():
            found[protocol, family, method] = sample
            families.setdefault((protocol, method), []).append(sample)
    for (protocol, method), members in families.items():
        if any(not np.array_equal(sample.users, members[0].users) for sample in members):
            raise InputError(f"{folder}: families of {protocol} differ in their targets; delete it and run again")
        values = {name: np.mean([sample.values[name] for sample in members], axis=0) for name in members[0].values}
        found[protocol, "all", method] = Sample(members[0].users, values)
    return found


def subsets(found: Sequence[Key], protocol: str) -> list[str]:
    """ "all" and the protocol's families, those that there are, in the order of FAMILIES."""
    there = {subset for p, subset, _ in found if p == protocol}
    return [subset for subset in ("all", *FAMILIES) if subset in there]


def mean(values: np.ndarray, users: np.ndarray) -> tuple[float, float, float]:
    """Mean and the ends of its 95% interval, users resampled; of one user the mean alone."""
    value = float(values.mean())
    return (value, *np.nan_to_num(cluster_bootstrap(values, users, RESAMPLES), nan=value).tolist())


def protocols() -> list[str]:
    """--protocols. Raises InputError for one that is unknown."""
    chosen = listed(_PROTOCOLS.value)
    for name in chosen:
        one_of("protocols", name, PROTOCOLS)
    return chosen


def write(name: str, text: str, figures: dict[str, str]) -> None:
    """WORKDIR/NAME.md and, for figure names -> `plots.svg`, WORKDIR/FIGURE.svg."""
    root = Path(common.WORKDIR.value)
    for figure, drawn in figures.items():
        write_atomically(root / f"{figure}.svg", standalone(drawn))
    write_atomically(root / f"{name}.md", text)
    print(f"{root / name}.md")


def spread(figures: tuple[float, float, float], form: str = "{:.3f}") -> tables.Cell:
    """A mean and its interval, as printed."""
    value, low, high = map(form.format, figures)
    return tables.Cell(f"{value} ({low} to {high})")
