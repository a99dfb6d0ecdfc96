"""The stability panel: every curve and alarm of the logs, and nothing where nothing was trained."""

import json
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from reports_fixture import HOSTILE, write_analyses

from mma_jax.reports import panels
from mma_jax.reports.html import write_report
from mma_jax.reports.load import load_run
from mma_jax.reports.tables import Table
from mma_jax.reports.training import training_section
from mma_jax.types import InputError


def sections(directory):
    return list(training_section(load_run(directory, 1)))


def figures(section):
    """The SVG elements of a section, those behind a fold too."""
    html = [part for part in section.parts if isinstance(part, str)]
    found = [ET.fromstring(f"<div>{part}</div>") for part in html]
    return [svg for part in found for svg in part.iter("svg")]


def facets(svg):
    return [node.text for node in svg.findall("text") if node.get("class") == "facet"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return write_analyses(tmp_path_factory.mktemp("trained"))


def test_nothing_is_shown_where_nothing_was_trained(tmp_path):
    assert sections(tmp_path) == []
    (tmp_path / "train" / "MMA-SFT" / "0").mkdir(parents=True)
    (tmp_path / "train" / "MMA-SFT" / "0" / "panel.jsonl").write_text("")
    assert sections(tmp_path) == []
    assert "Training" not in write_report(tmp_path).read_text(encoding="utf-8")


def test_the_stability_metrics_come_first_and_the_rest_is_folded(trained):
    [section] = sections(trained)
    shown, rest = figures(section)
    assert facets(shown) == [
        "Reward", "Query", "Entropy", "Clip fraction", "KL", "Explained variance", "|Δlogp| max", "|Δlogp| p95",
        "Invalid rate", "Repeat null rate",
    ]  # fmt: skip
    assert facets(rest) == ["Learning rate", "Seconds"]


def test_families_are_series_and_seeds_are_overlaid(trained):
    [section] = sections(trained)
    curves = figures(section)[0].findall("polyline")
    titles = [curve.find("title").text for curve in curves]
    reward = [n for n, title in enumerate(titles) if title.startswith("Reward, text only:")]
    assert len(reward) == 2  # two seeds
    assert len({curves[n].get("class") for n in reward}) == 1
    assert len({curves[n].get("points") for n in reward}) == 2
    assert len([title for title in titles if title.startswith("Reward, ")]) == 6
    last = json.loads((trained / "train/MMA-Auto/1/panel.jsonl").read_text().splitlines()[-1])
    assert titles[reward[1]] == f"Reward, text only: {last['reward/text_only']:.4g} at 29"


def test_curves_are_drawn_to_scale():
    line = (np.array([0.0, 5.0, 10.0]), np.array([0.0, 1.0, 0.5]))
    svg = ET.fromstring(panels.curve_panels({"A": {"": [line]}}, "t", marks=[5.0])).find("svg")
    (curve,) = svg.findall("polyline")
    x, y = np.array([pair.split(",") for pair in curve.get("points").split()], float).T
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.2)
    assert y[1] < y[2] < y[0] and y[2] == pytest.approx((y[0] + y[1]) / 2, abs=0.2)
    (mark,) = [node for node in svg.findall("line") if node.get("class") == "alarm"]
    assert float(mark.get("x1")) == pytest.approx(x[1], abs=0.1)


def test_a_level_curve_tells_its_level():
    svg = ET.fromstring(panels.curve_panels({"A": {"": [(np.arange(3.0), np.full(3, 0.137))]}}, "t")).find("svg")
    assert "0.137" in [node.text for node in svg.findall("text")]


def test_long_curves_keep_their_means():
    x, y = np.arange(5000.0), np.random.default_rng(0).normal(size=5000)
    short_x, short_y = panels.thin(x, y)
    assert len(short_x) == len(short_y) == panels.POINTS
    assert short_y[0] == pytest.approx(y[x < 5000 / panels.POINTS].mean())
    assert np.all(np.diff(short_x) > 0)
    assert panels.thin(x[:100], y[:100])[1] is not None and len(panels.thin(x[:100], y[:100])[0]) == 100


def test_alarms_are_listed_with_their_iterations(trained):
    [section] = sections(trained)
    (table,) = [part for part in section.parts if isinstance(part, Table)]
    rows = [(*line.labels, *(cell.text for cell in line.cells)) for line in table.lines]
    assert rows == [
        ("MMA-Auto", "0", "entropy below 0.1", "1", "7", "7"),
        ("MMA-Auto", "1", "entropy below 0.1", "1", "8", "8"),
    ]
    marks = [node for node in figures(section)[0].findall("line") if node.get("class") == "alarm"]
    assert len(marks) == 2 * len(facets(figures(section)[0]))


def log(directory, text, method="A"):
    path = directory / "train" / method / "0" / "panel.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return directory


def test_a_log_that_is_being_written_is_read_up_to_its_last_line(tmp_path):
    log(tmp_path, '{"iteration":0,"kl":1.0}\n{"iteration":1,"kl":2.0}\n{"iteration":2,"k')
    [section] = sections(tmp_path)
    (title,) = [curve.find("title").text for curve in figures(section)[0].findall("polyline")]
    assert title == "KL: 2 at 1"
    assert "<p>No alarm rang.</p>" in section.parts
    log(tmp_path, '{"iteration":0,"kl":\n{"iteration":1}\n')
    with pytest.raises(InputError, match=r"panel.jsonl: not JSON lines"):
        sections(tmp_path)


def test_the_whole_stands_among_its_parts_and_one_iteration_is_a_point(tmp_path):
    log(tmp_path, '{"iteration":0,"clip_fraction":0.1,"clip_fraction/to_64":0.3,"invalid_rate":0,"valid":1}\n')
    [svg] = figures(sections(tmp_path)[0])
    assert facets(svg) == ["Clip fraction", "Invalid rate", "Valid"]
    titles = [curve.find("title").text for curve in svg.findall("circle")]
    assert titles[:2] == ["Clip fraction, all: 0.1 at 0", "Clip fraction, to 64: 0.3 at 0"]


def test_what_is_not_a_number_is_left_out_and_names_stay_text(tmp_path):
    log(
        tmp_path,
        '{"iteration":0,"kl":NaN,"entropy":null,"note":"x","reward/%s":0.5,"alarms":["%s"]}\n' % (2 * (HOSTILE,)),
    )
    log(tmp_path, '{"iteration":3,"reward":0.5}\n', HOSTILE.replace("/", ""))
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "<img" not in page and "onerror" in page
    section = sections(tmp_path)[0]
    assert not any(re.search(r"\bnan\b", part) for part in section.parts if isinstance(part, str))
    assert sorted(name for svg in figures(section) for name in facets(svg))[0] == "Reward"
