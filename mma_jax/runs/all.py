"""config.run = all: prepare, audit, train, evaluate, report, in turn; what is finished is not done again."""

from __future__ import annotations

from pathlib import Path

from mma_jax.runs import audit, evaluate, prepare, report, train


def run(config, directory: Path, dry_run: bool) -> None:
    for step in (prepare, audit, train, evaluate, report)[
        : 1 if dry_run else None
    ]:  # the plan of prepare is the plan of all
        step.run(config, directory, dry_run)
