"""The stability panel: what moved while an agent was trained, and the alarms that rang (DESIGN §5.9)."""

from __future__ import annotations

import collections
import html
import math
from collections.abc import Iterator, Sequence

import numpy as np

from mma_jax.reports import panels, tables
from mma_jax.reports.load import Run
from mma_jax.reports.section import Section

SHOWN = (
    *("reward", "query", "support", "entropy", "clip_fraction", "kl", "explained_variance", "dlogp"),
    *("invalid", "repeat_null", "valid", "loss"),
)
"""A metric whose name holds one of these is shown at once, in this order; the others when asked for."""

SPELLED = {"kl": "KL", "dlogp": "|Δlogp|", "ppo": "PPO", "sft": "SFT"}

LEAD = (
    "One line a seed. Reward on the support episodes that are trained on and on the query episodes that are not; "
    "entropy and divergence in nats; clip fraction: tokens whose ratio left the clipping range; |Δlogp|: how far the "
    "sampler’s and the trainer’s log-probabilities are apart, which only monitors. Marks on an axis: alarms."
)


def training_section(run: Run) -> Iterator[Section]:
    """One section for all trained methods; none if nothing was trained."""
    parts = [part for method in dict.fromkeys(method for method, _ in run.training) for part in _figures(run, method)]
    if run.training:
        yield Section("training", "Training", LEAD, (*parts, _alarms(run)), "")


def _figures(run: Run, method: str) -> Iterator[str]:
    logs = [lines for (name, _), lines in run.training.items() if name == method]
    found = _grouped(logs)
    shown = {name: found[name] for name in sorted(filter(_place, found), key=lambda name: (_place(name), name))}
    rest = {name: found[name] for name in sorted(set(found) - set(shown))}
    marks = sorted({line["iteration"] for lines in logs for line in lines if line.get("alarms")})
    title = f"Training of {method}"
    yield f"<h3>{html.escape(title)}</h3>"
    if shown:
        yield panels.curve_panels(_titled(shown), title, marks)
    if rest:
        drawn = panels.curve_panels(_titled(rest), f"{title}: all else that was logged", marks)
        yield f"<details><summary>All else that was logged</summary>{drawn}</details>"


def _place(metric: str) -> int:
    """Its place among SHOWN, from 1; 0 if it is none of them."""
    return next((n for n, word in enumerate(SHOWN, 1) if word in metric), 0)


def _grouped(logs: Sequence[Sequence[dict]]) -> dict[str, dict[str, list[panels.Curve]]]:
    """Metric -> series -> a curve per log: "reward/text_only" is series text_only of reward, "reward" its series ""."""
    found: dict[str, dict[str, list[panels.Curve]]] = {}
    for lines in logs:
        points: dict[str, list[tuple[float, float]]] = {}
        for entry in lines:
            for name, value in entry.items():
                if name != "iteration" and isinstance(value, (int, float)) and math.isfinite(value):
                    points.setdefault(name, []).append((entry["iteration"], value))
        for name, pairs in points.items():
            metric, _, series = name.rpartition("/") if "/" in name else (name, "", "")
            found.setdefault(metric, {}).setdefault(series, []).append(panels.thin(*np.array(pairs, float).T))
    return found


def _titled(found: dict[str, dict[str, list[panels.Curve]]]) -> dict[str, dict[str, list[panels.Curve]]]:
    return {
        _words(metric)[:1].upper() + _words(metric)[1:]: {
            _words(series) or ("all" if len(group) > 1 else ""): curves for series, curves in group.items()
        }
        for metric, group in found.items()
    }


def _words(name: str) -> str:
    return " ".join(SPELLED.get(word, word) for word in name.replace("/", ", ").replace("_", " ").split())


def _alarms(run: Run) -> tables.Table | str:
    rung: dict[tuple[str, str, str], list[int]] = collections.defaultdict(list)
    for (method, seed), lines in run.training.items():
        for entry in lines:
            for alarm in entry.get("alarms", ()):
                rung[method, seed, str(alarm)].append(entry["iteration"])
    if not rung:
        return "<p>No alarm rang.</p>"
    rows = [[*key, f"{len(at):,}", f"{at[0]:,}", f"{at[-1]:,}"] for key, at in rung.items()]
    return tables.plain_table("Alarms", ("Method", "Seed", "Alarm", "Iterations", "First", "Last"), rows, 3)
