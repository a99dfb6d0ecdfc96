"""More inline SVG, in small multiples: curves over training, bars, stacked parts, predicted against realized.

Series are told apart by color (Okabe and Ito) and dash pattern together; a tooltip names every mark.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence

import numpy as np

from mma_jax.reports.plots import CHARACTER, GAP, LABEL, PANEL, ROW, TOP, Interval, label, line, svg, ticks

Curve = tuple[np.ndarray, np.ndarray]
"""x [N] in increasing order, y [N] finite."""

PER_ROW = 4
POINTS = 160  # of one curve; longer ones are averaged in blocks
STYLES = 8  # series-0 .. series-7 of style.css
INSET = 52  # pixels for the labels of a vertical axis


def curve_panels(panels: dict[str, dict[str, list[Curve]]], title: str, marks: Sequence[float] = ()) -> str:
    """One panel a quantity, each on its own scale: name -> series -> a curve per seed, drawn alike.

    A legend stands under a panel of several series. marks: where on the common x axis something happened.
    """
    wide, plot = 270, 110
    flat = [curve for panel in panels.values() for series in panel.values() for curve in series]
    first, last = min(x[0] for x, _ in flat), max(x[-1] for x, _ in flat)
    legend_rows = max(len(legend(list(panel), wide)) for panel in panels.values())
    tall = plot + 54 + 15 * legend_rows
    parts = []
    for index, (name, panel) in enumerate(panels.items()):
        x0, top = (index % PER_ROW) * (wide + GAP) + INSET, (index // PER_ROW) * tall + 24
        across = scale(first, last, x0, x0 + wide - INSET)
        values = np.concatenate([y for series in panel.values() for _, y in series])
        up = scale(values.min(), values.max(), top + plot, top)
        parts.append(label(x0 - INSET, top - 10, name, "facet"))
        for value in ticks(values.min(), values.max(), 4) or [values[0]]:  # one level that is no round number
            parts.append(line(x0, up(value), x0 + wide - INSET, up(value), "grid"))
            parts.append(label(x0 - 5, up(value) + 4, f"{value:.3g}", "tick end"))
        for value in ticks(first, last, 4):
            parts.append(label(across(value), top + plot + 16, f"{value:g}", "tick middle"))
        parts.append(line(x0, top + plot, x0 + wide - INSET, top + plot, "axis"))
        parts += [line(across(x), top + plot - 7, across(x), top + plot, "alarm") for x in marks]
        for place, (series, curves) in enumerate(panel.items()):
            parts += [_curve(curve, f"{name}, {series}" if series else name, place, across, up) for curve in curves]
        if len(panel) > 1:
            parts += keys(list(panel), x0 - INSET, top + plot + 34, wide)
    columns = min(PER_ROW, len(panels))
    return svg(columns * (wide + GAP), -(-len(panels) // PER_ROW) * tall, title, parts)


def thin(x: np.ndarray, y: np.ndarray) -> Curve:
    """The same curve in at most POINTS points, means of blocks as equal as can be."""
    if len(x) <= POINTS:
        return x, y
    blocks = np.array_split(np.arange(len(x)), POINTS)
    return np.array([x[rows].mean() for rows in blocks]), np.array([y[rows].mean() for rows in blocks])


def _curve(curve: Curve, name: str, place: int, across: Callable, up: Callable) -> str:
    places = [(across(a), up(b)) for a, b in zip(*curve, strict=True)]
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    tip = html.escape(f"{name}: {curve[1][-1]:.4g} at {curve[0][-1]:g}")
    if len(places) == 1:  # no line has one point
        [(x, y)] = places
        style = f"series-{place % STYLES} point"
        return f'<circle class="{style}" cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{tip}</title></circle>'
    return f'<polyline class="series-{place % STYLES}" points="{points}"><title>{tip}</title></polyline>'


def stacked_panels(panels: dict[str, dict[str, dict[str, float]]], parts: Sequence[str], title: str, axis: str) -> str:
    """One panel a family: a bar per method of its parts end to end, losses to the right and gains to the left of 0.

    panels: family -> method -> part -> value. A tick on each bar marks the sum of its parts.
    """
    methods = list(dict.fromkeys(method for rows in panels.values() for method in rows))
    bars = [values for rows in panels.values() for values in rows.values()]
    low = min(sum(min(v, 0) for v in values.values()) for values in bars)
    high = max(sum(max(v, 0) for v in values.values()) for values in bars)
    left = max(LABEL, round(CHARACTER * max(map(len, methods))) + 16)
    top = TOP + 20
    bottom = top + ROW * len(methods)
    drawn = keys(list(parts), left, 12, len(panels) * (PANEL + GAP), "part")
    drawn += [label(left - 10, top + ROW * (row + 0.5) + 4, name, "label end") for row, name in enumerate(methods)]
    for place, (family, rows) in enumerate(panels.items()):
        start = left + place * (PANEL + GAP)
        across = scale(low, high, start, start + PANEL)
        drawn.append(label(start, top - 8, family, "facet"))
        drawn.append(f'<rect class="frame" x="{start}" y="{top}" width="{PANEL}" height="{bottom - top}"/>')
        for value in ticks(low, high):
            drawn.append(line(across(value), top, across(value), bottom, "grid"))
            drawn.append(label(across(value), bottom + 16, f"{value:g}", "tick middle"))
        for method, values in rows.items():
            y = top + ROW * methods.index(method)
            drawn += _bar({part: values[part] for part in parts}, f"{method}, {family}", y, across)
        drawn.append(line(across(0), top, across(0), bottom, "axis"))
    drawn.append(label(left, bottom + 38, axis, "tick"))
    return svg(left + len(panels) * (PANEL + GAP), bottom + 44, title, drawn)


def _bar(values: dict[str, float], name: str, y: float, across: Callable) -> list[str]:
    ends, drawn = {True: 0.0, False: 0.0}, []
    for place, (part, value) in enumerate(values.items()):
        begin = ends[value > 0]
        ends[value > 0] = begin + value
        x, x2 = sorted((across(begin), across(begin + value)))
        tip = html.escape(f"{name}: {part} {value:+.4f}")
        drawn.append(
            f'<rect class="part-{place}" x="{x:.1f}" y="{y + 4:.1f}" width="{x2 - x:.1f}" height="{ROW - 8}">'
            f"<title>{tip}</title></rect>"
        )
    total = across(sum(values.values()))
    return [*drawn, line(total, y + 1, total, y + ROW - 1, "total")]


def bar_panels(panels: dict[str, Sequence[Interval]], title: str, axis: str, reference: str = "") -> str:
    """One panel a family, side by side on one scale that begins at 0: a bar per method and the ends of its interval.

    A dashed line marks the mean of the method named `reference`. A method without a figure in a panel leaves its row
    empty there.
    """
    methods = list(dict.fromkeys(entry.method for entries in panels.values() for entry in entries))
    high = 1.04 * max(entry.high for entries in panels.values() for entry in entries) or 1.0
    left = max(LABEL, round(CHARACTER * max(map(len, methods))) + 16)
    bottom, value_width = TOP + ROW * len(methods), 40
    drawn = [label(left - 10, TOP + ROW * (row + 0.5) + 4, name, "label end") for row, name in enumerate(methods)]
    for place, (family, entries) in enumerate(panels.items()):
        start = left + place * (PANEL + GAP + value_width)

        def across(value: float, start: int = start) -> float:
            return start + PANEL * value / high

        drawn.append(label(start, TOP - 12, family, "facet"))
        drawn.append(f'<rect class="frame" x="{start}" y="{TOP}" width="{PANEL}" height="{bottom - TOP}"/>')
        for value in ticks(0.0, high):
            drawn.append(line(across(value), TOP, across(value), bottom, "grid"))
            drawn.append(label(across(value), bottom + 16, f"{value:g}", "tick middle"))
        drawn += [
            line(across(entry.mean), TOP, across(entry.mean), bottom, "reference")
            for entry in entries
            if entry.method == reference
        ]
        for entry in entries:
            y = TOP + ROW * methods.index(entry.method)
            drawn.append(_interval_bar(entry, across, y, family))
            drawn.append(label(start + PANEL + 6, y + ROW / 2 + 4, f"{entry.mean:.4f}", "tick"))
        drawn.append(line(start, TOP, start, bottom, "axis"))
    drawn.append(label(left, bottom + 38, axis, "tick"))
    width = left + max(len(panels) * (PANEL + GAP + value_width), CHARACTER * len(axis))
    return svg(width, bottom + 44, title, drawn)


def _interval_bar(entry: Interval, across: Callable, y: float, family: str) -> str:
    tip = f"{entry.method}, {family}: {entry.mean:.4f}, 95% interval {entry.low:.4f} to {entry.high:.4f}"
    middle, low, high = y + ROW / 2, across(entry.low), across(entry.high)
    ends = "".join(line(x, middle - 4, x, middle + 4, "whisker") for x in (low, high))
    return (
        f'<g class="mark bar {entry.role}"><title>{html.escape(tip)}</title>'
        f'<rect x="{across(0):.1f}" y="{y + 4:.1f}" width="{across(entry.mean) - across(0):.1f}" height="{ROW - 8}"/>'
        f"{line(low, middle, high, middle, 'whisker')}{ends}</g>"
    )


def reliability_panels(panels: dict[str, Sequence[dict]], title: str) -> str:
    """One panel a tool: mean realized over mean predicted gain of each bin, with two standard errors either way.

    panels: name -> rows of `evaluation.information.calibration`. The dashed line is where both are equal.
    """
    side = 190
    rows = [row for table in panels.values() for row in table]
    ends = [row["realized"] + sign * _error(row) for row in rows for sign in (-1, 1)]
    every = [*ends, *(row["predicted"] for row in rows)]
    low, high = min(every), max(every)
    drawn = []
    for place, (name, table) in enumerate(panels.items()):
        x0, top = place * (side + 56) + 44, TOP
        across, up = scale(low, high, x0, x0 + side), scale(low, high, top + side, top)
        drawn.append(label(x0, top - 12, name, "facet"))
        drawn.append(f'<rect class="frame" x="{x0}" y="{top}" width="{side}" height="{side}"/>')
        for value in ticks(low, high, 4):
            drawn.append(line(across(value), top, across(value), top + side, "grid"))
            drawn.append(line(x0, up(value), x0 + side, up(value), "grid"))
            drawn.append(label(across(value), top + side + 16, f"{value:g}", "tick middle"))
            drawn.append(label(x0 - 5, up(value) + 4, f"{value:g}", "tick end"))
        drawn.append(line(across(low), up(low), across(high), up(high), "reference"))
        drawn += [_dot(row, name, across, up) for row in table]
    drawn.append(label(44, TOP + side + 36, "across: predicted gain; up: realized gain", "tick"))
    return svg(len(panels) * (side + 56) + 8, TOP + side + 42, title, drawn)


def _dot(row: dict, name: str, across: Callable, up: Callable) -> str:
    x, y = across(row["predicted"]), up(row["realized"])
    error = _error(row)
    tip = html.escape(
        f"{name}: predicted {row['predicted']:+.3f}, realized {row['realized']:+.3f} ± {error:.3f}, {row['n']:,} calls"
    )
    whisker = line(x, up(row["realized"] - error), x, up(row["realized"] + error), "whisker")
    return f'<g class="mark"><title>{tip}</title>{whisker}<circle cx="{x:.1f}" cy="{y:.1f}" r="4"/></g>'


def _error(row: dict) -> float:
    return 0.0 if np.isnan(row["se"]) else 2 * row["se"]


def scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """From values to pixels, a little room at both ends; a single value stands in the middle."""
    margin = 0.05 * (high - low) or 0.5
    return lambda value: start + (end - start) * (value - low + margin) / (high - low + 2 * margin)


def legend(names: list[str], wide: float) -> list[list[str]]:
    """The names in rows that fit; none for a single one."""
    rows: list[list[str]] = [[]]
    for name in names if len(names) > 1 else []:
        if rows[-1] and sum(map(_key_width, [*rows[-1], name])) > wide:
            rows.append([])
        rows[-1].append(name)
    return rows if rows[0] else []


def _key_width(name: str) -> float:
    return CHARACTER * len(name) + 38


def keys(names: list[str], x: float, y: float, wide: float, kind: str = "series") -> list[str]:
    drawn, place = [], 0
    for row, members in enumerate(legend(names, wide)):
        at = x
        for name in members:
            height = y + 15 * row
            sample = line(at, height - 4, at + 20, height - 4, f"series-{place % STYLES}")
            if kind == "part":
                sample = f'<rect class="part-{place}" x="{at:.1f}" y="{height - 9:.1f}" width="20" height="10"/>'
            drawn += [sample, label(at + 25, height, name, "tick")]
            at, place = at + _key_width(name), place + 1
    return drawn
