"""The paper's tables by their scripts: what they would run, what they refuse, and one for real on the demo world."""

import os
import runpy
import subprocess
import sys
import types
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from launch.tables import __main__ as tables
from launch.tables import plan
from mma_jax.agents.registry import METHODS
from mma_jax.reports import paper_tables
from mma_jax.types import InputError

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "launch" / "tables"
SMALL = [
    "--config.world.n_items=120",
    "--config.world.n_users=250",
    "--config.world.images=False",
    "--config.episodes.train=60",
    "--config.episodes.valid=20",
    "--config.episodes.test=30",
    "--config.pool.size=10",
    "--config.eval.traces=0",
    "--config.eval.probes=0",
]


def script(name, *arguments):
    return subprocess.run(
        [SCRIPTS / f"{name}.sh", *arguments],
        cwd="/",
        env=os.environ | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_table_has_a_builder_and_a_script():
    assert list(plan.TABLES) == list(paper_tables.BUILDERS)
    for name in plan.TABLES:
        text = (SCRIPTS / f"{name}.sh").read_text()
        assert f'run.sh" {name} "$@"' in text and os.access(SCRIPTS / f"{name}.sh", os.X_OK)
    for data in plan.DATASETS.values():
        file, _, preset = data.config.partition(":")
        config = runpy.run_path(ROOT / "configs" / file)["get_config"](*filter(None, [preset]))
        assert config.data.name == (data.folder or "generated")


def test_methods_and_protocols_are_known():
    known = {*METHODS, *paper_tables.STATIC}
    for table in plan.TABLES.values():
        assert set(table.methods) <= known
    assert set(paper_tables.AGENTS) == {name for name, method in METHODS.items() if method.needs_language_model}
    assert set(paper_tables.HEADROOM) == {name for name, method in METHODS.items() if method.asks}


def test_agents_play_where_a_model_reads_and_bounds_where_the_truth_is_known():
    main = plan.TABLES["table4"]
    assert set(plan.methods(main, real=False, agents=True, only=())) == set(main.methods)
    real = plan.methods(main, real=True, agents=False, only=())
    assert not {"MMA-Auto", "ReAct", "Bayes"} & set(real) and {"DGMRec", "RuleRouter-Fuse"} <= set(real)
    assert plan.methods(main, False, True, ("MMA-Auto", "DGMRec")) == ("DGMRec", "MMA-Auto")


def test_commands_share_their_settings_and_train_agents_alone():
    (train, first), (evaluate, second) = plan.commands(
        plan.TABLES["figure2a"], ("Router-Ask", "MMA-Auto"), "c.py", "w", ("--config.a=1",)
    )
    assert (train, evaluate) == ("train", "evaluate")
    assert {"--config.methods=MMA-Auto", "--config.run=train", "--config.a=1", "--config.seeds=0,1,2,3,4"} <= set(first)
    assert {"--config.methods=Router-Ask,MMA-Auto", "--config.protocols=ooma,interactive"} <= set(second)
    shared = [word for word in first if not word.startswith(("--config.run", "--config.methods", "--config.protocols"))]
    assert shared == [word for word in second if word in shared]
    [(only, words)] = plan.commands(plan.TABLES["figure2a"], ("RuleRouter-Fuse",), "c.py", "w", ())
    assert only == "evaluate" and "--config.protocols=ooma" in words


def asked(*words):
    return tables.parse(list(words))


def test_real_data_says_what_agents_need(tmp_path, capsys):
    (tmp_path / "ml-100k").mkdir()
    root = f"--data_root={tmp_path}"
    names = "--methods=RuleRouter-Fuse,MMA-Auto"
    assert tables.chosen(asked("table7", "ml-100k", root, names)) == ("RuleRouter-Fuse",)
    assert "without MMA-Auto: agents need --config.model.path=FOLDER" in capsys.readouterr().out
    for more in ("--agents=l0_tiny", "--config.model.path=there"):
        assert tables.chosen(asked("table7", "ml-100k", root, names, more)) == ("RuleRouter-Fuse", "MMA-Auto")
    assert tables.chosen(asked("table7", "demo", names, "--agents=none")) == ("RuleRouter-Fuse",)
    assert capsys.readouterr().out == ""
    with pytest.raises(InputError, match="figure2b is about agents alone"):
        tables.chosen(asked("figure2b", "ml-100k", root))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("table1", "demo"), "unknown table 'table1': known are table2"),
        (("table4", "yelp"), "unknown dataset 'yelp': known are demo"),
        (("table4", "ml-100k"), "ml-100k needs --data_root=DIR"),
        (("table4", "ml-100k", "--data_root=/nowhere"), "no folder ml-100k in it"),
        (("table4", "demo", "--config.methods=ReAct"), "a table sets config.methods itself"),
        (("table4", "demo", "--seeds=3"), "'--seeds=3' is no option"),
        (("table4", "demo", "extra"), "'extra' is no option"),
        (("table4", "demo", "--agents=gpt"), "one of auto, l0_tiny, none"),
        (("table4",), "required: dataset"),
    ],
)
def test_wrong_arguments(words, message):
    with pytest.raises(InputError, match=message):
        asked(*words)


def test_methods_that_are_not_there_are_told(monkeypatch):
    with pytest.raises(InputError, match="table4 has no 'Expert'; it has First-stage"):
        tables.chosen(asked("table4", "demo", "--methods=Expert"))
    monkeypatch.setattr(tables, "METHODS", {"First-stage": types.SimpleNamespace()})
    with pytest.raises(InputError, match="not among the methods that this version has: RuleRouter-Fuse; narrow by"):
        tables.chosen(asked("table4", "demo", "--methods=First-stage,RuleRouter-Fuse"))


def test_the_base_models_size_is_counted():
    config = ConfigDict({"model": {"path": ""}})
    assert tables.base_model(config).startswith("L0-tiny of 1.")
    config.model.path = "/no/such/Meta-Llama-3-8B"  # planned for the shape of Llama-3-8B
    assert tables.base_model(config) == "Meta-Llama-3-8B of 8.0 B"


def test_a_wrong_setting_ends_in_one_line(tmp_path):
    done = script("table4", "demo", f"--workdir={tmp_path}", "--methods=First-stage", "--config.nothing=1")
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1 and "nothing" in done.stderr
    assert not (tmp_path / "tables").exists()


def test_without_python_one_line(tmp_path):
    (tmp_path / "launch" / "tables").mkdir(parents=True)
    for name in ("python.sh", "run.sh", "table4.sh"):
        (tmp_path / "launch" / "tables" / name).write_bytes((SCRIPTS / name).read_bytes())
        (tmp_path / "launch" / "tables" / name).chmod(0o755)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHON"}
    done = subprocess.run(
        [tmp_path / "launch" / "tables" / "table4.sh", "demo"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and "install as README.md says" in done.stderr


def test_table4_for_real_and_again(tmp_path):
    """Two methods on a small world, from nothing to Markdown, LaTeX and the picture; a second table reuses them."""
    options = (f"--workdir={tmp_path}", "--methods=First-stage,RuleRouter-Fuse", *SMALL)
    done = script("table4", "demo", *options)
    assert done.returncode == 0, done.stderr[-3000:]
    text = (tmp_path / "tables" / "table4.md").read_text()
    ours, theirs = text.split("## What the paper reports")
    assert "| generated | RuleRouter-Fuse (control) |" in ours and "| Yelp | MMA-Auto |" in theirs
    assert ours.strip() in done.stdout
    assert {path.name for path in (tmp_path / "tables").iterdir()} == {"table4.md", "table4.tex", "table4.svg"}
    cells = (tmp_path / "cells.jsonl").read_bytes()
    again = script("table3", "demo", *options)
    assert again.returncode == 0, again.stderr[-3000:]
    assert (tmp_path / "cells.jsonl").read_bytes() == cells
    assert "First-stage: by default" in (tmp_path / "tables" / "table3.md").read_text()
