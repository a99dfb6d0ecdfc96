"""Analyses beyond the paper: regret by its parts, the worth of information, and evidence that lies.

Each section is there only if a run has made its file or played its protocols.
"""

from __future__ import annotations

import dataclasses
import html
import statistics
from collections.abc import Iterator, Sequence

import numpy as np

from mma_jax.evaluation.information import calibration
from mma_jax.evaluation.regret import PARTS
from mma_jax.reports import panels, tables
from mma_jax.reports.load import Run
from mma_jax.reports.section import Section, figure, short
from mma_jax.reports.tables import Cell, Column, Table
from mma_jax.types import FAMILIES

DRAWN = ("routing", "scoring", "fusion", "retrieval")
BINS = 10

STRESS_LEAD = (
    "The same episodes with tools that tell the truth, that lie (wrong), or that know only the older half of the "
    "user’s history (stale). Who falls far has trusted whatever answered."
)
REGRET_LEAD = (
    "1 − achieved NDCG@10 = retrieval (the target was not in the pool) + uncertainty (what the reference cannot know "
    "either) + routing (surviving evidence not called for) + scoring (evidence heard and not used) + fusion (the "
    "validated α against each family’s best). The reference is Bayes in the generated world and the fitted "
    "Evidence-linear scorer, which can be beaten, on real data."
)
INFORMATION_LEAD = (
    "What a call is worth: the change of the value head’s expectation over it, V after less V before, against the "
    "return from there on less the return of scoring instead of calling; the call’s own cost is in neither. V before "
    "expects the answer already, so bias (mean predicted − realized) is below zero where calls pay on average; "
    "correlation and the centered error tell whether the head knows which answers paid. Methods whose value head was "
    "never trained are left out."
)


def stress_section(run: Run) -> Iterator[Section]:
    """NDCG@10 of faithful, wrong and stale evidence side by side."""
    kinds = {"ooma": "Faithful", "stress_wrong": "Wrong", "stress_stale": "Stale"}
    stressed = {row["method"] for row in run.rows if row["protocol"] in ("stress_wrong", "stress_stale")}
    rows = [
        {**row, "metric": row["protocol"]}
        for row in run.rows
        if row["protocol"] in kinds
        and row["method"] in stressed
        and (row["subset"], row["metric"]) == ("all", "ndcg@10")
    ]
    if stressed:
        columns = [Column(header, protocol, "all") for protocol, header in kinds.items()]
        table = tables.tabulate(rows, "OOMA: NDCG@10 with unfaithful evidence", columns)
        yield Section("stress", "Unfaithful evidence", STRESS_LEAD, (table,))


def regret_section(run: Run) -> Iterator[Section]:
    """Tables of all parts, and bars of those that a method can do something about, per protocol."""
    parts: list[Table | str] = []
    for protocol in dict.fromkeys(row["protocol"] for row in run.regret):
        rows = [row for row in run.regret if row["protocol"] == protocol]
        for dataset in dict.fromkeys(row["dataset"] for row in rows):
            mine = [row for row in rows if row["dataset"] == dataset and row["subset"] in FAMILIES]
            title = f"{dataset}, {short(protocol)}: regret by its parts"
            drawn = panels.stacked_panels(_bars(mine), DRAWN, title, "NDCG@10 lost; the tick is the sum")
            parts.append(f"<h3>{html.escape(title)}</h3>{drawn}")
        title = f"{short(protocol)}: where NDCG@10 is lost"
        parts.append(_regret_table(title, [row for row in rows if row["subset"] == "all"]))
        by_family = _regret_table(f"{title}, by family", [row for row in rows if row["subset"] != "all"])
        parts.append(dataclasses.replace(by_family, folded=True))
    if parts:
        yield Section("regret", "Regret", REGRET_LEAD, tuple(parts))


def _bars(rows: Sequence[dict]) -> dict[str, dict[str, dict[str, float]]]:
    """Family -> method -> part of DRAWN -> mean over seeds."""
    seeds: dict[tuple[str, str, str], list[float]] = {}
    for row in rows:
        if row["part"] in DRAWN:
            seeds.setdefault((row["subset"], row["method"], row["part"]), []).append(row["value"])
    bars: dict[str, dict[str, dict[str, float]]] = {}
    for (family, method, part), values in seeds.items():
        bars.setdefault(tables.family_name(family), {}).setdefault(method, {})[part] = statistics.fmean(values)
    return bars


def _regret_table(title: str, rows: Sequence[dict]) -> Table:
    """Means over seeds, with the mean standard error over episodes."""
    cells: dict[tuple[str, str, str], dict[str, list[dict]]] = {}
    for row in rows:
        key = (row["dataset"], row["method"], tables.family_name(row["subset"]))
        cells.setdefault(key, {}).setdefault(row["part"], []).append(row)
    lines = [
        [*key, *(_mean_cell(found[part]) for part in PARTS), f"{found['achieved'][0]['n']:,}"]
        for key, found in cells.items()
    ]
    headers = ("Dataset", "Method", "Family", *(part.capitalize() for part in PARTS), "Episodes")
    table = tables.plain_table(title, headers, lines, 3)
    return dataclasses.replace(table, notes=("± standard error over episodes, clustered by user; seeds averaged.",))


def _mean_cell(rows: Sequence[dict]) -> Cell:
    errors = [row["se"] for row in rows if row["se"] is not None and row["se"] == row["se"]]  # undefined for one user
    spread = f"{statistics.fmean(errors):.4f}" if errors else ""
    return Cell(f"{statistics.fmean(row['value'] for row in rows):.4f}", spread)


def information_section(run: Run) -> Iterator[Section]:
    """Calibration of the value head over calls, per method and tool, seeds together."""
    parts: list[Table | str] = []
    for dataset, protocol, method in dict.fromkeys(
        (row["dataset"], row["protocol"], row["method"]) for row in run.information
    ):
        key = {"dataset": dataset, "protocol": protocol, "method": method}
        rows = [row for row in run.information if key.items() <= row.items()]
        if len({row["predicted"] for row in rows}) == 1:
            continue
        tools = {"all tools": rows} | {tool: [] for tool in sorted({row["tool"] for row in rows})}
        for row in rows:
            tools[row["tool"]].append(row)
        found = {tool: _calibrated(members) for tool, members in tools.items()}
        title = f"{dataset}, {short(protocol)}, {method}: gain of a call"
        drawn = panels.reliability_panels({tool: table for tool, (_, table) in found.items()}, title)
        parts.append(f"<h3>{html.escape(title)}</h3>{drawn}")
        lines = [
            [tool, f"{figures['n']:,}", *(figure(figures[name], form) for name, form in _FIGURES.items())]
            for tool, (figures, _) in found.items()
        ]
        headers = ("Tool", "Calls", "Correlation", "Bias", "ECE", "ECE, centered")
        parts.append(tables.plain_table(title, headers, lines, 1))
    if parts:
        yield Section("information", "What a call is worth", INFORMATION_LEAD, tuple(parts))


_FIGURES = {"correlation": "{:+.3f}", "bias": "{:+.4f}", "ece": "{:.4f}", "ece_centered": "{:.4f}"}


def _calibrated(rows: Sequence[dict]) -> tuple[dict, list[dict]]:
    gains = (np.array([row[name] for row in rows], float) for name in ("predicted", "realized"))
    return calibration(*gains, BINS)
