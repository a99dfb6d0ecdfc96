import re
import statistics
from html.parser import HTMLParser

import pytest
from reports_fixture import HOSTILE

from mma_jax.reports import tables
from mma_jax.reports.tables import Cell, Column


def row(method, value, *, dataset="Baby", subset="text_only", seed=0, metric="ndcg@10", n=100):
    return {
        "dataset": dataset,
        "protocol": "ooma",
        "subset": subset,
        "method": method,
        "seed": seed,
        "metric": metric,
        "value": value,
        "n": n,
    }


COLUMNS = [Column("Text-only", "ndcg@10", "text_only"), Column("Image-only", "ndcg@10", "image_only")]


def cells(table):
    return {line.labels: [(cell.text, cell.spread, cell.best) for cell in line.cells] for line in table.lines}


def test_mean_and_sample_deviation_over_seeds():
    values = [0.10, 0.20, 0.60]
    rows = [row("A", value, seed=seed) for seed, value in enumerate(values)]
    (cell, empty) = tables.tabulate(rows, "t", COLUMNS).lines[0].cells
    assert cell.text == "0.3000"
    assert cell.spread == f"{statistics.stdev(values):.4f}" == "0.2646"
    assert empty == Cell()


def test_notes_say_how_many_seeds_and_episodes_stand_behind():
    one = tables.tabulate([row("A", 0.1, n=1234)], "t", COLUMNS)
    assert one.notes[0].startswith("One seed ran")
    assert one.notes[1] == "Episodes, Baby: text-only 1,234."
    mixed = tables.tabulate([row("A", 0.1), row("A", 0.2, seed=1), row("B", 0.3, n=90)], "t", COLUMNS)
    assert "over 2 seeds; cells without ± ran with one seed" in mixed.notes[0]
    assert mixed.notes[1] == "Episodes, Baby: text-only 90–100."


def test_absent_and_null_cells_stay_empty_and_a_line_without_any_value_is_left_out():
    rows = [row("A", 0.1), row("A", None, subset="image_only"), row("B", None), row("C", 0.5, subset="image_only")]
    assert cells(tables.tabulate(rows, "t", COLUMNS)) == {
        ("Baby", "A"): [("0.1000", "", False), ("", "", False)],
        ("Baby", "C"): [("", "", False), ("0.5000", "", False)],
    }


def test_lines_keep_the_order_of_first_appearance():
    rows = [
        row("Z", 0.1, dataset="Yelp"),
        row("M", 0.1, dataset="Baby"),
        row("A", 0.1, dataset="Yelp"),
        row("Z", 0.1, dataset="Baby"),
    ]
    labels = [line.labels for line in tables.tabulate(rows, "t", COLUMNS).lines]
    assert labels == [("Yelp", "Z"), ("Yelp", "A"), ("Baby", "Z"), ("Baby", "M")]


def test_best_is_per_dataset_at_printed_precision_and_may_be_a_control_but_never_a_bound():
    rows = [
        row("A", 0.12341),
        row("Reverse-rank", 0.12339),
        row("B", 0.1),
        row("Bayes", 0.9),
        row("Router-Ask", 0.8),
        row("A", 0.1, dataset="Yelp"),
        row("B", 0.2, dataset="Yelp"),
    ]
    table = tables.tabulate(rows, "t", COLUMNS)
    best = {line.labels for line in table.lines if line.cells[0].best}
    assert best == {("Baby", "A"), ("Baby", "Reverse-rank"), ("Yelp", "B")}
    assert [line.role for line in table.lines[:5]] == ["", "control", "", "bound", "bound"]


def test_nothing_is_best_where_all_are_equal_or_the_metric_has_no_order():
    equal = [row("A", 0.0), row("B", 0.0)]
    assert not any(line.cells[0].best for line in tables.tabulate(equal, "t", COLUMNS).lines)
    turns = [row("A", 2.0, metric="turns"), row("B", 3.0, metric="turns")]
    table = tables.tabulate(turns, "t", [Column("Turns", "turns", "text_only")])
    assert cells(table) == {("Baby", "A"): [("2.00", "", False)], ("Baby", "B"): [("3.00", "", False)]}


def test_by_subset_shows_each_line_its_own_subset():
    rows = [row("A", 0.5, metric="recovery"), row("A", 0.25, metric="recovery", subset="image_only")]
    table = tables.tabulate(rows, "t", [Column("Recovery", "recovery")], by_subset=True)
    assert table.labels == ("Dataset", "Method", "Family")
    assert cells(table) == {
        ("Baby", "A", "Text-only"): [("50.0%", "", False)],
        ("Baby", "A", "Image-only"): [("25.0%", "", False)],
    }


@pytest.mark.parametrize(
    ("name", "value", "printed"),
    [
        ("tts", 2.456, "2.46"),
        ("return", 0.1, "+0.100"),
        ("stop_turn_limit", 0.125, "12.5%"),
        ("invalid_json", 2, "2.00"),
    ],
)
def test_metrics_print_in_their_own_form(name, value, printed):
    (line,) = tables.tabulate([row("A", value, metric=name)], "t", [Column("x", name, "text_only")]).lines
    assert line.cells[0].text == printed


TABLE = tables.tabulate(
    [row("A|b_*", 0.5), row("A|b_*", 0.7, seed=1), row(HOSTILE, 0.1), row("Popularity", 0.2)], "50% & more", COLUMNS
)


def test_markdown_has_one_cell_per_column_and_escapes():
    lines = [line for line in tables.to_markdown(TABLE).splitlines() if line.startswith("|")]
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 5 for line in lines)
    assert r"| Baby | A\|b\_\* | **0.6000** ± 0.1414 |  |" in lines
    assert "| Baby | Popularity (control) | 0.2000 |  |" in lines
    assert "<" not in "".join(lines)


def test_latex_escapes_and_balances():
    text = tables.to_latex(TABLE)
    assert r"\caption{50\% \& more}" in text
    assert r"Baby & A|b\_* & \textbf{0.6000} $\pm$ 0.1414 &  \\" in text
    assert r"\textless{}/script\textgreater{}" in text
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    assert tables.escape_latex("\\~^{}#$") == (r"\textbackslash{}\textasciitilde{}\textasciicircum{}\{\}\#\$")


def test_a_table_without_lines_is_nothing_on_the_page():
    assert tables.to_html(tables.tabulate([row("A", None)], "t", COLUMNS)) == ""


class Balance(HTMLParser):
    """Tags in order, and whether each is closed by its own end tag."""

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_html_is_balanced_rectangular_and_escapes():
    text = tables.to_html(TABLE)
    parser = Balance()
    parser.feed(text)
    assert parser.open == []
    assert "img" not in parser.seen
    assert "&lt;/script&gt;" in text
    assert text.count("<tr>") + text.count("<tr ") == 4
    assert text.count("<td") == 6
    assert '<span class="role">control</span>' in text
    assert '<strong>0.6000</strong> <span class="spread">± 0.1414</span>' in text
