"""The parts of the report, each made from a loaded run: tables, figures, and what is missing."""

from __future__ import annotations

import collections
import dataclasses
import html
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from mma_jax.metrics.significance import SAME
from mma_jax.reports import beyond, plots, tables
from mma_jax.reports.access import access_section
from mma_jax.reports.load import Run, Sample
from mma_jax.reports.section import PROTOCOLS, Section, figure, short
from mma_jax.reports.tables import Cell, Column, Table
from mma_jax.reports.training import training_section
from mma_jax.types import FAMILIES, LOMO, OOMA

REFERENCE = "First-stage"

RANKING = ("ndcg@10", "expected_ndcg@10", "ndcg@20", "hr@10", "hr@20", "mrr")
RANKING_NOTE = (
    "Bold: the best of a column, bounds left out. α: the weight of the first stage in Eq. 2, chosen on validation; "
    "at 1 a method ranks as the first stage does, and what is not fused has 0."
)
DIAGNOSTICS = (
    "failed_call_rate",
    "recovery",
    "tts",
    "turns",
    "turns_to_first_evidence",
    "first_action_rate",
    "invalid",
    "return",
    "seconds_per_episode",
)
SIGNIFICANT = 0.05
ENDINGS = ("stop_", "invalid_")  # prefixes of the metrics that tell how episodes ended and what went wrong

ROUTING_NOTE = (
    "Failed calls: Null or invalid evidence calls among evidence calls. Recovery: episodes with a Null that went on "
    "to a successful evidence call. TTS: turns to a valid scoring. First action: the first call went to the surviving "
    "modality. Return: undiscounted sum of rewards (Eq. 3)."
)


def all_sections(run: Run, n_resamples: int, seed: int) -> tuple[Section, ...]:
    """The report from top to bottom; the last two arguments are the bootstrap's.

    Training and the analyses of `beyond` are left out where no run has made their files.
    """
    return (
        data_section(run),
        *_protocols(run, n_resamples, seed),
        _recalled(run),
        _comparisons(run),
        _diagnostics(run),
        *beyond.stress_section(run),
        *beyond.regret_section(run),
        *beyond.information_section(run),
        _ranks(run),
        *training_section(run),
        _audit(run),
        *access_section(run),
        _traces(run),
        _config(run),
    )


def data_section(run: Run) -> Section:
    parts = []
    if run.statistics.get("rows"):
        rows = [[str(name), str(value)] for name, value in run.statistics["rows"]]
        parts.append(tables.plain_table("Dataset statistics", ("Quantity", "Value"), rows, 1))
    recall = run.statistics.get("recall")
    if recall:
        columns = [name for name in recall[0] if name != "source"]
        lines = [[str(row["source"]), *(figure(row.get(name)) for name in columns)] for row in recall]
        headers = ("Source", *(name.capitalize() for name in columns))
        table = tables.plain_table("First-stage recall before the target is inserted", headers, lines, 1)
        counts = "; ".join(f"{part} {n:,}" for part, n in run.statistics.get("without_history", {}).items())
        notes = (f"Targets of users without history, kept: {counts}.",) if counts else ()
        parts.append(dataclasses.replace(table, notes=notes))
    lead = "Recall on training targets stands beside test: the two must agree, or training evidence saw its targets."
    absent = _missing(run, "statistics.json", "prepare", parts)
    return Section("data", "Data", lead if recall else "", tuple(parts), absent)


def _protocols(run: Run, n_resamples: int, seed: int) -> Iterator[Section]:
    present = run.unique("protocol")
    if not present:
        yield Section("results", "Results", "", (), _missing(run, "results.jsonl", "evaluate", ()))
    for protocol in sorted(present, key=lambda name: (*PROTOCOLS, name).index(name)):
        rows = [row for row in run.rows if row["protocol"] == protocol]
        title, lead = PROTOCOLS.get(protocol, (protocol, ""))
        families = {"ooma": OOMA, "lomo": LOMO}.get(protocol) or _present(rows, "subset", FAMILIES)
        parts: list[Table | str] = []
        if families:
            columns = [Column(tables.family_name(family), "ndcg@10", family) for family in (*families, "all")]
            parts.append(tables.tabulate(rows, f"{short(protocol)}: NDCG@10 by surviving evidence", columns))
        others = [row["metric"] for row in rows if not _is_diagnostic(row["metric"])]
        recall = [name for name in others if name.startswith("recall@")]
        metrics = _present(rows, "metric", (*RANKING, *recall, "alpha", *others))
        table = tables.tabulate(rows, f"{short(protocol)}: all episodes", _columns(metrics, "all"))
        parts.append(dataclasses.replace(table, notes=(*table.notes, RANKING_NOTE)))
        parts += _panels(run, protocol, n_resamples, seed)
        slug = re.sub(r"[^a-z0-9]+", "-", protocol.lower())
        yield Section(slug, title, lead, tuple(parts))


def _is_diagnostic(metric: str) -> bool:
    return metric in DIAGNOSTICS or metric.startswith(ENDINGS)


def _columns(metrics: Sequence[str], subset: str | None) -> list[Column]:
    return [Column(tables.metric_of(metric).header, metric, subset) for metric in metrics]


def _present(rows: Sequence[dict], field: str, known: Sequence[str]) -> list[str]:
    """Those of `known`, in that order, that occur as `field` in the rows."""
    found = {row[field] for row in rows}
    return [name for name in dict.fromkeys(known) if name in found]


def _panels(run: Run, protocol: str, n_resamples: int, seed: int) -> Iterator[str]:
    keys = [key for key, sample in run.samples.items() if key[1] == protocol and _scored(sample)]
    for dataset in dict.fromkeys(key[0] for key in keys):
        panels: dict[str, list[plots.Interval]] = {}
        mine = sorted((key for key in keys if key[0] == dataset), key=lambda key: list(FAMILIES).index(key[2]))
        for key in tqdm(mine, desc=f"intervals {dataset} {protocol}", disable=None, leave=False):
            method, sample = key[3], run.samples[key]
            role = tables.ROLES.get(method, "")
            entry = plots.interval(method, role, sample.values["ndcg@10"], sample.users, n_resamples, seed)
            panels.setdefault(tables.family_name(key[2]), []).append(entry)
        title = f"{dataset}, {short(protocol)}: NDCG@10 per family and method"
        yield (
            f"<h3>{html.escape(title)}</h3>{plots.interval_panels(panels, title, 'NDCG@10', REFERENCE)}"
            f'<p class="figure-note">Mean and 95% interval over episodes (bootstrap of users, {n_resamples:,} '
            f"resamples; seeds averaged first). Dashed: {REFERENCE}. Filled dots: methods; hollow: controls and "
            f"exploits; diamonds: bounds.</p>"
        )


def _scored(sample: Sample) -> bool:
    return not np.isnan(sample.values["ndcg@10"]).any()


def _recalled(run: Run) -> Section:
    parts = []
    for protocol in run.unique("protocol"):
        rows = [row for row in run.rows if row["protocol"] == protocol]
        split = [name for name in dict.fromkeys(row["subset"] for row in rows) if "/" in name]
        # A fixed pool has nothing inserted: what was not recalled scores zero there.
        if split and protocol != "full_catalog":
            columns = [Column(tables.family_name(name), "ndcg@10", name) for name in ("all", *split)]
            parts.append(tables.tabulate(rows, f"{short(protocol)}: NDCG@10, recalled and inserted apart", columns))
    lead = (
        "Recalled: the first stage found the target by itself. Inserted: the pool’s rule put it where it "
        "stands. (Neither: found once the user’s own later items were left out.) A method that shines only on inserted "
        "targets may be reading the pool’s construction."
    )
    absent = "" if parts else "No row tells recalled from inserted targets; --config.run=evaluate writes them."
    return Section("recalled", "Recalled and inserted targets", lead, tuple(parts), absent)


def _comparisons(run: Run) -> Section:
    parts = []
    for protocol, metric in dict.fromkeys((row["protocol"], row["metric"]) for row in run.comparisons):
        rows = [row for row in run.comparisons if (row["protocol"], row["metric"]) == (protocol, metric)]
        whole = [row for row in rows if row["subset"] == "all"]
        by_family = [row for row in rows if row["subset"] != "all"]
        name = tables.metric_of(metric).header
        title = f"{short(protocol)}: paired comparisons over the same episodes, {name}"
        parts.append(comparison_table(title, whole))
        parts.append(dataclasses.replace(comparison_table(f"{title}, by family", by_family), folded=True))
    found = tuple(part for part in parts if part.lines)
    lead = (
        "Wilcoxon signed-rank tests on episodes, seeds averaged first. Read the effect sizes with the p-values: with "
        "many episodes a small p can stand for a small difference. Expected NDCG@10, where the world is known, is its "
        "average over the targets that the evidence leaves possible: the luck of the one that was drawn is out of it."
    )
    return Section("comparisons", "Paired tests", lead, found, _missing(run, "comparisons.jsonl", "evaluate", found))


def comparison_table(title: str, rows: Sequence[dict]) -> Table:
    """A line for each of `evaluation.compare`; where the mean goes one way and the ranks the other nobody has won."""

    def opposed(row: dict) -> bool:
        ways = row["mean_delta"], row["rank_biserial"]
        return None not in ways and ways[0] * ways[1] < 0 and _significant(row)

    lines = [
        [
            row["dataset"],
            tables.family_name(row["subset"]),
            f"{row['a']} − {row['b']}",
            f"{row['n']:,}",
            figure(row["mean_delta"], "{:+.4f}") + ("†" if opposed(row) else ""),
            f"{figure(row['ci_low'], '{:+.4f}')} to {figure(row['ci_high'], '{:+.4f}')}",
            _p_value(row["p"]),
            Cell(_p_value(row["p_holm"]), best=_significant(row) and not opposed(row)),
            figure(row["cliffs_delta"], "{:+.3f}"),
            figure(row["rank_biserial"], "{:+.3f}"),
            _p_value(row.get("p_same")),
        ]
        for row in rows
    ]
    figures = ("n", "Mean Δ", "95% interval", "p", "Holm p", "Cliff’s δ", "Rank-biserial", "Same, p")
    table = tables.plain_table(title, ("Dataset", "Episodes", "Comparison", *figures), lines, 3)
    families = collections.Counter(row["family"] for row in rows)
    sizes = ", ".join(f"{family}: {count} tests" for family, count in families.items())
    notes = [f"Bold: below {SIGNIFICANT} after Holm’s correction within the declared family ({sizes})."]
    notes.append(f"Same: two one-sided tests that the means are less than {SAME} apart; a small p says that they are.")
    if any(map(opposed, rows)):
        notes.append(
            "†: the mean goes one way and the ranks, which the p-value is about, go the other: few episodes change by "
            "much and many by little. No method is better there."
        )
    return dataclasses.replace(table, notes=tuple(notes))


def _significant(row: dict) -> bool:
    return row["p_holm"] is not None and row["p_holm"] < SIGNIFICANT


def _diagnostics(run: Run) -> Section:
    parts = []
    for protocol in run.unique("protocol"):
        rows = [row for row in run.rows if row["protocol"] == protocol and _is_diagnostic(row["metric"])]
        families = [row for row in rows if row["subset"] in FAMILIES]
        played = _present(rows, "metric", DIAGNOSTICS)
        endings = [name for name in dict.fromkeys(row["metric"] for row in rows) if name.startswith(ENDINGS)]
        title = f"{short(protocol)}: how the agents played"
        parts.append(tables.tabulate(rows, title, _columns(played, "all")))
        by_family = tables.tabulate(families, f"{title}, by family", _columns(played, None), by_subset=True)
        parts.append(dataclasses.replace(by_family, folded=True))
        ended = tables.tabulate(rows, f"{short(protocol)}: how episodes ended", _columns(endings, "all"))
        parts.append(dataclasses.replace(ended, folded=True))
    found = tuple(part for part in parts if part.lines)
    absent = "" if found else "No row tells how agents played; --config.run=evaluate writes them for all that do."
    return Section("diagnostics", "Routing diagnostics", ROUTING_NOTE, found, absent)


def _ranks(run: Run) -> Section:
    parts = []
    for dataset, protocol in dict.fromkeys(key[:2] for key in run.samples):
        ranks = _target_ranks(run, dataset, protocol)
        before = ranks.pop(REFERENCE, None)
        if before is not None and ranks:
            title = f"{dataset}, {short(protocol)}: the target’s rank"
            parts.append(f"<h3>{html.escape(title)}</h3>" + plots.rank_panels(before, ranks, title))
    lead = (
        "Share of episodes by the target’s rank. Gray: first stage. Blue: after reranking. A rank is one over the "
        "reciprocal rank; episodes whose pool lacks the target are left out."
    )
    absent = _missing(run, "per_episode.jsonl", f"evaluate (with {REFERENCE} among its methods)", parts)
    return Section("ranks", "Where the target was", lead, tuple(parts), absent)


def _target_ranks(run: Run, dataset: str, protocol: str) -> dict[str, np.ndarray]:
    """method -> float [n] ranks of the targets that are in their pool, families together."""
    ranks: dict[str, list[np.ndarray]] = {}
    for key, sample in run.samples.items():
        found = sample.values["mrr"][sample.values["mrr"] > 0]  # drops nan too
        if key[:2] == (dataset, protocol) and len(found):
            ranks.setdefault(key[3], []).append(1 / found)
    return {method: np.concatenate(parts) for method, parts in ranks.items()}


def _audit(run: Run) -> Section:
    lines = [
        [
            str(check["dataset"]),
            str(check["check"]),
            Cell("pass", kind="pass") if check["pass"] else Cell("FAIL", kind="fail"),
            figure(check["value"], "{:.4g}"),
            figure(check["threshold"], "{:.4g}"),
            Cell(". ".join(filter(None, [check.get("meaning"), check.get("detail")])), kind="words"),
        ]
        for check in sorted(run.audit, key=lambda check: check["dataset"])
    ]
    headers = ("Dataset", "Check", "Verdict", "Figure", "Threshold", "What it means")
    parts = (tables.plain_table("Audit", headers, lines, 2),) if lines else ()
    lead = "What a benchmark of this kind must pass before its numbers mean what they say."
    return Section("audit", "Audit", lead, parts, _missing(run, "audit.json", "audit", parts))


def _traces(run: Run) -> Section:
    shown, recorded = len(run.traces.shown), run.traces.recorded
    lead = (
        f"{shown:,} of {recorded:,} recorded episodes are embedded here, spread over methods and families; all are "
        "in traces.jsonl. Left and right arrow keys step through the turns; the address of the page names the step."
    )
    data = json.dumps(run.traces.shown, separators=(",", ":"))
    for character in "<>&":
        data = data.replace(character, f"\\u{ord(character):04x}")
    parts = (
        f'<script type="application/json" id="traces">{data}</script><div id="viewer"></div>'
        "<noscript><p>The viewer needs JavaScript.</p></noscript>",
    )
    absent = _missing(run, "traces.jsonl", "evaluate", run.traces.shown)
    return Section("traces-section", "Episodes, step by step", lead, parts if shown else (), absent)


def _config(run: Run) -> Section:
    rows = "".join(
        f'<tr><th scope="row">{html.escape(key)}</th><td>{html.escape(value)}</td></tr>'
        for key, value in _flatten(run.config)
    )
    page = f"<details><summary>Show all settings</summary><table><tbody>{rows}</tbody></table></details>"
    parts = (page,) if rows else ()
    return Section("config", "Configuration", "", parts, _missing(run, "config.json", "evaluate", parts))


# --- small things -----------------------------------------------------------------------------------


def _missing(run: Run, name: str, made_by: str, found: Sequence[Any]) -> str:
    if found:
        return ""
    state = "holds nothing to show" if (run.directory / name).exists() else "is missing"
    return f"{name} {state} in {run.directory}; --config.run={made_by} writes it."


def _p_value(value: float | None) -> str:
    return "" if value is None else "<0.0001" if value < 1e-4 else f"{value:.4f}"


def _flatten(config: dict, prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + str(key), json.dumps(value)
