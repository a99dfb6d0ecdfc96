"""The result files of a run, written so that being killed at any moment costs at most the cell at work.

A *cell* (dataset, protocol, method, seed) is the unit of work. Its lines go to three append-only files, results.jsonl,
per_episode.jsonl and traces.jsonl, which reach the disk before one line in cells.jsonl declares the cell done and
records where each file ends after it. Whatever lies beyond the last recorded ends belongs to no finished cell:
opening the log cuts it off, and readers do not see it.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mma_jax.data.disk import lock
from mma_jax.types import InputError

RESULTS, EPISODES, TRACES, CELLS = "results.jsonl", "per_episode.jsonl", "traces.jsonl", "cells.jsonl"
_LOGS = (RESULTS, EPISODES, TRACES)
_ENCODER = json.JSONEncoder(allow_nan=False, separators=(",", ":"))


class Cell(NamedTuple):
    """One unit of work."""

    dataset: str
    protocol: str
    method: str
    seed: int


class ResultLog:
    """The result files of one directory, open for appending by this process alone.

    Use as a context manager, or `close` it. Opening creates the directory and cuts off what a killed run left behind.

    Raises:
      InputError: the directory cannot be written, another process is writing there, or its files were edited.
    """

    def __init__(self, directory: str | os.PathLike):
        self._directory = Path(directory)
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._lock = lock(self._directory / CELLS)
        except OSError as error:
            raise InputError(
                f"{self._directory}: cannot write results here ({error.strerror}); choose another folder"
            ) from error
        try:
            self._done, self._ends = _committed(self._directory)
            self._cut()
            _sync_directory(self._directory)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> ResultLog:
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def close(self) -> None:
        """Lets other processes write here."""
        self._lock.close()

    def done(self, cell: Cell) -> bool:
        """Whether the cell was written completely, in this run or an earlier one."""
        return cell in self._done

    def write(
        self, cell: Cell, rows: Iterable[Mapping], episodes: Iterable[Mapping] = (), traces: Iterable[Mapping] = ()
    ) -> None:
        """Appends all lines of a cell and declares it done. On any error the cell is not done and nothing of it stays.

        Args:
          cell: names the work; its four fields are added to every line.
          rows: {"subset", "metric", "value", "n"}, for results.jsonl.
          episodes: {"episode_id", ...}, for per_episode.jsonl. May be a generator, as may be `traces`.
          traces: {"episode_id", ...}, for traces.jsonl.

        numpy scalars and arrays become plain numbers and lists, nan becomes null.

        Raises:
          ValueError: the cell is done already, a row has the wrong fields, or a number is infinite.
        """
        if cell in self._done:
            raise ValueError(f"{cell} is already written")
        lines = (
            (_result(cell, row) for row in rows),
            (_episode(cell, row) for row in episodes),
            (_episode(cell, row) for row in traces),
        )
        try:
            ends = {name: self._append(name, stream) for name, stream in zip(_LOGS, lines, strict=True)}
            ends[CELLS] = self._append(CELLS, [{**cell._asdict(), "ends": ends}])
        except BaseException:
            self._cut()
            raise
        self._ends = ends
        self._done.add(cell)

    def _append(self, name: str, entries: Iterable[dict]) -> int:
        """Adds one line per entry, waits for the disk, and returns the file's new end."""
        with open(self._directory / name, "ab") as file:
            for entry in entries:
                file.write(_line(entry))
            file.flush()
            os.fsync(file.fileno())
            return file.tell()

    def _cut(self) -> None:
        """Cuts off, or creates empty, what no finished cell accounts for."""
        for name, end in self._ends.items():
            with open(self._directory / name, "ab") as file:
                file.truncate(end)


def read_results(directory: str | os.PathLike) -> list[dict]:
    """Rows of results.jsonl of all finished cells; an undefined value is None. Empty if there are no results.

    Raises:
      InputError: the files were edited, or a line is not JSON.
    """
    return list(_read(directory, RESULTS))


def read_episodes(directory: str | os.PathLike) -> Iterator[dict]:
    """Lines of per_episode.jsonl of all finished cells, one at a time. Errors as in `read_results`."""
    return _read(directory, EPISODES)


def read_traces(directory: str | os.PathLike) -> Iterator[dict]:
    """Lines of traces.jsonl of all finished cells, one at a time. Errors as in `read_results`."""
    return _read(directory, TRACES)


def _read(directory: str | os.PathLike, name: str) -> Iterator[dict]:
    directory = Path(directory)
    _, ends = _committed(directory)
    if not ends[name]:
        return
    position = 0
    with open(directory / name, "rb") as file:
        for number, line in enumerate(file, 1):
            position += len(line)
            if position > ends[name]:
                return
            yield _parse(directory / name, number, line)


def _committed(directory: Path) -> tuple[set[Cell], dict[str, int]]:
    """The finished cells of a directory, and where each of its files ends after the last of them."""
    path = directory / CELLS
    cells, ends = set(), dict.fromkeys((*_LOGS, CELLS), 0)
    if not path.exists():
        return cells, ends
    end = 0
    for number, line in enumerate(
        path.read_bytes().split(b"\n")[:-1], 1
    ):  # what follows the last newline was cut short
        entry = _parse(path, number, line)
        end += len(line) + 1
        try:
            cells.add(Cell(*(entry[field] for field in Cell._fields)))
            ends = {**{name: int(entry["ends"][name]) for name in _LOGS}, CELLS: end}
        except (KeyError, TypeError, ValueError):
            raise InputError(f"{path}, line {number}: not a cell; delete the .jsonl files and run again") from None
    for name in _LOGS:
        size = (directory / name).stat().st_size if (directory / name).exists() else 0
        if size < ends[name]:
            raise InputError(
                f"{directory / name}: {size} bytes where {CELLS} records {ends[name]}; "
                "restore it, or delete the .jsonl files and run again"
            )
    return cells, ends


def _parse(path: Path, number: int, line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        raise InputError(f"{path}, line {number}: not JSON; delete the .jsonl files and run again") from None


def _sync_directory(directory: Path) -> None:
    """Makes the names of newly created files durable, as fsync on a file alone does not."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _result(cell: Cell, row: Mapping) -> dict:
    if set(row) != {"subset", "metric", "value", "n"}:
        raise ValueError(f"a result row has subset, metric, value and n, not {', '.join(sorted(row))}")
    return {
        "dataset": cell.dataset,
        "protocol": cell.protocol,
        "subset": row["subset"],
        "method": cell.method,
        "seed": cell.seed,
        "metric": row["metric"],
        "value": float(row["value"]),
        "n": int(row["n"]),
    }


def _episode(cell: Cell, row: Mapping) -> dict:
    if "episode_id" not in row or not row.keys().isdisjoint(Cell._fields):
        raise ValueError(
            "an episode's line has an episode_id, and leaves dataset, protocol, method and seed to the cell"
        )
    return {**cell._asdict(), **row}


def _line(entry: dict) -> bytes:
    try:
        text = _ENCODER.encode(entry)
    except (TypeError, ValueError):  # numpy or nan somewhere inside; a long trace without them is spared the walk
        text = _ENCODER.encode(_plain(entry))
    return text.encode() + b"\n"


def _plain(value: Any) -> Any:
    """The same value in what JSON has: numpy becomes Python, nan None; infinities are left for JSON to refuse."""
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, float) and math.isnan(value):
        return None
    return value
