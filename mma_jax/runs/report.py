"""config.run = report: DIR/report/index.html and the tables, from the result files alone."""

from __future__ import annotations

from pathlib import Path

from mma_jax.reports.html import write_report


def run(config, directory: Path, dry_run: bool) -> None:
    print(f"\nreport: {write_report(directory)}")
