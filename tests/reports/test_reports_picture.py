"""A picture of its own: well formed, on white, without anything that only the page's style sheet knows."""

import xml.etree.ElementTree as ET

from mma_jax.reports.panels import bar_panels
from mma_jax.reports.picture import standalone
from mma_jax.reports.plots import Interval

SVG = "{http://www.w3.org/2000/svg}"
FOUND = {
    "All": [Interval("First-stage", 0.1, 0.05, 0.15, "control"), Interval("<b>&", 0.2, 0.1, 0.4)],
    "Text": [Interval("<b>&", 0.3, 0.25, 0.35)],
}


def test_a_picture_stands_alone():
    text = standalone(bar_panels(FOUND, "a & b", "NDCG@10", "First-stage"))
    root = ET.fromstring(text)
    assert root.tag == f"{SVG}svg" and root.get("aria-label") == "a & b"
    assert "var(" not in text and "@media" not in text
    style, paper = root[0], root[1]
    assert "svg .mark { fill: #0072b2" in style.text
    assert (paper.tag, paper.get("width"), paper.get("fill")) == (f"{SVG}rect", "100%", "#ffffff")


def test_bars_begin_at_zero_and_share_a_scale():
    root = ET.fromstring(standalone(bar_panels(FOUND, "t", "NDCG@10", "First-stage")))
    groups = list(root.iter(f"{SVG}g"))
    assert [group.get("class").split() for group in groups] == [
        ["mark", "bar", "control"],
        ["mark", "bar"],
        ["mark", "bar"],
    ]
    widths = [float(group.find(f"{SVG}rect").get("width")) for group in groups]
    scale = widths[0] / 0.1
    for group, (low, mean, high) in zip(groups, ((0.05, 0.1, 0.15), (0.1, 0.2, 0.4), (0.25, 0.3, 0.35)), strict=True):
        bar, whisker = group.find(f"{SVG}rect"), group.find(f"{SVG}line")
        zero = float(bar.get("x"))
        assert abs(float(bar.get("width")) - mean * scale) < 0.3
        assert abs(float(whisker.get("x1")) - zero - low * scale) < 0.3
        assert abs(float(whisker.get("x2")) - zero - high * scale) < 0.3
    assert len([line for line in root.iter(f"{SVG}line") if line.get("class") == "reference"]) == 1


def test_what_is_said_of_a_narrow_picture_is_not_cut_off():
    words = "a long explanation " * 8
    root = ET.fromstring(standalone(bar_panels({"All": FOUND["All"]}, "t", words)))
    label = next(text for text in root.iter(f"{SVG}text") if text.text == words)
    assert float(root.get("width")) > float(label.get("x")) + 6 * len(words)
