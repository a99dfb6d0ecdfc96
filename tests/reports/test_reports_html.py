import base64
import hashlib
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from reports_fixture import HOSTILE, write_run

from mma_jax.reports import sections
from mma_jax.reports.html import write_report
from mma_jax.reports.load import load_run
from mma_jax.types import InputError

VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """What a browser would build: tags with attributes, scripts, text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts, self.words, self.open = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        else:
            self.words.append(data)

    @property
    def text(self):
        return " ".join(self.words)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"), episodes=12, seeds=(0, 1))


@pytest.fixture(scope="module")
def page(run):
    return Page(write_report(run, n_resamples=50, command=f"main --x='{HOSTILE}'").read_text(encoding="utf-8"))


def test_every_section_is_there(page):
    sections = [attrs["id"] for tag, attrs in page.tags if tag == "section"]
    assert sections == [
        "data", "ooma", "lomo", "full-catalog", "recalled", "comparisons", "diagnostics", "ranks", "audit",
        "traces-section", "config",
    ]  # fmt: skip
    links = [attrs["href"] for tag, attrs in page.tags if tag == "a"]
    assert links == [f"#{section}" for section in sections]
    assert "missing in" not in page.text


def test_figures_of_the_files_reach_the_page(run, page):
    rows = [json.loads(line) for line in (run / "results.jsonl").open()]
    wanted = {"protocol": "ooma", "subset": "image_only", "method": "Evidence-linear", "metric": "ndcg@10"}
    (row,) = [row for row in rows if wanted.items() <= row.items()]
    assert f"{row['value']:.4f}" in page.text
    for word in (
        "943",
        "0.3312",
        "FAIL",
        "0.0312",
        "reversing the first stage",
        "data.root",
        "Evidence-linear − First-stage",
    ):
        assert word in page.text
    assert "0.00%" not in page.text


def test_verdicts_stand_beside_their_checks(run, page):
    cells = [word.strip() for word in page.words if word.strip()]
    for check in json.loads((run / "audit.json").read_text()):
        place = cells.index(check["check"])
        assert cells[place + 1] == ("pass" if check["value"] <= check["threshold"] else "FAIL")


def test_every_sign_of_the_tables_is_known_to_plain_pdflatex(run, page):
    text = (run / "report" / "tables.tex").read_text()
    assert "FAIL" in text and r"$\pm$" in text
    assert {sign for sign in text if not sign.isascii()} <= set("’“”§")  # of utf8 itself; all else is math


def test_bold_p_values_are_those_small_after_correction(run):
    tables = sections._comparisons(load_run(run, 1)).parts
    adjusted = [line.cells[4] for table in tables for line in table.lines]
    assert {"0.0600", "0.0080"} <= {cell.text for cell in adjusted}
    assert all(cell.best == (float(cell.text.lstrip("<")) < 0.05) for cell in adjusted)


@pytest.mark.parametrize("adjusted, marked", [(0.001, True), (0.2, False), (None, False)])
def test_a_mean_against_its_ranks_is_no_win(adjusted, marked):
    row = {"dataset": "a", "subset": "all", "metric": "ndcg@10", "a": "LRMM", "b": "First-stage", "family": "ooma/all"}
    row |= {
        "n": 9,
        "mean_delta": 0.01,
        "ci_low": 0.0,
        "ci_high": 0.02,
        "p": 0.001,
        "p_holm": adjusted,
        "cliffs_delta": 0,
        "p_same": 0.04,
    }
    table = sections.comparison_table("", [row | {"rank_biserial": -0.4}])
    assert table.lines[0].cells[1].text == "+0.0100" + "†" * marked and table.lines[0].cells[-1].text == "0.0400"
    assert not table.lines[0].cells[4].best and len(table.notes) == 2 + marked
    agreeing = sections.comparison_table("", [row | {"rank_biserial": 0.4}])
    assert agreeing.lines[0].cells[4].best == marked and len(agreeing.notes) == 2


def test_target_ranks_come_from_reciprocal_ranks_of_all_families(run):
    rows = [json.loads(line) for line in (run / "per_episode.jsonl").open()]
    mine = [row for row in rows if row["method"] == "Bayes" and row["protocol"] == "full_catalog" and row["mrr"]]
    ranks = sections._target_ranks(load_run(run, 1), "ml-100k", "full_catalog")["Bayes"]
    np.testing.assert_allclose(sorted(ranks), sorted(1 / row["mrr"] for row in mine))


def test_the_page_asks_nothing_of_the_network(page):
    for tag, attrs in page.tags:
        assert tag not in ("link", "img", "iframe", "object")
        assert "src" not in attrs
        assert attrs.get("href", "#").startswith("#")
        assert not any(name.startswith("on") for name in attrs)
    (policy,) = [a["content"] for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    digest = base64.b64encode(hashlib.sha256(page.scripts[-1].encode()).digest()).decode()
    assert policy.startswith("default-src 'none'")
    assert f"script-src 'sha256-{digest}'" in policy


def test_a_hostile_title_stays_text(run, page):
    assert len(page.scripts) == 2
    assert "<" not in page.scripts[0]
    traces = json.loads(page.scripts[0])
    recorded = [json.loads(line) for line in (run / "traces.jsonl").open()]
    assert all(trace in recorded for trace in traces)
    assert traces[0]["candidates"][0]["title"] == HOSTILE
    assert HOSTILE in page.text  # in the command and in an audit detail, unescaped by the parser


def test_hostile_names_everywhere(tmp_path):
    run = write_run(tmp_path / "run", (HOSTILE,), episodes=3, rename={"MMA-Auto": HOSTILE, "ooma": HOSTILE})
    (run / "config.json").write_text(json.dumps({HOSTILE: {"a": HOSTILE}}))
    (run / "statistics.json").write_text(json.dumps({"rows": [[HOSTILE, "\ud800"]], "recall": [{"source": HOSTILE}]}))
    page = Page(write_report(run, n_resamples=20).read_text(encoding="utf-8"))
    assert len(page.scripts) == 2
    assert "img" not in [tag for tag, _ in page.tags]
    assert all(re.fullmatch(r"[a-z0-9-]+", attrs["id"]) for tag, attrs in page.tags if tag == "section")


def test_the_viewer_writes_text_nodes_only(page):
    script = page.scripts[-1]
    for unsafe in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "</script",
        "fetch(",
        "import(",
    ):
        assert unsafe not in script


def test_traces_beyond_the_limit_are_left_out_and_the_page_says_so(run):
    page = Page(write_report(run, n_resamples=20, max_traces=9).read_text(encoding="utf-8"))
    recorded = sum(1 for _ in (run / "traces.jsonl").open())
    assert len(json.loads(page.scripts[0])) == 9
    assert f"9 of {recorded} recorded episodes" in page.text


def test_tables_are_written_for_papers(run, page):
    markdown = (run / "report" / "tables.md").read_text(encoding="utf-8")
    latex = (run / "report" / "tables.tex").read_text(encoding="utf-8")
    tables = sum(tag == "table" for tag, _ in page.tags) - 1  # the settings stay on the page
    assert latex.count(r"\begin{table}") == latex.count(r"\end{table}") == tables
    assert len(re.findall(r"^\| ---", markdown, re.M)) == tables
    assert "**OOMA: NDCG@10 by surviving evidence**" in markdown


def test_an_empty_folder_gives_a_page_that_says_what_to_run(tmp_path):
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    for name, made_by in (
        ("results.jsonl", "evaluate"), ("traces.jsonl", "evaluate"), ("comparisons.jsonl", "evaluate"),
        ("audit.json", "audit"), ("statistics.json", "prepare"), ("config.json", "evaluate"),
    ):  # fmt: skip
        assert re.search(rf"{name} is missing in .*--config\.run={made_by}\b", page.text), name
    assert page.scripts == []


@pytest.mark.parametrize("absent", ["comparisons.jsonl", "audit.json", "statistics.json", "config.json"])
def test_any_one_file_may_be_missing(run, tmp_path, absent):
    for path in run.glob("*.json*"):
        if path.name != absent:
            shutil.copy(path, tmp_path)
    page = Page(write_report(tmp_path, n_resamples=20).read_text(encoding="utf-8"))
    assert f"{absent} is missing" in page.text
    assert page.text.count("is missing in") == 1


def test_a_folder_that_is_not_there_is_the_users_error(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        write_report(tmp_path / "nowhere")


def test_writing_twice_gives_the_same_page_and_leaves_no_scraps(run):
    def written():
        return re.sub(r"Written .*? UTC", "", write_report(run, n_resamples=20).read_text(encoding="utf-8"))

    assert written() == written()
    assert sorted(path.name for path in (run / "report").iterdir()) == ["index.html", "tables.md", "tables.tex"]
