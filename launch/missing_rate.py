"""NDCG@10 over the share of items that lack a modality: curves, Markdown and a picture per protocol.

    launch/tables/missing_rate.sh ml100k                       # text, --config.data.root=DATA goes behind --
    python -m launch.missing_rate --config=configs/demo.py --workdir=runs/missing_rate/demo --modality=image
    python -m launch.missing_rate ... --methods=MMA-Auto,DGMRec --kinds=mcar --rates=0,.3,.6 -- --config.seed=1

Each rate and kind (mma_jax/data/thinning.py) is a run of its own below WORKDIR; the complete data is one for all kinds.
Methods by default: all that need no language model, without the two controls that read no evidence (Reverse-rank,
Rank-only), without exploiters of the reward, without those that ask, and without the bounds, which know what is gone.

Pictures are encoded once, before any are taken away, and shared by all runs: the encoder is part of the evidence's
making, not of the evidence. (images.encoder=kfold has learned from the categories of all items, those of items without
text included; with other encoders nothing of a text is in a picture.)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from launch import common, curves, sweep
from mma_jax.agents.registry import METHODS
from mma_jax.data.thinning import KINDS, MODALITIES
from mma_jax.evaluation.checks import listed, one_of
from mma_jax.metrics.significance import paired_bootstrap
from mma_jax.reports import tables
from mma_jax.reports.load import Sample
from mma_jax.reports.points import Point, point_panels
from mma_jax.reports.section import short
from mma_jax.types import InputError

_MODALITY = flags.DEFINE_string("modality", "text", "What items lose: text, image or both.")
_RATES = flags.DEFINE_string("rates", "0,0.1,0.3,0.5,0.7,0.9", "Shares of items that lose it, from 0 on.")
_KINDS = flags.DEFINE_string("kinds", ",".join(KINDS), "Which items: mcar, popularity (MAR), value (MNAR).")

BLIND = ("Reverse-rank", "Rank-only")  # read no evidence, and so can lose none
NAMES = {"mcar": "At random", "popularity": "Unpopular items first (MAR)", "value": "By its own value (MNAR)"}

Curves = dict[str, dict[str, dict[curves.Key, Sample]]]
"""Kind -> rate, as it was given -> what was measured."""


def points(modality: str, kinds: Sequence[str], rates: Sequence[str]) -> dict[tuple[str, str], dict[str, str]]:
    """(kind, rate) -> settings; the rate 0 is the same run for all kinds."""
    return {
        (kind, rate): {"data.drop_modality": modality, "data.drop_kind": kind, "data.drop_rate": rate}
        if float(rate)
        else {"data.drop_rate": "0"}
        for kind in kinds
        for rate in rates
    }


def checked_rates(text: str) -> list[str]:
    """--rates, ascending. Raises InputError unless they are numbers from 0, which must be there, to less than 1."""
    try:
        rates = sorted(listed(text), key=float)
    except ValueError:
        rates = []
    if len(rates) < 2 or float(rates[0]) != 0 or not float(rates[-1]) < 1:
        raise InputError(f"--rates={text}: give 0 and shares below 1, such as --rates=0,0.3,0.6")
    return rates


def default_methods() -> list[str]:
    """See the module's text."""
    return [
        name
        for name, m in METHODS.items()
        if not (m.needs_language_model or m.needs_world or m.exploits or m.asks or name in BLIND)
    ]


def link(first: Path, other: Path) -> None:
    """Encoded pictures, and a generated world's files; views and episodes depend on what is missing."""
    for folder in (first / "prepared").iterdir():
        if not folder.name.startswith(("view_", "episodes")):
            curves.share(folder, other / "prepared" / folder.name)


def figure(found: Curves, protocol: str, modality: str) -> str:
    """Rows of panels: a kind each; columns: all episodes and each family; a curve per method."""
    columns = curves.subsets([key for rates in found.values() for one in rates.values() for key in one], protocol)
    panels = {}
    for kind, rates in found.items():
        for subset in columns:
            panel = panels.setdefault(f"{NAMES[kind]}: {tables.family_name(subset)}", {})
            for rate, measured in rates.items():
                for (p, s, method), sample in measured.items():
                    if (p, s) == (protocol, subset):
                        y, low, high = curves.mean(sample.values["ndcg@10"], sample.users)
                        panel.setdefault(method, []).append(Point(float(rate), y, low, high))
    title = f"{short(protocol)}: NDCG@10 over the share of items without {modality}"
    return point_panels(panels, title, f"share of items without {modality}", "NDCG@10", len(columns), dodge=16.0)


def table(found: Curves, protocol: str, subset: str) -> tables.Table:
    """Kind x method over rates, means with their intervals; last the paired change from the first rate to the last."""
    lines = []
    for kind, rates in found.items():
        for method in dict.fromkeys(key[2] for one in rates.values() for key in one):
            cells = [one.get((protocol, subset, method)) for one in rates.values()]
            if all(cells):
                means = [curves.spread(curves.mean(cell.values["ndcg@10"], cell.users)) for cell in cells]
                lines.append([NAMES[kind], method, *means, _change(cells[0], cells[-1])])
    rates = list(next(iter(found.values())))
    headers = ("Missing", "Method", *rates, f"{rates[-1]} − {rates[0]}")
    return tables.plain_table(f"{short(protocol)}, {tables.family_name(subset)}: NDCG@10", headers, lines, 2)


def _change(first: Sample, last: Sample) -> tables.Cell:
    """The same targets with and without: both samples are in the order of the episodes."""
    x, y = last.values["ndcg@10"], first.values["ndcg@10"]
    low, high = paired_bootstrap(x, y, first.users, curves.RESAMPLES)
    return curves.spread((float((x - y).mean()), low, high), "{:+.3f}")


def main(argv: list[str]) -> None:
    modality, kinds, rates = _MODALITY.value, listed(_KINDS.value), checked_rates(_RATES.value)
    one_of("data.drop_modality", modality, [name for name in MODALITIES if name != "none"])
    for kind in kinds:
        one_of("data.drop_kind", kind, KINDS)
    if curves.settings().images.encoder == "none" and modality != "text":
        raise InputError(f"--modality={modality}: {common.CONFIG.value} has images.encoder=none, so no image to lose")
    names, at = curves.methods(default_methods()), points(modality, kinds, rates)
    options = curves.judged(names, argv[1:])
    distinct = {sweep.name(point): point for point in at.values()}
    curves.run([(point, options) for point in distinct.values()], link)
    if common.PRINT_ONLY.value:
        return
    root = Path(common.WORKDIR.value)
    measured = {folder: curves.samples(root / folder, names) for folder in distinct}
    found: Curves = {kind: {rate: measured[sweep.name(at[kind, rate])] for rate in rates} for kind in kinds}
    every = [key for one in measured.values() for key in one]
    named = [p for p in curves.protocols() if curves.subsets(every, p)]
    figures = {f"missing_{modality}_{protocol}": figure(found, protocol, modality) for protocol in named}
    parts = [f"# NDCG@10 over the share of items without {modality}\n", f"`{common.CONFIG.value}`. {TEXT}\n"]
    for protocol in named:
        parts.append(f"![{short(protocol)}](missing_{modality}_{protocol}.svg)\n")
        parts += [tables.to_markdown(table(found, protocol, s)) for s in curves.subsets(every, protocol)]
    curves.write(f"missing_{modality}", "\n".join(parts), figures)


TEXT = (
    f"Mean over test episodes and its 95% interval ({curves.RESAMPLES:,} resamples of users; seeds averaged first). "
    "Every rate plays the same targets and its items without are among those of any higher rate, so curves are paired; "
    "the last column is the paired change. Pools are each rate's own first stage's: what is missing changes who the "
    "hard negatives are, so figures of different rates tell of the whole pipeline, not of the reranker alone."
)

if __name__ == "__main__":
    common.run(main)
