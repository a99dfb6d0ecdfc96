"""Inline SVG figures, written by hand: no dependency, crisp in print, colors taken from the page's CSS.

Colors are those of Okabe and Ito, safe for color-blind readers, and never alone: contestants are filled
dots, controls hollow ones, bounds diamonds.
"""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Sequence

import numpy as np

from mma_jax.metrics.significance import cluster_bootstrap

ROW, LABEL, PANEL, GAP, TOP, BOTTOM = 22, 150, 230, 26, 30, 30  # pixels
CHARACTER = 7.3  # mean width of a label's character in pixels at the figures' font size, in a wide sans like DejaVu
RANK_BINS = ((1, 1), (2, 5), (6, 10), (11, 20), (21, 50), (51, 100))


@dataclasses.dataclass(frozen=True)
class Interval:
    """A method's mean over episodes and the ends of its 95% interval."""

    method: str
    mean: float
    low: float
    high: float
    role: str = ""


def interval(method: str, role: str, values: np.ndarray, users: np.ndarray, n_resamples: int, seed: int) -> Interval:
    """Percentile bootstrap of the mean of `values` [E], resampling users (one draw for all episodes of a user); of one
    user the mean alone."""
    mean = float(values.mean())
    low, high = np.nan_to_num(cluster_bootstrap(values, users, n_resamples=n_resamples, seed=seed), nan=mean)
    return Interval(method, mean, float(low), float(high), role)


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) inside [low, high], at most `most` of them."""
    span = (high - low) or 1.0
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(power * base for base in (1, 2, 5, 10, 20) if span / (power * base) < most)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 10) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def interval_panels(panels: dict[str, Sequence[Interval]], title: str, axis: str, reference: str) -> str:
    """One panel a family, side by side on one scale: a dot and its interval per method.

    A dashed line marks the mean of the method named `reference`. A method without a figure in a panel
    leaves its row empty there.
    """
    methods = list(dict.fromkeys(entry.method for entries in panels.values() for entry in entries))
    every = [entry for entries in panels.values() for entry in entries]
    low, high = min(entry.low for entry in every), max(entry.high for entry in every)
    margin = 0.06 * (high - low) or 0.05
    low, high = low - margin, high + margin
    left = max(LABEL, round(CHARACTER * max(map(len, methods))) + 16)
    bottom = TOP + ROW * len(methods)
    width, height = left + len(panels) * (PANEL + GAP), bottom + BOTTOM + 14

    parts = [label(left - 10, TOP + ROW * (row + 0.5) + 4, method, "label end") for row, method in enumerate(methods)]
    for place, (name, entries) in enumerate(panels.items()):
        start = left + place * (PANEL + GAP)

        def across(value: float, start: int = start) -> float:
            return start + PANEL * (value - low) / (high - low)

        parts.append(label(start, TOP - 12, name, "facet"))
        parts.append(f'<rect class="frame" x="{start}" y="{TOP}" width="{PANEL}" height="{bottom - TOP}"/>')
        for value in ticks(low, high):
            parts.append(line(across(value), TOP, across(value), bottom, "grid"))
            parts.append(label(across(value), bottom + 16, f"{value:g}", "tick middle"))
        parts += [
            line(across(entry.mean), TOP, across(entry.mean), bottom, "reference")
            for entry in entries
            if entry.method == reference
        ]
        parts += [_mark(entry, across, TOP + ROW * (methods.index(entry.method) + 0.5), name) for entry in entries]
    parts.append(label(left, height - 4, axis, "tick"))
    return svg(width, height, title, parts)


def _mark(entry: Interval, across, y: float, panel: str) -> str:
    x = across(entry.mean)
    shape = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>'
    if entry.role == "bound":
        shape = f'<path d="M{x:.1f} {y - 5.5:.1f}l5.5 5.5l-5.5 5.5l-5.5 -5.5z"/>'
    tip = f"{entry.method}, {panel}: {entry.mean:.4f}, 95% interval {entry.low:.4f} to {entry.high:.4f}"
    whisker = line(across(entry.low), y, across(entry.high), y, "whisker")
    return f'<g class="mark {entry.role}"><title>{html.escape(tip)}</title>{whisker}{shape}</g>'


def rank_bins(ranks: np.ndarray) -> np.ndarray:
    """Share of the ranks in each of RANK_BINS and in one more beyond the last -> float64 [len + 1]."""
    # Half a rank lower: a rank that ties made fractional goes to the bin of the nearest whole one.
    edges = np.array([first for first, _ in RANK_BINS] + [RANK_BINS[-1][1] + 1, np.inf]) - 0.5
    return np.histogram(ranks, bins=edges)[0] / len(ranks)


def rank_panels(before: np.ndarray, after: dict[str, np.ndarray], title: str) -> str:
    """Where the target was before (gray) and after (colored) reranking, a small histogram per method.

    before: float [n] the target's first-stage ranks; after: method -> float [n] its final ranks.
    """
    panel, plot, per_row, inset = 270, 90, 4, 30
    names = [f"{first}–{last}" if first < last else f"{first}" for first, last in RANK_BINS]
    first_stage, shares = rank_bins(before), {method: rank_bins(ranks) for method, ranks in after.items()}
    last = max(np.flatnonzero(np.sum([first_stage, *shares.values()], axis=0)))
    names = [*names, f">{RANK_BINS[-1][1]}"][: last + 1]
    top = max(share.max() for share in (first_stage, *shares.values()))
    parts = []
    for index, (method, share) in enumerate(shares.items()):
        x0, y0 = (index % per_row) * (panel + GAP), (index // per_row) * (plot + 76)
        base = y0 + 38 + plot
        slot = (panel - inset) / len(names)
        parts.append(label(x0, y0 + 14, method, "facet"))
        for level in ticks(0, top, 3):
            parts.append(line(x0, base - plot * level / top, x0 + panel, base - plot * level / top, "grid"))
            parts.append(label(x0, base - plot * level / top - 3, f"{level:.0%}", "tick"))
        parts.append(line(x0, base, x0 + panel, base, "axis"))
        for place, name in enumerate(names):
            x = x0 + inset + slot * place
            for value, kind, shift in ((first_stage[place], "before", 0.1), (share[place], "after", 0.5)):
                tall = plot * value / top
                tip = f"{method}: target ranked {name} {kind} reranking in {value:.1%} of episodes"
                parts.append(
                    f'<rect class="{kind}" x="{x + slot * shift:.1f}" y="{base - tall:.1f}" '
                    f'width="{slot * 0.38:.1f}" height="{tall:.1f}"><title>{html.escape(tip)}</title></rect>'
                )
            parts.append(label(x + slot / 2, base + 15, name, "tick middle"))
    columns = min(per_row, len(shares))
    return svg(columns * (panel + GAP), -(-len(shares) // per_row) * (plot + 76), title, parts)


def svg(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    """A figure of that many pixels in a region that scrolls; parts: its SVG elements."""
    name = html.escape(title)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{name}"><svg role="img" aria-label="{name}" '
        f'viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}">{"".join(parts)}</svg></div>\n'
    )


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """A straight line; kind: its CSS class."""
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def label(x: float, y: float, text: str, kind: str) -> str:
    """Text whose baseline begins, or ends or is centered, at (x, y); kind: its CSS classes."""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{html.escape(text)}</text>'
