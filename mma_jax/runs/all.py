"""config.run = all: prepare, audit, evaluate, report, one after the other; what is finished is not done again."""

from __future__ import annotations

from pathlib import Path

from mma_jax.runs import audit, evaluate, prepare, report


def run(config, directory: Path, dry_run: bool) -> None:
    prepare.run(config, directory, dry_run)
    if not dry_run:
        audit.run(config, directory, dry_run)
        evaluate.run(config, directory, dry_run)
        report.run(config, directory, dry_run)
