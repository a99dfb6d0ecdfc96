"""Curves over missing rates and prices: what runs, what is shared, what is drawn from finished folders."""

import os
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from launch import curves, missing_rate, pareto, sweep
from mma_jax.config import base
from mma_jax.evaluation.results import Cell, ResultLog
from mma_jax.reports.load import Sample
from mma_jax.reports.picture import standalone
from mma_jax.reports.points import Point, point_panels
from mma_jax.runs.workdir import open_workdir
from mma_jax.types import OOMA, InputError

CONFIG = f"--config={Path(__file__).parents[2]}/configs/demo.py"


@pytest.fixture
def call(capsys):
    """Calls a launcher's main with these arguments, in this process; what it printed."""

    def call(module, *arguments):
        with flagsaver.flagsaver():
            module.main(flags.FLAGS(["program", *arguments]))
        return capsys.readouterr().out

    return call


def finished(folder, words, methods, level, calls=0.0):
    """A point's folder as if its command had ended: NDCG@10 about `level`."""
    rng = np.random.default_rng(0)
    with ResultLog(folder) as log:
        for method in methods:
            rows = [
                {"episode_id": f"{family}{n}", "user": n // 2, "subset": family, "ndcg@10": level + 0.1 * rng.random()}
                | ({"evidence_calls": calls} if calls else {})
                for family in OOMA
                for n in range(8)
            ]
            row = {"subset": "all", "metric": "ndcg@10", "value": level, "n": len(rows)}
            log.write(Cell("generated", "ooma", method, 0), [row], rows)
    (folder / "prepared" / "images").mkdir(parents=True)
    (folder / sweep.COMMAND).write_text(words)
    (folder / "done").touch()


def play_runs(printed, methods, levels, calls=None):
    """Makes every folder that a --print_only named."""
    lines = printed.strip().splitlines()
    for n, line in enumerate(lines):
        folder = Path(re.search(r"--workdir=(\S+)", line)[1].strip("'"))
        named = re.search(r"--config.methods=(\S+)", line)[1].split(",")
        finished(folder, line, [m for m in methods if m in named], levels[n], calls[n] if calls else 0.0)
    return lines


def test_a_rate_of_zero_is_one_run_for_all_kinds(tmp_path, call):
    arguments = [CONFIG, f"--workdir={tmp_path}", "--rates=0,.5", "--protocols=ooma"]
    arguments.append("--methods=First-stage,RuleRouter-Fuse")
    shown = call(missing_rate, *arguments, "--print_only", "--", "--config.pool.size=9")
    lines = play_runs(shown, ("First-stage", "RuleRouter-Fuse"), (0.5, 0.4, 0.3, 0.2))
    assert len(lines) == 4 and all("--config.run=evaluate" in line and "pool.size=9" in line for line in lines)
    assert [re.search(r"drop_kind=(\w+)", line) and re.search(r"drop_kind=(\w+)", line)[1] for line in lines] == [
        None, "mcar", "popularity", "value",
    ]  # fmt: skip
    call(missing_rate, *arguments, "--", "--config.pool.size=9")
    text = (tmp_path / "missing_text.md").read_text()
    assert "| At random | First-stage | 0.5" in text and "| -0.1" in text and "![OOMA](missing_text_ooma.svg)" in text
    assert text.count("MNAR") == 2 * 4  # two methods, on all episodes and in three families
    drawn = ET.parse(tmp_path / "missing_text_ooma.svg").getroot()
    assert len([node for node in drawn.iter() if node.get("class") == "series-0 point"]) == 2 * 3 * 4


def test_prices_are_run_for_those_who_know_them(tmp_path, call):
    arguments = [CONFIG, f"--workdir={tmp_path}", "--costs=-.1,0", "--protocols=ooma"]
    methods = ["First-stage", "RuleRouter-Fuse", "Optimal-router"]
    arguments.append(f"--methods={','.join(methods)}")
    lines = play_runs(call(pareto, *arguments, "--print_only"), methods, (0.5, 0.4), (3.0, 1.0))
    assert "cost_tool=0 " in lines[0] and "--config.methods=First-stage,RuleRouter-Fuse,Optimal-router" in lines[0]
    assert "cost_tool=-.1 " in lines[1] and "--config.methods=Optimal-router " in lines[1]
    call(pareto, *arguments)
    text = (tmp_path / "pareto.md").read_text()
    rows = {tuple(line.strip("| ").split(" | ")[:3]) for line in text.split("OOMA, All:")[1].splitlines()[4:8]}
    assert rows == {
        ("First-stage", "any", "3.00"),
        ("RuleRouter-Fuse", "any", "3.00"),
        ("Optimal-router", "0", "3.00"),
        ("Optimal-router", "-.1", "1.00"),
    }
    assert (tmp_path / "pareto_ooma.svg").read_text().count('class="ring"') >= 2


def test_folders_are_shared_by_links(tmp_path):
    source = tmp_path / "a" / "images"
    source.mkdir(parents=True)
    (source / "x.npy").write_bytes(b"123")
    curves.share(source, tmp_path / "b" / "images")
    curves.share(source, tmp_path / "b" / "images")  # there already
    curves.share(tmp_path / "nothing", tmp_path / "c")
    assert os.path.samefile(source / "x.npy", tmp_path / "b" / "images" / "x.npy") and not (tmp_path / "c").exists()


def test_what_depends_on_the_rate_is_not_shared(tmp_path):
    for name in ("images", "generated", "view_train", "episodes"):
        (tmp_path / "first" / "prepared" / name).mkdir(parents=True)
    missing_rate.link(tmp_path / "first", tmp_path / "other")
    assert sorted(path.name for path in (tmp_path / "other" / "prepared").iterdir()) == ["generated", "images"]


def test_a_price_gets_evidence_and_sft_before_it_runs(tmp_path):
    """SFT as a copy: training writes on beside its checkpoints."""
    log = tmp_path / "first" / "train" / "MMA-SFT" / "0" / "panel.jsonl"
    for folder in (log.parent, tmp_path / "first" / "prepared" / "episodes", tmp_path / "first" / "train" / "MMA-Auto"):
        folder.mkdir(parents=True)
    log.write_text("{}\n")
    price = tmp_path / "price"
    pareto.link(tmp_path / "first", price)
    pareto.link(tmp_path / "first", price)  # a rerun
    copied = price / "train" / "MMA-SFT" / "0" / "panel.jsonl"
    assert [path.name for path in (price / "train").iterdir()] == ["MMA-SFT"]
    assert copied.read_text() == log.read_text() and not os.path.samefile(copied, log)
    assert open_workdir(str(price), base(), dry_run=False) == price  # it is not taken for a run that lost its settings
    assert (price / "config.json").exists() and (price / "prepared" / "episodes").is_dir()


def test_undominated():
    places = {
        ("a", ""): (0.0, 0.3),
        ("b", ""): (1.0, 0.3),
        ("c", ""): (1.0, 0.4),
        ("d", ""): (2.0, 0.4),
        ("e", ""): (2.0, 0.5),
    }
    assert pareto.undominated(places) == {("a", ""), ("c", ""), ("e", "")}
    twins = {("a", ""): (1.0, 0.4), ("b", ""): (1.0, 0.4)}
    assert pareto.undominated(twins) == set(twins)


def test_methods_without_a_turn_have_made_no_call():
    users = np.arange(4)
    silent = Sample(users, {"ndcg@10": np.full(4, 0.2), "evidence_calls": np.full(4, np.nan)})
    asking = Sample(users, {"ndcg@10": np.full(4, 0.4), "evidence_calls": np.array([1.0, 1, 2, 2])})
    points = pareto.panel({("First-stage", ""): silent, ("Optimal-router", "-0.1"): asking})
    assert [(p.x, p.y, p.marked, p.note) for p in points.values()] == [
        (0, 0.2, True, ""),
        (1.5, 0.4, True, "price -0.1"),
    ]


@pytest.mark.parametrize("text", ["0.1,0.5", "0,1", "0", "a,b", ""])
def test_rates_begin_at_zero_and_stay_below_one(text):
    with pytest.raises(InputError, match="--rates"):
        missing_rate.checked_rates(text)


@pytest.mark.parametrize("text", ["0.1,0", "x", ""])
def test_prices_are_no_gains(text):
    with pytest.raises(InputError, match="--costs"):
        pareto.checked_costs(text)


@pytest.mark.parametrize(
    ("module", "wrong", "word"),
    [
        (missing_rate, "--config=configs/none.py", "none.py"),
        (missing_rate, "--modality=sound", "sound"),
        (missing_rate, "--kinds=often", "often"),
        (pareto, "--methods=GPT-9", "GPT-9"),
    ],
)
def test_wrong_input_is_told(tmp_path, call, module, wrong, word):
    with pytest.raises(InputError, match=word):
        call(module, CONFIG, f"--workdir={tmp_path}", wrong)


def test_points_are_drawn_with_names_escaped():
    points = [Point(0, 0.2, 0.1, 0.3), Point(1, 0.4, 0.3, 0.5, note="a <b>", marked=True)]
    drawn = point_panels({"one & two": {"x<y": points}, "other": {"z": points[:1]}}, "title", "x", "y", columns=2)
    root = ET.fromstring(standalone(drawn))
    kinds = [node.get("class") for node in root.iter() if node.get("class")]
    assert kinds.count("ring") == 1 and kinds.count("series-0 point") == 2 and kinds.count("series-1 point") == 1
    assert kinds.count("series-0") == 2  # the line of two points, and its key
    assert "x<y" in "".join(root.itertext())
