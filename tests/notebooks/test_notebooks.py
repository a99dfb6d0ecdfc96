"""The notebooks, run from their first cell to their last as Colab would, on a world and a model of a few seconds."""

import shutil
from pathlib import Path

import nbformat
import pytest
import tiny
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

FOLDER = Path(__file__).parents[2] / "notebooks"
SMALL = tiny.SETTINGS | {
    "methods": "First-stage,RuleRouter-Fuse,Evidence-linear,Bayes,MMA-SFT,MMA-Auto",
    "sft.steps": 2,
    "ppo.iterations": 2,
    "ppo.prompts": 2,
    "eval.probes": 2,
    "eval.bootstrap": 20,
}


def executed(name, *parameters):
    """The notebook after a run in which some lines were added to its cell of parameters, as papermill does it."""
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", 4)
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    cell.source += "\n" + "\n".join(parameters)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": FOLDER}}).execute()
    return notebook


def shown(notebook, kind):
    """All outputs of a MIME type."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return [output.data[kind] for output in outputs if kind in output.get("data", {})]


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    """The first notebook, and the folder it worked in."""
    base, workdir = tmp_path_factory.mktemp("base"), tmp_path_factory.mktemp("work")
    tiny.base_model(base)
    settings = SMALL | {"model.path": str(base)}
    return executed("quickstart", f"WORKDIR = {str(workdir)!r}", f"SETTINGS |= {settings!r}"), workdir


def test_quickstart_trains_judges_and_shows(quickstart):
    notebook, workdir = quickstart
    assert (workdir / "train" / "MMA-Auto" / "0" / "panel.jsonl").exists()
    tables = shown(notebook, "text/html")
    assert "MMA-Auto" in tables[0] and "behavior_only" in tables[0]
    assert any("<iframe srcdoc=" in table and "Missing-modality reranking" in table for table in tables)
    assert len(shown(notebook, "image/png")) == 1
    assert "failed_calls" in tables[-1]


def test_results_keeps_runs_apart(quickstart, tmp_path_factory):
    """Of what quickstart left, and of the same without the reference's traces: another's name of the same length."""
    first, second = quickstart[1], tmp_path_factory.mktemp("other")
    shutil.copytree(first, second, dirs_exist_ok=True)
    traces = (first / "traces.jsonl").read_text()
    assert '"MMA-SFT"' in traces
    (second / "traces.jsonl").write_text(traces.replace('"MMA-SFT"', '"Another"'))
    notebook = executed("results", f"RUNS = {[str(first), str(second)]}")
    assert len(shown(notebook, "image/png")) == 3
    tables = shown(notebook, "text/html")
    assert len(tables) == 5 and "mean_delta" in tables[1]
    assert all(str(run) in table for table in tables for run in (first, second))
    lost = "".join(output.text for output in notebook.cells[-1].outputs)
    assert str(first) in lost and str(second) not in lost


@pytest.mark.parametrize(
    "name, wrong, said",
    [
        ("quickstart", 'SOURCE = "nowhere"', "is no checkout of mma_jax"),
        ("results", 'RUNS = ["nowhere"]', "nowhere"),
    ],
)
def test_wrong_parameters_are_told_in_one_line(name, wrong, said):
    with pytest.raises(CellExecutionError, match=said):
        executed(name, wrong)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_are_kept_without_outputs(path):
    cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in cells)
