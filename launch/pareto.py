"""What accuracy costs: NDCG@10 against evidence calls, over the price of a call (config.env.cost_tool).

    launch/tables/pareto.sh generated
    python -m launch.pareto --config=configs/demo.py --workdir=runs/pareto/demo --costs=0,-.02,-.1
    python -m launch.pareto ... --methods=First-stage,RuleRouter-Fuse,MMA-SFT,MMA-Auto

A method that earns rewards while it is made, by PPO (runs.train.RECIPES that start from another) or by planning
(Optimal-router, generated world alone), is run at every price, below WORKDIR: a curve. Nobody else knows the price, so
all others are run once: a point. Data, evidence and episodes know no price either; they are made once, and so is the
SFT that PPO starts from. By default: all that need no language model and are no exploiters, with Optimal-router where
there is a world. A ring marks who is not dominated: nobody in the panel has a higher mean with as few calls.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags

from launch import common, curves, sweep
from mma_jax.agents.registry import METHODS
from mma_jax.evaluation.checks import listed
from mma_jax.reports import tables
from mma_jax.reports.load import Sample
from mma_jax.reports.points import Point, point_panels
from mma_jax.reports.section import short
from mma_jax.runs.train import RECIPES
from mma_jax.types import InputError

_COSTS = flags.DEFINE_string("costs", "0,-0.005,-0.01,-0.02,-0.05,-0.1", "Rewards of a call, from the cheapest on.")

PRICED = ("Optimal-router", *(name for name, recipe in RECIPES.items() if recipe.start))
"""Methods that adapt to the price of a call."""

BLIND = ("Reverse-rank", "Rank-only", "Popularity", "Reverse-popularity")
"""Methods that call nothing and read nothing: First-stage stands for them."""

CALLS, NDCG = "evidence_calls", "ndcg@10"

Place = tuple[str, str]
"""(method, price), "" for a method that knows none."""


def checked_costs(text: str) -> list[str]:
    """--costs, 0 first. Raises InputError unless they are numbers of at most 0."""
    try:
        costs = sorted(listed(text), key=float, reverse=True)
    except ValueError:
        costs = []
    if not costs or float(costs[0]) > 0:
        raise InputError(f"--costs={text}: give numbers of at most 0, such as --costs=0,-0.02,-0.1")
    return costs


def default_methods() -> list[str]:
    """See the module's text."""
    world = curves.settings().data.source == "generated"
    names = [n for n, m in METHODS.items() if not (m.needs_language_model or m.needs_world or m.exploits or m.asks)]
    return [name for name in names if name not in BLIND] + (["Optimal-router"] if world else [])


def link(first: Path, other: Path) -> None:
    """All evidence and episodes; finished SFT as copies, for training keeps writing beside its checkpoints."""
    for folder in (first / "prepared").iterdir():
        curves.share(folder, other / "prepared" / folder.name)
    for start in {recipe.start for recipe in RECIPES.values() if recipe.start}:
        curves.share(first / "train" / start, other / "train" / start, shutil.copy2)


def undominated(places: dict[Place, tuple[float, float]]) -> set[Place]:
    """Those of (calls, NDCG) that nobody beats in one of the two without losing in the other."""
    return {
        one
        for one, (calls, ndcg) in places.items()
        if not any(c <= calls and n >= ndcg and (c, n) != (calls, ndcg) for c, n in places.values())
    }


def panel(measured: dict[Place, Sample]) -> dict[Place, Point]:
    """Means over episodes, intervals of NDCG@10; methods that take no turn have made no call."""
    means = {place: (float(np.nan_to_num(s.values[CALLS]).mean()), s) for place, s in measured.items()}
    best = undominated({place: (calls, float(s.values[NDCG].mean())) for place, (calls, s) in means.items()})
    return {
        place: Point(
            calls, *curves.mean(s.values[NDCG], s.users), f"price {place[1]}" if place[1] else "", place in best
        )
        for place, (calls, s) in means.items()
    }


def by_method(points: dict[Place, Point]) -> dict[str, list[Point]]:
    """A curve per method, from few calls to many."""
    found: dict[str, list[Point]] = {}
    for (method, _), point in points.items():
        found.setdefault(method, []).append(point)
    return {method: sorted(members, key=lambda p: (p.x, p.y)) for method, members in found.items()}


def table(points: dict[Place, Point], protocol: str, subset: str) -> tables.Table:
    """A line a place, from few calls to many; bold: not dominated."""
    lines = []
    for (method, cost), point in sorted(points.items(), key=lambda entry: (entry[1].x, -entry[1].y)):
        ndcg = tables.Cell(f"{point.y:.4f} ({point.low:.4f} to {point.high:.4f})", best=point.marked)
        lines.append([method, cost or "any", f"{point.x:.2f}", ndcg])
    title = f"{short(protocol)}, {tables.family_name(subset)}: accuracy and evidence calls"
    return tables.plain_table(title, ("Method", "Price", "Calls", "NDCG@10"), lines, 2)


def collect(names: Sequence[str], costs: Sequence[str], folders: Sequence[Path]) -> dict[tuple, dict[Place, Sample]]:
    """(protocol, subset) -> what was measured at every place."""
    found: dict[tuple, dict[Place, Sample]] = {}
    for cost, folder in zip(costs, folders, strict=True):
        for (protocol, subset, method), sample in curves.samples(folder, names, (NDCG, CALLS)).items():
            if method in PRICED or cost == costs[0]:
                found.setdefault((protocol, subset), {})[method, cost if method in PRICED else ""] = sample
    return found


def main(argv: list[str]) -> None:
    costs = checked_costs(_COSTS.value)
    names = curves.methods(default_methods())
    priced = [name for name in names if name in PRICED]
    points = [{"env.cost_tool": cost} for cost in (costs if priced else costs[:1])]
    asked = [curves.judged(names if point is points[0] else priced, argv[1:]) for point in points]
    curves.run(list(zip(points, asked, strict=True)), link)
    if common.PRINT_ONLY.value:
        return
    root = Path(common.WORKDIR.value)
    found = collect(names, costs[: len(points)], [root / sweep.name(point) for point in points])
    panels = {key: panel(measured) for key, measured in found.items()}
    parts, figures = [f"# What accuracy costs\n\n`{common.CONFIG.value}`. {TEXT}\n"], {}
    for protocol in curves.protocols():
        shown = curves.subsets([(*key, "") for key in panels], protocol)
        drawn = {tables.family_name(subset): by_method(panels[protocol, subset]) for subset in shown}
        if shown:
            title = f"{short(protocol)}: NDCG@10 against evidence calls"
            figures[f"pareto_{protocol}"] = point_panels(drawn, title, "evidence calls per episode", "NDCG@10", 3)
            parts.append(f"![{title}](pareto_{protocol}.svg)\n")
            parts += [tables.to_markdown(table(panels[protocol, subset], protocol, subset)) for subset in shown]
    curves.write("pareto", "\n".join(parts), figures)


TEXT = (
    "Price: the reward of one evidence call. Calls: evidence calls per test episode, Null and invalid ones included. "
    f"NDCG@10: mean over episodes and its 95% interval ({curves.RESAMPLES:,} resamples of users; seeds averaged "
    "first). A curve is a method that was made for each price; a lone point knows no price. Rings in the figures and "
    "bold in the tables: not dominated, by the means alone; neighbors whose intervals overlap may change places."
)

if __name__ == "__main__":
    common.run(main)
