"""config.run = prepare: load the data, build every evidence store, print the statistics of Table 2 and the recall
of the first stage before any target is inserted."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import jax
import numpy as np

from mma_jax.agents.registry import METHODS, chosen
from mma_jax.data.disk import write_atomically
from mma_jax.data.splits import resolve_kind
from mma_jax.data.statistics import statistics
from mma_jax.envs.budget import describe, estimate_tokens
from mma_jax.envs.environment import Environment
from mma_jax.envs.evidence import Evidence
from mma_jax.evaluation.bits import bits_table
from mma_jax.evaluation.checks import check_settings, one_of, options
from mma_jax.evaluation.episodes import CHUNK, PARTS, recall_table
from mma_jax.evaluation.experiment import Experiment
from mma_jax.models.convert import L0_TINY
from mma_jax.runs import baselines, language
from mma_jax.runs.images import build_image_store, check_encoder


def experiment(config, directory: Path) -> Experiment:
    """The experiment of a config, checked: names and ranges before any data is read, what does not fit it after."""
    check_settings(config)
    check_encoder(config.images)
    one_of("eval.reference", config.eval.reference, METHODS)
    made = Experiment(config, directory, build_image_store)
    baselines.check(config, methods(made))
    made.check()
    return made


def methods(made: Experiment) -> list[str]:
    """The methods asked for. Raises InputError for an unknown name."""
    return chosen(made.config.methods, world=made.world is not None)


def check_agents(made: Experiment) -> None:
    """Raises InputError, before any work, where agents are asked for that could not play."""
    if any(METHODS[name].needs_language_model for name in methods(made)):
        language.check(made.config)


def data_statistics(made: Experiment) -> dict:
    """What `describe_data` found, from DIR/statistics.json if it is there."""
    path = made.directory / "statistics.json"
    if not path.exists():
        write_atomically(path, json.dumps(describe_data(made)))
    return json.loads(path.read_text())


def run(config, directory: Path, dry_run: bool) -> None:
    if dry_run:
        with tempfile.TemporaryDirectory() as scratch:  # a generated world has to be written somewhere
            plan(experiment(config, Path(scratch)))
        return
    made = experiment(config, directory)
    check_agents(made)
    for problem in [*made.dataset.problems, *unreadable(made)]:
        print(f"  note: {problem}")
    show(made.dataset.name, data_statistics(made))
    build(made)


def build(made: Experiment) -> None:
    """All episodes and what they are played with, written where they are not there yet."""
    for protocol in made.protocols:
        for part in PARTS:
            made.episodes(part, protocol)
        made.fit_episodes(protocol)  # raises if a family has nothing to fit


def unreadable(made: Experiment) -> list[str]:
    """What is wrong with image files that are treated as missing."""
    counts = made.images.meta["unreadable"] if made.images is not None else {}
    return [f"{count} image files are treated as missing: {reason}" for reason, count in counts.items()]


def describe_data(made: Experiment) -> dict:
    """Statistics, what the evidence of a generated world carries, recall before insertion, users without history."""
    kind = resolve_kind(made.dataset.interactions, made.config.data.split)
    rows = [*statistics(made.dataset, made.positive, made.parts), ("split", kind)]
    rows += [("problem", problem) for problem in unreadable(made)]
    if made.world is not None:
        for row in bits_table(made.world, made.dataset.catalog, made.view("test")):
            name = f"bits in {row['modality']}: {row['attribute']}"
            rows.append((name, f"{row['bits']:.2f} shown, {row['recovered']:.2f} recovered"))
    views = {part: made.view(part) for part in PARTS}
    sampled = {part: made.sampled(part) for part in PARTS}
    later = [len(np.setdiff1d(query.known, query.seen)) - 1 for query in sampled["test"].queries]
    rows.append(("later positives kept out of negatives, mean per test target", f"{np.mean(later):.1f}"))
    return {
        "rows": rows,
        "recall": recall_table(views, sampled, made.config.pool.size, made.config.seed),
        "without_history": {part: sum(len(h) == 0 for h in queries.histories) for part, queries in sampled.items()},
    }


def show(name: str, saved: dict) -> None:
    """Print what `describe_data` found."""
    _print_rows(f"{name}: data", saved["rows"])
    recall = [
        (f"{row['source']} recall@{row['k']}", "  ".join(f"{part} {row[part]:.3f}" for part in PARTS))
        for row in saved["recall"]
    ]
    without = "  ".join(f"{part} {count}" for part, count in saved["without_history"].items())
    _print_rows("first stage, before insertion", [*recall, ("targets of users without history (kept)", without)])


def plan(made: Experiment) -> None:
    """What a run would do, without doing it."""
    config, items = made.config, len(made.dataset.catalog)
    _print_rows(f"{made.dataset.name}: data", statistics(made.dataset, made.positive, made.parts))
    names = methods(made)
    targets = {part: len(made.sampled(part).rows) for part in PARTS}
    rows = [
        ("run", config.run),
        ("methods", f"{len(names)}: {', '.join(names)}"),
        *((f"families of {protocol}", ", ".join(made.families(protocol))) for protocol in made.protocols),
        ("pool", f"{config.pool.kind}, B = {config.pool.size}, negatives: {config.pool.negatives}"),
        ("targets sampled, played by every family", ", ".join(f"{part} {count:,}" for part, count in targets.items())),
        ("image encoder", config.images.encoder),
        ("largest array", f"first-stage scores {CHUNK} x {items:,} float32, {CHUNK * items * 4 / 2**20:.0f} MiB"),
        ("devices", ", ".join(map(str, jax.devices()))),
    ]
    _print_rows("plan", rows)
    if any(METHODS[name].needs_language_model for name in names):
        _print_rows("language model", language.plan(config))
    there = (Path(config.model.path or L0_TINY) / "config.json").is_file()
    count = made.count_tokens if there else estimate_tokens
    environment = Environment(Evidence(), options(config, made.protocols[0]), count)
    budget = environment.budget(config.pool.size)
    _print_rows(
        "token budget", [(name, f"{value:<8} {meaning}") for name, value, meaning in describe(budget, config.pool.size)]
    )


def _print_rows(title: str, rows) -> None:
    print(f"\n{title}")
    for name, value in rows:
        print(f"  {name:<42} {value}")
