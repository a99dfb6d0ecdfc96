"""The paper's figures agree with each other, and stand apart from ours."""

import statistics

import pytest

from mma_jax.reports import paper
from mma_jax.reports.paper_tables import BUILDERS
from mma_jax.reports.tables import to_latex, to_markdown


def test_every_table_of_ours_has_the_papers_and_they_are_marked():
    assert list(paper.TABLES) == list(BUILDERS)
    for name in paper.TABLES:
        table = paper.table(name)
        number = f"{name[:-1].capitalize()} {name[-1]}" if name.startswith("table") else f"Figure {name[-2:]}"
        assert table.caption.startswith(f"The paper’s {number}")
        assert paper.MARK in table.notes
        assert "Llama-3-8B" in to_markdown(table) and "Llama-3-8B" in to_latex(table)


def test_averages_are_those_of_the_datasets():
    for method, average in paper.OOMA_AVERAGE.items():
        assert statistics.fmean(found[method][-1][0] for found in paper.OOMA.values()) == pytest.approx(
            average, abs=6e-5
        )
    for found in paper.OOMA.values():
        for *families, (average, _) in found.values():
            assert statistics.fmean(mean for mean, _ in families) == pytest.approx(average, abs=6e-5)
    for method in ("Static", "MMA-Auto"):
        columns = zip(*(paper.FULL_CATALOG[name][method] for name in paper.OOMA), strict=True)
        assert [statistics.fmean(column) for column in columns] == pytest.approx(
            paper.FULL_CATALOG["Avg."][method], abs=6e-5
        )


def test_what_two_tables_say_is_the_same():
    for name, found in paper.OOMA.items():
        static, auto = found["DGMRec"][-1][0], found["MMA-Auto"][-1][0]
        assert paper.GAIN[name] == f"{auto / static - 1:.1%}"
        assert paper.SIGNIFICANCE[name][0] == f"{auto - static:+.4f}"
        assert paper.ROUTER[name][0] == f"{static:.4f}" and paper.ROUTER[name][2] == f"{auto:.4f}"
        assert paper.ROUTER[name][3] == f"{auto - float(paper.ROUTER[name][1]):+.4f}"
    assert paper.ABLATION["MMA-Auto"] == paper.OOMA_AVERAGE["MMA-Auto"]
    interactive = statistics.fmean(
        paper.OOMA[name]["MMA-Auto"][-1][0] + more for name, more in paper.INTERACTIVE_GAIN.items()
    )
    assert interactive == pytest.approx(paper.ABLATION["MMA-Interactive"], abs=6e-5)
