"""What every source shares: finding its files, numbering names, counting the records it cannot read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from mma_jax.types import InputError

TEXT_FIELDS = ("title", "categories", "description", "brand")
"""Columns of a `Catalog` that are text."""

REFUSE_SHARE = 0.01
REFUSE_COUNT = 10
"""A file is refused when its bad lines number more than both this share of its lines and this count."""

SHOWN_LINES = 3


class BadRecords:
    """The unreadable lines of one file, by kind. Line numbers are 1-based."""

    def __init__(self, path: Path):
        self.path = path
        self.lines: dict[str, list[int]] = {}

    def add(self, kind: str, lines: Iterable[int]) -> None:
        lines = [int(line) for line in lines]
        if lines:
            self.lines.setdefault(kind, []).extend(lines)

    def problems(self) -> list[str]:
        """One line per kind: how many, which file, the first line numbers."""
        name = self.path.name
        return [f"{len(lines):,} bad in {name}: {kind} ({_first(lines)})" for kind, lines in self.lines.items()]

    def refuse_too_many(self, total: int) -> None:
        """Raises InputError where the bad lines exceed the threshold, given the file's number of lines."""
        bad = sum(map(len, self.lines.values()))
        if bad > max(REFUSE_COUNT, REFUSE_SHARE * total):
            kinds = "; ".join(f"{kind} ({_first(lines)})" for kind, lines in self.lines.items())
            raise InputError(f"{self.path}: {bad:,} of {total:,} lines are unreadable, repair the file: {kinds}")


def _first(lines: list[int]) -> str:
    shown = ", ".join(map(str, sorted(lines)[:SHOWN_LINES]))
    return f"{'line' if len(lines) == 1 else 'lines'} {shown}{', ...' if len(lines) > SHOWN_LINES else ''}"


def find(root: str, name: str, *patterns: str) -> list[Path]:
    """Files matching any of the patterns in root/name or, where that has none, in root itself; sorted.

    Raises InputError where neither folder exists or neither holds such a file.
    """
    if not Path(root).is_dir():
        raise InputError(f"{root}: no such folder; point data.root at the folder that holds {name}/")
    for folder in filter(Path.is_dir, (Path(root) / name, Path(root))):
        if files := [path for path in sorted(folder.iterdir()) if any(fnmatchcase(path.name, p) for p in patterns)]:
            return files
    raise InputError(f"{root}: no {' or '.join(patterns)} in {name}/ or here; check data.root and data.name")


def number(names: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Codes int32 [N] of the names in order of first appearance, and the distinct names in that order."""
    distinct = tuple(dict.fromkeys(names))
    code = {name: i for i, name in enumerate(distinct)}
    return np.fromiter(map(code.__getitem__, names), np.int32, len(names)), distinct


def repeats(user: np.ndarray, item: np.ndarray) -> list[str]:
    """The problem line that counts repeated (user, item) interactions, [] where there is none. They are kept."""
    pairs = user.astype(np.int64) << 32 | item
    count = len(pairs) - len(np.unique(pairs))
    return [f"{count:,} interactions repeat an earlier (user, item) pair; kept"] if count else []
