"""Measured points with their intervals, in small multiples: curves over a setting, and what a gain costs."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Callable, Sequence

from mma_jax.reports.panels import INSET, STYLES, keys, legend, scale
from mma_jax.reports.plots import GAP, label, line, svg, ticks

WIDE, PLOT = 250, 170  # pixels of a panel's plot


@dataclasses.dataclass(frozen=True)
class Point:
    """A mean y at x, and the ends of its interval."""

    x: float
    y: float
    low: float
    high: float
    note: str = ""  # what the tooltip says beside the figures
    marked: bool = False  # gets a ring


def point_panels(
    panels: dict[str, dict[str, Sequence[Point]]],
    title: str,
    across: str,
    up: str,
    columns: int,
    dodge: float = 0.0,
) -> str:
    """One panel a name, all on the same scales: series -> its points in order, joined by a line.

    Args:
      panels: name -> series -> points; a series may be absent from a panel.
      title: of the figure, for those who cannot see it.
      across, up: what the axes are.
      columns: panels in a row.
      dodge: pixels over which the marks of all series at one x are spread, so that intervals do not hide each other.
    """
    series = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    flat = [point for panel in panels.values() for points in panel.values() for point in points]
    lows, highs = [p.low for p in flat], [p.high for p in flat]
    left, right = min(p.x for p in flat), max(p.x for p in flat)
    step, tall, top = WIDE + INSET + GAP, PLOT + 70, 30
    rows = -(-len(panels) // columns)
    drawn = []
    for index, (name, panel) in enumerate(panels.items()):
        x0, y0 = (index % columns) * step + INSET, (index // columns) * tall + top
        to_x, to_y = scale(left, right, x0, x0 + WIDE), scale(min(lows), max(highs), y0 + PLOT, y0)
        drawn += _frame(name, x0, y0, to_x, to_y, (left, right), (min(lows), max(highs)))
        for place, key in enumerate(series):
            shift = dodge * ((place + 0.5) / len(series) - 0.5)
            drawn += _series(panel.get(key, ()), f"{name}, {key}", place, lambda x, s=shift, f=to_x: f(x) + s, to_y)
    width = min(columns, len(panels)) * step
    drawn.append(label(INSET, rows * tall + 14, f"across: {across}; up: {up}", "tick"))
    named = [name if place < STYLES else f"{name} (squares)" for place, name in enumerate(series)]
    drawn += keys(named, INSET, rows * tall + 38, width - INSET)
    return svg(width, rows * tall + 44 + 15 * len(legend(named, width - INSET)), title, drawn)


def _frame(name: str, x0: float, y0: float, to_x: Callable, to_y: Callable, xs: tuple, ys: tuple) -> list[str]:
    drawn = [label(x0 - INSET + 8, y0 - 12, name, "facet")]
    for value in ticks(*ys):
        drawn.append(line(x0, to_y(value), x0 + WIDE, to_y(value), "grid"))
        drawn.append(label(x0 - 5, to_y(value) + 4, f"{value:g}", "tick end"))
    drawn += [label(to_x(value), y0 + PLOT + 16, f"{value:g}", "tick middle") for value in ticks(*xs)]
    return [*drawn, line(x0, y0 + PLOT, x0 + WIDE, y0 + PLOT, "axis")]


def _series(points: Sequence[Point], name: str, place: int, to_x: Callable, to_y: Callable) -> list[str]:
    style = f"series-{place % STYLES}"
    path = " ".join(f"{to_x(p.x):.1f},{to_y(p.y):.1f}" for p in points)
    drawn = [f'<polyline class="{style}" points="{path}"/>'] if len(points) > 1 else []
    for point in points:
        x, y = to_x(point.x), to_y(point.y)
        said = f", {point.note}" if point.note else ""
        tip = f"{name}{said}: {point.y:.4f} ({point.low:.4f} to {point.high:.4f}) at {point.x:.4g}"
        ring = f'<circle class="ring" cx="{x:.1f}" cy="{y:.1f}" r="7"/>' if point.marked else ""
        drawn.append(
            f"<g><title>{html.escape(tip)}</title>{line(x, to_y(point.low), x, to_y(point.high), f'{style} span')}"
            f"{_dot(style, x, y, square=place >= STYLES)}{ring}</g>"
        )
    return drawn


def _dot(style: str, x: float, y: float, square: bool) -> str:
    """There are STYLES styles: series beyond them have squares."""
    if square:
        return f'<rect class="{style} point" x="{x - 3:.1f}" y="{y - 3:.1f}" width="6" height="6"/>'
    return f'<circle class="{style} point" cx="{x:.1f}" cy="{y:.1f}" r="3.4"/>'
