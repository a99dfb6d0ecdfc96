"""Regret, worth of information and stress on the page: figures of the files, drawn to scale."""

import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from reports_fixture import write_analyses, write_run
from test_reports_html import Page

from mma_jax.evaluation.information import calibration
from mma_jax.evaluation.regret import PARTS
from mma_jax.evaluation.results import Cell, ResultLog
from mma_jax.reports import beyond, panels
from mma_jax.reports.html import write_report
from mma_jax.reports.load import load_run
from mma_jax.reports.tables import Table


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_analyses(write_run(tmp_path_factory.mktemp("run"), episodes=6))


def tables_of(section):
    return [part for part in section.parts if isinstance(part, Table)]


def drawings(section):
    found = [ET.fromstring(f"<div>{part}</div>") for part in section.parts if isinstance(part, str)]
    return [svg for part in found for svg in part.iter("svg")]


def test_the_page_holds_the_new_sections_where_their_files_are(run):
    page = Page(write_report(run, n_resamples=20).read_text(encoding="utf-8"))
    sections = [attrs["id"] for tag, attrs in page.tags if tag == "section"]
    assert sections[-7:] == ["regret", "information", "ranks", "training", "audit", "traces-section", "config"]


def test_regret_cells_are_means_over_seeds(run):
    [section] = beyond.regret_section(load_run(run, 1))
    whole, by_family = tables_of(section)
    assert [line.labels[1] for line in whole.lines] == ["RuleRouter-Fuse", "MMA-Auto"]
    assert by_family.folded and len(by_family.lines) == 6
    rows = [json.loads(line) for line in (run / "regret.jsonl").open()]
    for line in (*whole.lines, *by_family.lines):
        for part, cell in zip(PARTS, line.cells, strict=False):
            mine = [
                row["value"]
                for row in rows
                if (row["method"], row["part"]) == (line.labels[1], part)
                and row["subset"].replace("_", "-").capitalize() == line.labels[2]
            ]
            assert len(mine) == 2 and cell.text == f"{np.mean(mine):.4f}" and cell.spread == "0.0123"
        assert line.cells[-1].text == "60"


def test_an_undefined_error_is_left_blank(run, tmp_path):
    lines = (run / "regret.jsonl").read_text()
    (tmp_path / "regret.jsonl").write_text(lines.replace("0.0123", "NaN"))
    [section] = beyond.regret_section(load_run(tmp_path, 1))
    assert {cell.spread for line in tables_of(section)[0].lines for cell in line.cells} == {""}


def test_bars_stack_losses_to_the_right_and_gains_to_the_left():
    values = {"routing": 0.2, "scoring": -0.1, "fusion": 0.05, "retrieval": 0.0}
    drawn = panels.stacked_panels({"Text": {"A": values}}, beyond.DRAWN, "t", "x")
    svg = ET.fromstring(drawn).find("svg")
    bars = [
        r for r in svg.findall("rect") if (r.get("class") or "").startswith("part-") and r.find("title") is not None
    ]
    spans = {bar.find("title").text.split()[2]: [float(bar.get("x")), float(bar.get("width"))] for bar in bars}
    (zero,) = [float(n.get("x1")) for n in svg.findall("line") if n.get("class") == "axis"]
    (total,) = [float(n.get("x1")) for n in svg.findall("line") if n.get("class") == "total"]
    assert spans["routing"][0] == pytest.approx(zero, abs=0.11)
    assert spans["fusion"][0] == pytest.approx(zero + spans["routing"][1], abs=0.21)
    assert sum(spans["scoring"]) == pytest.approx(zero, abs=0.21)
    assert spans["routing"][1] == pytest.approx(2 * spans["scoring"][1], abs=0.21)
    assert total - zero == pytest.approx(0.75 * spans["routing"][1], abs=0.21)


def test_information_is_calibrated_per_tool_and_plotted(run):
    [section] = beyond.information_section(load_run(run, 1))
    [table], [svg] = tables_of(section), drawings(section)
    rows = [json.loads(line) for line in (run / "information.jsonl").open()]
    for line, tool in zip(table.lines, ("all tools", "Analyze_Text", "Retrieve_Graph"), strict=True):
        mine = [row for row in rows if tool in ("all tools", row["tool"])]
        figures, bins = calibration(*(np.array([row[k] for row in mine]) for k in ("predicted", "realized")), 10)
        assert line.labels == (tool,)
        assert [cell.text for cell in line.cells] == [
            f"{len(mine):,}", f"{figures['correlation']:+.3f}", f"{figures['bias']:+.4f}", f"{figures['ece']:.4f}",
            f"{figures['ece_centered']:.4f}",
        ]  # fmt: skip
        marks = [g for g in svg.findall("g") if g.find("title").text.startswith(f"{tool}:")]
        assert len(marks) == len(bins) == 10


def test_dots_stand_on_the_diagonal_where_head_and_world_agree():
    table = [{"predicted": v, "realized": v, "se": 0.01, "n": 5} for v in (-0.1, 0.2)]
    svg = ET.fromstring(panels.reliability_panels({"T": table}, "t")).find("svg")
    (diagonal,) = [n for n in svg.findall("line") if n.get("class") == "reference"]
    ends = [[float(diagonal.get(f"{axis}{n}")) for axis in "xy"] for n in (1, 2)]
    dots = np.array([[float(g.find("circle").get(axis)) for axis in ("cx", "cy")] for g in svg.findall("g")])
    (x1, y1), (x2, y2) = ends
    np.testing.assert_allclose((dots[:, 0] - x1) * (y2 - y1), (dots[:, 1] - y1) * (x2 - x1), atol=0.11 * abs(y2 - y1))
    frame = svg.find("rect")
    top, tall = float(frame.get("y")), float(frame.get("height"))
    for whisker in svg.iter("line"):
        if whisker.get("class") == "whisker":
            assert all(top <= float(whisker.get(end)) <= top + tall for end in ("y1", "y2"))


def test_stress_stands_beside_the_truth(tmp_path):
    values = {"ooma": 0.5, "stress_wrong": 0.2, "stress_stale": 0.4}
    with ResultLog(tmp_path) as log:
        for protocol, value in values.items():
            for method in ("MMA-Auto", "Bayes")[: 1 if protocol != "ooma" else 2]:
                log.write(
                    Cell("d", protocol, method, 0), [{"subset": "all", "metric": "ndcg@10", "value": value, "n": 9}]
                )
    [section] = beyond.stress_section(load_run(tmp_path, 1))
    [table] = tables_of(section)
    assert table.headers == ("Faithful", "Wrong", "Stale")
    assert [(line.labels[1], [cell.text for cell in line.cells]) for line in table.lines] == [
        ("MMA-Auto", ["0.5000", "0.2000", "0.4000"])
    ]
    page = Page(write_report(tmp_path, n_resamples=20).read_text(encoding="utf-8"))
    assert "tools that lie" in page.text


def test_no_file_no_section(tmp_path):
    run = load_run(write_run(tmp_path / "run", episodes=3), 1)
    assert not [*beyond.stress_section(run), *beyond.regret_section(run), *beyond.information_section(run)]
