"""Runs by name: what `config.run` may say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mma_jax.runs import all as everything
from mma_jax.runs import audit, clip, cost, evaluate, export, prepare, pretrain, report, train

RUNS: dict[str, Callable[[object, Path, bool], None]] = {
    "all": everything.run,
    "prepare": prepare.run,
    "audit": audit.run,
    "evaluate": evaluate.run,
    "report": report.run,
    "cost": cost.run,
    "train": train.run,
    "clip": clip.run,
    "pretrain": pretrain.run,
    "export": export.run,
}
"""Each is called as run(config, directory, dry_run)."""

SHARED = ("all", "train", "evaluate")
"""Those that several processes can do together."""
