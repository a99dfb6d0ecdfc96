"""config.run = report: DIR/report/index.html and the tables, from the result files alone."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from mma_jax.reports.html import write_report


def run(config, directory: Path, dry_run: bool) -> None:
    if dry_run:
        print(f"report: {directory / 'report' / 'index.html'}")
        return
    print(f"\nreport: {write_report(directory, command=shlex.join(['python', '-m', 'mma_jax.main', *sys.argv[1:]]))}")
