"""What a run left in its folder, read once for the report: rows, per-episode scores, traces, audit.

Everything but the folder itself may be absent; what is absent reads as empty, and the report says so.
"""

from __future__ import annotations

import dataclasses
import json
import math
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mma_jax.evaluation import access, results
from mma_jax.types import FAMILIES, InputError

METRICS = ("ndcg@10", "mrr")
"""The per-episode columns that the figures use."""


TRAINING_LOG = "panel.jsonl"
"""One JSON object per iteration of a training run, in DIR/train/METHOD/SEED."""


@dataclasses.dataclass(frozen=True, eq=False)
class Sample:
    """The episodes of one method under one family; seeds are averaged within an episode."""

    users: np.ndarray  # int64 [E] cluster codes for the bootstrap, the same in all samples of a run
    values: dict[str, np.ndarray]  # metric -> float64 [E], nan where an episode lacks it


@dataclasses.dataclass(frozen=True, eq=False)
class Traces:
    """The episodes that the viewer embeds, of all that were recorded."""

    shown: tuple[dict, ...]
    recorded: int


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """A run's folder in memory."""

    directory: Path
    rows: tuple[dict, ...]  # results.jsonl
    samples: dict[tuple[str, str, str, str], Sample]  # (dataset, protocol, family, method) of per_episode.jsonl
    traces: Traces
    comparisons: tuple[dict, ...]
    audit: tuple[dict, ...]
    statistics: dict[str, Any]
    config: dict[str, Any]
    regret: tuple[dict, ...]
    information: tuple[dict, ...]
    training: dict[tuple[str, str], tuple[dict, ...]]  # (method, seed) -> lines of its TRAINING_LOG
    access: tuple[dict, ...]  # lines of the ledger of looks at the test part
    access_beside: tuple[dict, ...]  # those of the folders beside this one

    def unique(self, field: str) -> list[str]:
        """The values of a field of the rows as text, in order of first appearance."""
        return list(dict.fromkeys(str(row[field]) for row in self.rows))


def load_run(directory: str | Path, max_traces: int) -> Run:
    """Read the result files of `directory`, keeping at most `max_traces` traces.

    Raises InputError if the folder does not exist or one of its files is not what it should be.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise InputError(f"{directory}: no such folder; give the --workdir of a run that has results")
    return Run(
        directory=directory,
        rows=tuple(results.read_results(directory)),
        samples=read_samples(directory),
        traces=read_traces(directory, max_traces),
        comparisons=tuple(read_rows(directory / "comparisons.jsonl")),
        audit=tuple(read_json(directory / "audit.json", [])),
        statistics=read_json(directory / "statistics.json", {}),
        config=read_json(directory / "config.json", {}),
        regret=tuple(read_rows(directory / "regret.jsonl")),
        information=tuple(read_rows(directory / "information.jsonl")),
        training=read_training(directory / "train"),
        access=tuple(access.read(directory)),
        access_beside=tuple(access.read_beside(directory)),
    )


def read_json(path: Path, absent: Any) -> Any:
    """The JSON value in `path`, of the same kind as `absent`, which stands in for a missing file."""
    if not path.exists():
        return absent
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error}); delete it and run again") from error
    if not isinstance(value, type(absent)):
        raise InputError(f"{path}: holds a {type(value).__name__}, not a {type(absent).__name__}; run again")
    return value


def read_training(folder: Path) -> dict[tuple[str, str], tuple[dict, ...]]:
    """(method, seed) -> the lines of its TRAINING_LOG; runs that have written none are left out."""
    paths = sorted(folder.glob(f"*/*/{TRAINING_LOG}"), key=lambda path: (path.parts[-3], len(path.parts[-2]), path))
    logs = {path.parts[-3:-1]: _parsed(path, path.read_text("utf-8").rpartition("\n")[0]) for path in paths}
    return {key: tuple(lines) for key, lines in logs.items() if lines}  # after the last newline, training still writes


def read_rows(path: Path) -> list[dict]:
    """The objects of a JSON-lines file that was written in one piece, none if it is missing."""
    return _parsed(path, path.read_text(encoding="utf-8")) if path.exists() else []


def _parsed(path: Path, text: str) -> list[dict]:
    try:
        return [json.loads(line) for line in text.split("\n") if line]
    except ValueError as error:
        raise InputError(f"{path}: not JSON lines ({error}); delete it and run again") from error


def _watched(rows: Iterable[dict], name: str) -> Iterable[dict]:
    return tqdm(rows, desc=f"reading {name}", unit=" episodes", disable=None, leave=False)


def read_samples(directory: Path, metrics: Sequence[str] = METRICS) -> dict[tuple[str, str, str, str], Sample]:
    """Per-episode metrics by (dataset, protocol, family, method), averaged over seeds before anything else."""
    places: dict[tuple, dict[str, int]] = {}  # key -> episode -> its place in the sample
    rows: dict[tuple, list[tuple[float, ...]]] = {}  # key -> (place, a value per metric)
    users: dict[tuple, list[str]] = {}
    for row in _watched(results.read_episodes(directory), "scores"):
        if row["subset"] not in FAMILIES:
            continue
        key = (row["dataset"], row["protocol"], row["subset"], row["method"])
        known = places.setdefault(key, {})
        if row["episode_id"] not in known:
            known[row["episode_id"]] = len(known)
            users.setdefault(key, []).append(str(row["user"]))
        values = [math.nan if row.get(metric) is None else row[metric] for metric in metrics]
        rows.setdefault(key, []).append((known[row["episode_id"]], *values))
    codes = {user: code for code, user in enumerate(sorted({user for found in users.values() for user in found}))}
    return {key: Sample(np.array([codes[user] for user in users[key]]), _means(rows[key], metrics)) for key in rows}


def _means(rows: list[tuple[float, ...]], metrics: Sequence[str]) -> dict[str, np.ndarray]:
    """Per metric the mean of the rows that share a place, one entry a place."""
    place, *columns = np.array(rows).T
    place = place.astype(np.int64)
    counts = np.bincount(place)
    return {metric: np.bincount(place, column) / counts for metric, column in zip(metrics, columns, strict=True)}


def read_traces(directory: Path, max_traces: int) -> Traces:
    """Keep at most `max_traces` of the recorded episodes, spread evenly over methods and families.

    The file is read twice, so that only the kept ones are ever in memory.
    """
    groups: dict[tuple, list[tuple[int, int]]] = {}
    for number, row in enumerate(_watched(results.read_traces(directory), "traces")):
        group = (row["dataset"], row["protocol"], row["method"], row["family"])
        # The order depends on the episode alone, so that methods are shown on the same episodes.
        groups.setdefault(group, []).append((zlib.crc32(row["episode_id"].encode()), number))
    kept = set(spread([[number for _, number in sorted(group)] for group in groups.values()], max_traces))
    again = enumerate(_watched(results.read_traces(directory), "traces"))
    return Traces(tuple(finite(row) for number, row in again if number in kept), sum(map(len, groups.values())))


def spread(groups: list[list[int]], limit: int) -> list[int]:
    """At most `limit` entries, taken in turn from each group: first ones first, then second ones, ..."""
    longest = max(map(len, groups), default=0)
    turns = [group[turn] for turn in range(longest) for group in groups if turn < len(group)]
    return turns[:limit]


def finite(value: Any) -> Any:
    """The same value with NaN and infinities, which a browser's JSON refuses, turned into words."""
    if isinstance(value, dict):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [finite(entry) for entry in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
