"""The command line as a user meets it: the main job, resume after SIGKILL, and every wrong input in one line."""

import gzip
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import forked
import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
SMALL = [
    "--config.methods=scripted",
    "--config.world.n_items=120",
    "--config.world.n_users=250",
    "--config.episodes.train=60",
    "--config.episodes.valid=20",
    "--config.episodes.test=30",
    "--config.pool.size=10",
    "--config.eval.traces=1",
    "--config.eval.bootstrap=50",
]
FILES = ("results.jsonl", "per_episode.jsonl", "traces.jsonl", "comparisons.jsonl", "audit.json", "statistics.json")


def command(workdir, *options, config="demo.py"):
    return [
        sys.executable, "-m", "mma_jax.main", f"--config=configs/{config}", f"--workdir={workdir}", *options,
    ]  # fmt: skip


def run(workdir, *options, config="demo.py"):
    return forked.run(command(workdir, *options, config=config)[3:])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("demo")
    done = subprocess.run(command(directory, *SMALL), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return directory, done.stdout


def test_main_job_writes_everything(finished):
    directory, printed = finished
    for name in (*FILES, "config.json", "report/index.html", "report/tables.md", "report/tables.tex"):
        assert (directory / name).stat().st_size > 0, name
    rows = [json.loads(line) for line in (directory / "results.jsonl").open()]
    assert {"dataset", "protocol", "subset", "method", "seed", "metric", "value", "n"} == set(rows[0])
    assert {row["protocol"] for row in rows} == {"ooma", "lomo", "full_catalog", "interactive"}
    methods = {row["method"] for row in rows}
    assert {"First-stage", "RuleRouter-Fuse", "Evidence-linear", "Bayes", "Optimal-router", "Router-Ask"} <= methods
    assert "recall@10" in printed and "sparsity" in printed


def test_every_method_plays_the_same_episodes(finished):
    played = {}
    for line in (finished[0] / "per_episode.jsonl").open():
        row = json.loads(line)
        played.setdefault((row["protocol"], row["method"]), []).append(row["episode_id"])
    for protocol in ("ooma", "lomo", "full_catalog"):
        ids = [sorted(v) for (p, _), v in played.items() if p == protocol]
        assert len(ids) > 5 and all(i == ids[0] for i in ids)


def test_rerun_does_nothing_and_changes_nothing(finished):
    directory, _ = finished
    before = {name: (directory / name).read_bytes() for name in FILES}
    stamps = {path: path.stat().st_mtime_ns for path in (directory / "prepared").rglob("*") if path.is_file()}
    assert run(directory, *SMALL).returncode == 0
    assert before == {name: (directory / name).read_bytes() for name in FILES}
    assert stamps == {path: path.stat().st_mtime_ns for path in (directory / "prepared").rglob("*") if path.is_file()}


@pytest.mark.parametrize("marker", ["statistics.json", "cells.jsonl"])
def test_killed_and_rerun_gives_the_same(finished, tmp_path, marker):
    """SIGKILL soon after a file appears, then the same command again: the same bytes as an undisturbed run."""
    process = subprocess.Popen(
        command(tmp_path, *SMALL),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.time() + 300
    while not (tmp_path / marker).exists() and process.poll() is None and time.time() < deadline:
        time.sleep(0.02)
    time.sleep(0.5)
    assert process.poll() is None, "it ended before it could be killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = run(tmp_path, *SMALL)
    assert done.returncode == 0, done.stderr[-2000:]
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (finished[0] / name).read_bytes(), name


def test_dry_run_writes_nothing(tmp_path):
    done = run(tmp_path / "new", *SMALL, "--dry_run")
    assert done.returncode == 0, done.stderr
    assert "token" in done.stdout and "plan" in done.stdout
    assert not (tmp_path / "new").exists()


def refused(done, *words):
    assert done.returncode == 2, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("mma_jax: "), done.stderr
    for word in words:
        assert word in last, last


def atomic(tmp_path, inter, name="shop"):
    (tmp_path / name).mkdir(exist_ok=True)
    (tmp_path / name / f"{name}.inter").write_text(inter)
    return [
        "--config.data.source=atomic", f"--config.data.root={tmp_path}", f"--config.data.name={name}",
        "--config.images.encoder=none", "--config.graph.source=interactions",
    ]  # fmt: skip


BAD = {
    "unknown key": (["--config.nothing=1"], ["nothing", "methods"]),
    "unknown baseline": (["--config.baselines.BPR-MF.lr=.1"], ["config.baselines has bpr, "]),
    "key of a value": (["--config.methods.foo=3"], ["config.methods is", "has no keys"]),
    "history of one": (["--config.world.history=3"], ["history (3,)"]),
    "mesh of none": (["--config.methods=MMA-SFT", "--config.mesh.data=0"], ["mesh", "data=0"]),
    "unknown run": (["--config.run=dance"], ["dance", "prepare"]),
    "unknown method": (["--config.methods=GPT-9"], ["GPT-9", "RuleRouter-Fuse"]),
    "unknown protocol": (["--config.protocols=swim"], ["swim", "ooma"]),
    "unknown source": (["--config.data.source=ether"], ["ether", "atomic"]),
    "unknown encoder": (["--config.images.encoder=eye"], ["eye", "kfold"]),
    "unknown flag": (["--confg=1"], ["confg"]),
    "not a number": (["--config.pool.size=many"], ["many"]),
    "pool too large": (["--config.pool.size=500"], ["500", "120"]),
    "missing folder": (["--config.data.source=atomic", "--config.data.root=/nowhere/at/all"], ["/nowhere/at/all"]),
    "unknown reference": (["--config.eval.reference=Foo"], ["Foo", "RuleRouter-Fuse"]),
    "nothing to play": (["--config.methods=Router-Ask", "--config.protocols=ooma"], ["Router-Ask", "ooma"]),
    "not a seed": (["--config.seeds=one"], ["seeds"]),
    "no name": (["--config.data.name="], ["data.name"]),
    "no turns": (["--config.env.turns=0"], ["turns"]),
    "tiny context": (["--config.env.context=100"], ["context"]),
    "no step": (["--config.eval.alpha_step=0"], ["alpha_step"]),
    "not a number at all": (["--config.graph.decay=nan"], ["decay"]),
    "negative seed": (["--config.seed=-1"], ["seed"]),
    "no root": (["--config.data.source=atomic"], ["data.root"]),
    "nothing to report": (["--config.run=report"], ["no results"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_2(tmp_path, case):
    options, words = BAD[case]
    refused(run(tmp_path / "w", *SMALL, *options), *words)


def test_a_wrong_setting_does_not_lock_its_folder(tmp_path):
    refused(run(tmp_path, *SMALL, "--config.pool.size=1"), "pool.size")
    assert run(tmp_path, *SMALL, "--config.run=prepare").returncode == 0
    refused(run(tmp_path, *SMALL, "--config.pool.size=9"), "pool.size", "other settings")


def test_a_preset_for_a_config_that_has_none(tmp_path):
    refused(run(tmp_path, config="generated.py:foo"), "has no presets")


def test_missing_config_file(tmp_path):
    refused(run(tmp_path, config="no_such_config.py"), "no_such_config.py: no such file")
    refused(run(tmp_path, config="../mma_jax/types.py"), "has no get_config()")


def test_inter_without_user_id(tmp_path):
    options = atomic(tmp_path, "item_id:token\trating:float\n1\t3\n")
    refused(run(tmp_path / "w", *options), "user_id", "shop.inter")


def test_truncated_gzip(tmp_path):
    (tmp_path / "shop").mkdir()
    lines = "".join(
        json.dumps({"reviewerID": f"u{n}", "asin": f"a{n}", "unixReviewTime": n}) + "\n" for n in range(500)
    )
    packed = gzip.compress(lines.encode())
    (tmp_path / "shop" / "reviews_shop.json.gz").write_bytes(packed[: len(packed) // 2])
    options = ["--config.data.source=amazon2014", f"--config.data.root={tmp_path}", "--config.data.name=shop"]
    refused(run(tmp_path / "w", *options, "--config.images.encoder=none"), "reviews_shop.json.gz")


def test_unwritable_workdir(tmp_path):
    (tmp_path / "file").write_text("")
    refused(run(tmp_path / "file" / "w", *SMALL), "file")


def test_help_is_no_error(tmp_path):
    done = subprocess.run([sys.executable, "-m", "mma_jax.main", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "workdir" in done.stdout


def test_dry_run_refuses_what_a_run_would(tmp_path):
    refused(run(tmp_path / "w", *SMALL, "--dry_run", "--config.images.vocabulary=bar"), "bar", "movie_genres")


def test_audit_alone_on_a_fresh_folder(tmp_path):
    done = run(tmp_path, *SMALL, "--config.run=audit", "--config.images.encoder=none")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "inverse_rank" in done.stdout


def test_new_method_is_added_and_the_rest_kept(tmp_path):
    options = [*SMALL, "--config.images.encoder=none", "--config.protocols=ooma,ooma", "--config.seeds=0,0,1"]
    assert run(tmp_path, *options, "--config.methods=First-stage,RuleRouter-Fuse").returncode == 0
    before = (tmp_path / "per_episode.jsonl").read_bytes()
    assert run(tmp_path, *options, "--config.methods=Popularity").returncode == 0
    after = (tmp_path / "per_episode.jsonl").read_bytes()
    assert after.startswith(before) and len(after) > len(before)
    compared = {tuple(map(json.loads(line).get, ("a", "metric"))) for line in (tmp_path / "comparisons.jsonl").open()}
    assert compared == set(itertools.product(("First-stage", "Popularity"), ("ndcg@10", "expected_ndcg@10")))
    seeds = {json.loads(line)["seed"] for line in (tmp_path / "results.jsonl").open()}
    assert seeds == {0}  # these methods have no randomness of their own


def test_paper_setting_of_one_item_a_call_and_few_turns(tmp_path):
    options = [*SMALL, "--config.images.encoder=none", "--config.protocols=ooma", "--config.env.max_items=1"]
    done = run(tmp_path, *options, "--config.env.turns=3")
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in (tmp_path / "per_episode.jsonl").open()]
    for row in rows:
        if row["method"] in ("RuleRouter-Fuse", "Router-StopAtFirst", "Expert", "Evidence-linear", "Optimal-router"):
            assert row["invalid"] == 0 and row["stop_scored"] == 1 and row["turns"] <= 3


def test_changed_data_is_noticed(tmp_path):
    rng = np.random.default_rng(0)

    def table(items):
        rows = [f"{u}\t{rng.integers(items)}\t{t}" for t, u in enumerate(rng.permutation(np.repeat(np.arange(60), 12)))]
        return "user_id:token\titem_id:token\ttimestamp:float\n" + "\n".join(rows) + "\n"

    options = [*SMALL, *atomic(tmp_path, table(90)), "--config.pool.size=5", "--config.run=prepare"]
    done = run(tmp_path / "w", *options)
    assert done.returncode == 0, done.stderr[-2000:]
    atomic(tmp_path, table(70))
    refused(run(tmp_path / "w", *options), "changed", "--workdir")


def test_other_settings_in_the_same_folder(finished):
    refused(run(finished[0], *SMALL, "--config.seed=7"), "seed", "--workdir")
