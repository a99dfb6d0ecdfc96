"""The ledger of looks at the test part: a line a judged cell, none twice for one that was resumed."""

import json
import shutil
from types import SimpleNamespace

import pytest

from mma_jax.config import base
from mma_jax.evaluation import access
from mma_jax.evaluation.results import Cell, ResultLog
from mma_jax.reports.html import write_report
from mma_jax.reports.load import load_run
from mma_jax.runs import evaluate
from mma_jax.runs.workdir import FREE
from mma_jax.types import InputError

CELLS = [Cell("toy", "ooma", "First-stage", 0), Cell("toy", "lomo", "First-stage", 0)]
ROW = {"subset": "all", "metric": "ndcg@10", "value": 0.5, "n": 3}


def made(directory, **settings):
    config = base()
    for key, value in settings.items():
        config[key] = value
    directory.mkdir(parents=True, exist_ok=True)
    return SimpleNamespace(directory=directory, config=config, episodes=lambda part, protocol: [part, protocol, 0])


def judge(directory, cells, killed=False, **settings):
    """What `runs.evaluate.run` does with its ledger; killed: between the last cell's results and its line."""
    with ResultLog(directory) as log:
        ledger = access.Ledger(made(directory, **settings), filter(log.done, cells), FREE)
        for cell in cells:
            if not log.done(cell):
                log.write(cell, [ROW])
                if not (killed and cell == cells[-1]):
                    ledger.record(cell)


def test_a_line_a_cell_and_none_twice(tmp_path):
    judge(tmp_path, CELLS[:1])
    judge(tmp_path, CELLS, killed=True)
    assert len(access.read(tmp_path)) == 1
    for _ in range(3):
        judge(tmp_path, CELLS)
    lines = access.read(tmp_path)
    assert [(line["protocol"], line["episodes"]) for line in lines] == [("ooma", 3), ("lomo", 3)]
    assert all(line["time"].endswith("Z") and line["time"] >= "2024" for line in lines)


def test_results_that_are_deleted_and_made_again_count_again(tmp_path):
    judge(tmp_path, CELLS)
    for path in tmp_path.glob("*.jsonl"):
        if path.name != access.FILE:
            path.unlink()
    judge(tmp_path, CELLS)
    assert [line["protocol"] for line in access.read(tmp_path)] == ["ooma", "lomo"] * 2


def test_a_line_cut_off_by_a_kill_is_written_again(tmp_path):
    judge(tmp_path, CELLS)
    path = tmp_path / access.FILE
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    assert len(access.read(tmp_path)) == 1
    judge(tmp_path, CELLS)
    assert len(access.read(tmp_path)) == 2 and path.read_bytes().endswith(b"\n")
    path.write_text("[]\n")
    with pytest.raises(InputError, match="line 1"):
        access.read(tmp_path)


def test_settings_that_change_what_comes_out_change_the_fingerprint(tmp_path):
    judge(tmp_path / "a", CELLS[:1])
    judge(tmp_path / "b", CELLS[:1], methods="First-stage", run="evaluate")
    judge(tmp_path / "c", CELLS[:1], seed=3)
    a, b, c = (access.read(tmp_path / name)[0]["settings"] for name in "abc")
    assert a == b != c


def test_the_report_counts_here_and_beside(tmp_path):
    judge(tmp_path / "here", CELLS)
    judge(tmp_path / "there", CELLS[:1])
    judge(tmp_path / "other", [CELLS[0]._replace(dataset="another")])
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / access.FILE).write_text("nonsense\n")
    run = load_run(tmp_path / "here", 0)
    assert len(run.access) == 2 and len(run.access_beside) == 2
    write_report(tmp_path / "here", n_resamples=10)
    table = (tmp_path / "here" / "report" / "tables.md").read_text().split("Looks at the test part")[1]
    assert "| toy | First-stage | 2 | 1 | 1 |" in table
    page = (tmp_path / "here" / "report" / "index.html").read_text()
    assert 'id="test-access"' in page and "cannot be known" in page
    shutil.rmtree(tmp_path / "there")
    assert len(load_run(tmp_path / "here", 0).access_beside) == 1


def test_evaluate_writes_it(tmp_path):
    config = base()
    config.world.n_items, config.world.n_users = 120, 250
    config.episodes.train, config.episodes.valid, config.episodes.test = 60, 20, 30
    config.pool.size, config.eval.bootstrap, config.eval.traces = 10, 20, 0
    config.methods, config.protocols, config.eval.reference = "First-stage,Popularity", "ooma", "First-stage"
    evaluate.run(config, tmp_path, dry_run=False)
    evaluate.run(config, tmp_path, dry_run=False)
    lines = [json.loads(line) for line in (tmp_path / access.FILE).open()]
    assert [(line["method"], line["protocol"], line["seed"]) for line in lines] == [
        ("First-stage", "ooma", 0),
        ("Popularity", "ooma", 0),
    ]
    assert {line["episodes"] for line in lines} == {len(config_families(tmp_path)) * 30}


def config_families(directory):
    """The families that were played, from the results."""
    subsets = {json.loads(line)["subset"] for line in (directory / "per_episode.jsonl").open()}
    return subsets - {"all"}
