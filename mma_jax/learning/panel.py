"""The stability panel: each iteration's figures as a line of JSON and in TensorBoard, and alarms where one is off.

An alarm is a name in the record and a line on stderr; it never stops a run.
"""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter
from tqdm import tqdm

ALARMS = (
    # name, figure, its limit in config.alarms
    ("reward_variance", "reward_std", "reward_std_min"),
    ("reward_variance_siblings", "reward_std_siblings", "reward_std_min"),
    ("entropy", "entropy", "entropy_min"),
    ("invalid_rate", "invalid_rate", "invalid_max"),
    ("repeat_null_rate", "repeat_null_rate", "repeat_null_max"),
    ("clip_fraction", "clip_fraction", "clip_max"),
    ("kl", "kl", "kl_max"),
    ("sampler_mismatch", "dlogp_max", "dlogp_max"),
)


class Panel:
    """Writes `panel.jsonl` and TensorBoard events.

    Args:
        directory: theirs; made when needed.
        limits: `config.alarms`.
        writes: False for all but one of several processes: they write nothing.
    """

    def __init__(self, directory: Path | str, limits: Any, writes: bool = True):
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.path = self.directory / "panel.jsonl"
        self._limits, self._writes = limits, writes
        self._board: SummaryWriter | None = None

    @property
    def position(self) -> int:
        """Bytes written so far; `rewind` goes back to it."""
        return self.path.stat().st_size if self.path.exists() else 0

    def rewind(self, position: int, iteration: int) -> None:
        """Forgets what was written after a checkpoint (DESIGN §6.16). Call before the first `write`.

        Args:
            position: `position` when the checkpoint was saved, 0 without one.
            iteration: the checkpoint's; TensorBoard hides what came after it.
        """
        if not self._writes:
            return
        with open(self.path, "ab") as file:
            file.truncate(position)
        self._board = SummaryWriter(str(self.directory), purge_step=iteration + 1)

    def write(self, iteration: int, figures: dict[str, float]) -> list[str]:
        """Adds a record `{"iteration", figures..., "alarms"}`; a figure that is not finite becomes null.

        Returns:
            Names of the alarms.
        """
        alarms = alarms_of(figures, self._limits)
        if not self._writes:
            return alarms
        for name, figure, limit in ALARMS:
            if name in alarms:
                measured = f"{figure} {figures[figure]:.4g}, {limit} {self._limits[limit]:.4g}"
                tqdm.write(f"alarm {name} at {iteration}: {measured}", file=sys.stderr)
        finite = {name: float(value) if math.isfinite(value) else None for name, value in figures.items()}
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"iteration": iteration, **finite, "alarms": alarms}) + "\n")
            file.flush()
            os.fsync(file.fileno())
        for name, value in finite.items():
            if value is not None:
                self._board.add_scalar(name, value, iteration)
        self._board.flush()
        return alarms

    def close(self) -> None:
        if self._board is not None:
            self._board.close()


def alarms_of(figures: dict[str, float], limits: Any) -> list[str]:
    """Names of the figures beyond their limit; one that is not a number always is, one not measured never."""
    raised = []
    for name, figure, limit in ALARMS:
        if figure in figures:
            value, bound = figures[figure], limits[limit]
            fine = value >= bound if limit.endswith("_min") else value <= bound
            raised += [] if fine else [name]
    return raised
