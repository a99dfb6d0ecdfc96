"""config.run = prepare: load the data, build every evidence store, print the statistics of Table 2 and the recall
of the first stage before any target is inserted."""

from __future__ import annotations

import json
from pathlib import Path

from mma_jax.data.statistics import statistics
from mma_jax.envs import prompts
from mma_jax.evaluation.episodes import recall_table
from mma_jax.evaluation.experiment import Experiment
from mma_jax.runs.images import build_image_store
from mma_jax.runs.workdir import write_atomically


def experiment(config, directory: Path) -> Experiment:
    """The experiment of a config, checked."""
    made = Experiment(config, directory, build_image_store)
    made.check()
    return made


def run(config, directory: Path, dry_run: bool) -> None:
    made = experiment(config, directory)
    rows = statistics(made.dataset, made.positive, made.parts)
    _print_rows(f"{made.dataset.name}: data", rows)
    if dry_run:
        plan(made)
        return
    for problem in made.dataset.problems:
        print(f"  note: {problem}")
    path = directory / "statistics.json"
    if not path.exists():
        views = {part: made.view(part) for part in ("train", "valid", "test")}
        sampled = {part: made.sampled(part) for part in views}
        recall = recall_table(views, sampled, config.pool.size, config.seed)
        without = {part: sum(len(h) == 0 for h in queries.histories) for part, queries in sampled.items()}
        write_atomically(path, json.dumps({"rows": rows, "recall": recall, "without_history": without}))
    saved = json.loads(path.read_text())
    recall_rows = [
        (
            f"{row['source']} recall@{row['k']}",
            "  ".join(f"{part} {row[part]:.3f}" for part in ("train", "valid", "test")),
        )
        for row in saved["recall"]
    ]
    counts = "  ".join(f"{part} {n}" for part, n in saved["without_history"].items())
    _print_rows("first stage, before insertion", [*recall_rows, ("targets of users without history (kept)", counts)])
    for protocol in made.protocols:
        for part in ("train", "valid", "test"):
            made.episodes(part, protocol)


def plan(made: Experiment) -> None:
    """What a run would do, without doing it."""
    config = made.config
    rows = [
        ("run", config.run),
        ("methods", config.methods),
        ("pool", f"{config.pool.kind}, B = {config.pool.size}"),
        ("positives per part", ", ".join(f"{name} {count:,}" for name, count in made.part_counts().items())),
        ("targets sampled per part", ", ".join(f"{p} {config.episodes[p]:,}" for p in ("train", "valid", "test"))),
        ("image encoder", config.images.encoder),
    ]
    _print_rows("plan", rows)
    _print_rows("token budget", prompts.describe(prompts.budget(config.env.context, config.pool.size)))


def _print_rows(title: str, rows) -> None:
    print(f"\n{title}")
    for name, value in rows:
        print(f"  {name:<42} {value}")
