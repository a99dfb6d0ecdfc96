"""config.run = report: DIR/report/index.html and the tables, from the result files alone."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from mma_jax.evaluation.results import RESULTS
from mma_jax.reports.html import write_report
from mma_jax.types import InputError


def run(config, directory: Path, dry_run: bool) -> None:
    if dry_run:
        print(f"report: {directory / 'report' / 'index.html'}")
        return
    if not any((directory / name).exists() for name in (RESULTS, "audit.json")):
        raise InputError(f"{directory} has no results to report: is it the --workdir of a run that was evaluated?")
    command = shlex.join(["python", "-m", "mma_jax.main", *sys.argv[1:]])
    print(f"\nreport: {write_report(directory, command=command, n_resamples=config.eval.bootstrap)}")
