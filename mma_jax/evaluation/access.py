"""Who has looked at the test part, and how often: DIR/test_access.jsonl, a line for every cell that was judged on it.

A benchmark whose test part is consulted again and again becomes a second validation set (Dwork et al., "The reusable
holdout", 2015); so each look is written down. The file is append-only and nobody's input: neither resuming nor changed
settings depend on it, and it outlives result files that are deleted to run again. What is not known: looks of a folder
that was deleted whole, and the audit's own controls, which are played on test episodes and choose nothing.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from mma_jax.evaluation.experiment import Experiment
from mma_jax.evaluation.results import CELLS, Cell
from mma_jax.types import InputError

FILE = "test_access.jsonl"


class Ledger:
    """A run's folder's ledger, open for appending by the process that holds its results.

    A line is written once its cell is finished. A run that is killed just between the two is caught up with here: a
    finished cell without a line gets it, dated as the results are. So a resumed cell has one line, and a cell that is
    judged anew, because its results were deleted, has one more.

    Args:
      made: the experiment.
      done: cells whose results are there.
      free: settings ("a.b") that choose what is done, not what comes out; the line's fingerprint leaves them out.
    """

    def __init__(self, made: Experiment, done: Iterable[Cell], free: Sequence[str]):
        self._made, self._path = made, made.directory / FILE
        self._settings = _fingerprint(json.loads(made.config.to_json()), free)
        self._cut()
        known = {tuple(line[field] for field in Cell._fields) for line in read(made.directory)}
        for cell in done:
            if tuple(cell) not in known:
                self.record(cell, os.stat(made.directory / CELLS).st_mtime)

    def record(self, cell: Cell, when: float | None = None) -> None:
        """A line for a cell; when: seconds since 1970, None for now."""
        moment = datetime.datetime.fromtimestamp(time.time() if when is None else when, datetime.UTC)
        episodes = len(self._made.episodes("test", cell.protocol))
        line = {"time": moment.strftime("%Y-%m-%dT%H:%M:%SZ"), **cell._asdict(), "settings": self._settings}
        with open(self._path, "ab") as file:
            file.write(json.dumps(line | {"episodes": episodes}).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _cut(self) -> None:
        """Cuts off a line that a kill left unfinished."""
        if self._path.exists():
            os.truncate(self._path, self._path.read_bytes().rfind(b"\n") + 1)


def read(directory: Path) -> list[dict]:
    """The ledger of a folder, oldest line first; empty without one. Raises InputError for a line that is none."""
    path = Path(directory) / FILE
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []  # after the last newline, one is being written
    found = []
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            found.append({key: entry[key] for key in ("time", *Cell._fields, "settings", "episodes")})
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{path}, line {number}: no line of this ledger; move the file away") from None
    return found


def read_beside(directory: Path) -> list[dict]:
    """Lines of the folders that lie beside this one, the project's other runs; what cannot be read is left out."""
    own = Path(directory).resolve()
    found = []
    for path in sorted(own.parent.glob(f"*/{FILE}")):
        if path.parent != own:
            try:
                found += read(path.parent)
            except (InputError, OSError):
                continue
    return found


def _fingerprint(settings: dict, free: Sequence[str]) -> str:
    """16 hexadecimal digits that differ where settings do."""
    flat = sorted((key, json.dumps(value)) for key, value in _flat(settings) if key not in free)
    return hashlib.sha256(json.dumps(flat).encode()).hexdigest()[:16]


def _flat(settings: dict, prefix: str = "") -> Iterable[tuple[str, object]]:
    for key, value in settings.items():
        yield from _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]
