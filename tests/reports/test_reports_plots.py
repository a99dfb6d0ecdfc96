import xml.etree.ElementTree as ET

import numpy as np
import pytest

from mma_jax.metrics.significance import cluster_bootstrap
from mma_jax.reports import plots
from mma_jax.reports.plots import Interval


@pytest.mark.parametrize(
    ("low", "high", "most", "expected"),
    [
        (0.0, 0.63, 5, [0.0, 0.2, 0.4, 0.6]),
        (-0.02, 0.11, 4, [0.0, 0.05, 0.1]),
        (0, 0.48, 3, [0, 0.2, 0.4]),
        (3, 3, 5, [3]),
    ],
)
def test_ticks_are_round_inside_and_few(low, high, most, expected):
    np.testing.assert_allclose(plots.ticks(low, high, most), expected)


def test_ticks_hold_for_any_range():
    rng = np.random.default_rng(0)
    for low, span in zip(rng.normal(size=300) * 10.0 ** rng.integers(-3, 4, 300), rng.random(300) + 1e-3, strict=True):
        found = plots.ticks(low, low + span)
        assert 1 <= len(found) <= 5
        assert all(low - 1e-9 <= tick <= low + span + 1e-9 for tick in found)


def test_interval_is_the_bootstrap_over_users():
    rng = np.random.default_rng(1)
    values, users = rng.random(50), rng.integers(0, 12, 50)
    entry = plots.interval("A", "", values, users, 300, 5)
    assert entry.mean == pytest.approx(values.mean())
    assert (entry.low, entry.high) == cluster_bootstrap(values, users, n_resamples=300, seed=5)


def test_panels_place_every_mark_on_one_scale():
    text = [
        Interval("First-stage", 0.1, 0.05, 0.15),
        Interval("<b>&", 0.3, 0.2, 0.4),
        Interval("Bayes", 0.5, 0.45, 0.6, "bound"),
    ]
    image = [Interval("<b>&", 0.1, 0.0, 0.2, "control")]
    root = ET.fromstring(plots.interval_panels({"Text": text, "Image": image}, "t", "NDCG@10", "First-stage"))
    svg = root.find("svg")
    groups = svg.findall("g")
    assert [group.get("class").split() for group in groups] == [
        ["mark"],
        ["mark"],
        ["mark", "bound"],
        ["mark", "control"],
    ]
    whiskers = [[float(group.find("line").get(end)) for end in ("x1", "x2")] for group in groups]
    dots = [float(group.find("circle").get("cx")) for group in (*groups[:2], groups[3])]
    assert whiskers[0][0] < dots[0] < whiskers[0][1] < whiskers[1][0] < dots[1]
    # Equal values stand equally far from the left edge of their panels.
    edges = [float(rect.get("x")) for rect in svg.findall("rect")]
    assert dots[0] - edges[0] == pytest.approx(dots[2] - edges[1], abs=0.11)
    references = [line for line in svg.findall("line") if line.get("class") == "reference"]
    assert [float(line.get("x1")) for line in references] == pytest.approx([dots[0]])
    labels = [node.text for node in svg.findall("text") if node.get("class") == "label end"]
    assert labels == ["First-stage", "<b>&", "Bayes"]


def test_one_method_without_any_spread_is_drawn():
    flat = plots.interval_panels({"Text": [Interval("A", 0.5, 0.5, 0.5)]}, "t", "NDCG@10", "First-stage")
    assert "nan" not in flat


def test_rank_bins_share_out_all_ranks():
    np.testing.assert_allclose(
        plots.rank_bins(np.array([1, 2, 5, 10, 10, 11, 100, 101])), np.array([1, 2, 2, 1, 0, 1, 1]) / 8
    )
    np.testing.assert_allclose(plots.rank_bins(np.array([1.4, 1.6])), [0.5, 0.5, 0, 0, 0, 0, 0])


def test_rank_panels_draw_shares_to_scale():
    before, after = np.array([11, 12, 1, 3]), {"A": np.array([1, 3, 12, 6])}
    svg = ET.fromstring(plots.rank_panels(before, after, "t")).find("svg")
    bars = svg.findall("rect")
    heights = {kind: [float(b.get("height")) for b in bars if b.get("class") == kind] for kind in ("before", "after")}
    assert heights == {"before": [45, 45, 0, 90], "after": [45, 45, 45, 45]}
