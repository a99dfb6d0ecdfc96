"""Sweeps: their points, what they run, that they resume, and their table."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from absl import flags

from launch import sweep
from mma_jax.evaluation.results import Cell, ResultLog
from mma_jax.types import InputError

ROOT = Path(__file__).parents[2]


def test_points_are_all_combinations():
    assert sweep.points(["a.b=1,2", "c=x"]) == [{"a.b": "1", "c": "x"}, {"a.b": "2", "c": "x"}]
    assert sweep.points([]) == [{}]


@pytest.mark.parametrize("wrong", ["a", "a=", "=1", "a=1,,2"])
def test_a_sweep_without_key_or_values_is_refused(wrong):
    with pytest.raises(InputError, match="want key=value"):
        sweep.points([wrong])


def test_a_key_comes_once():
    with pytest.raises(InputError, match="there already"):
        sweep.points(["a=1", "a=2"])


def test_folders_are_safe_and_different():
    names = [sweep.name(point) for point in sweep.points(["x=a/b,../c,a b"])]
    assert len(set(names)) == 3 and all("/" not in name and " " not in name for name in names)


def test_another_command_is_not_done(tmp_path):
    words = ["python", "-c", "pass"]
    assert not sweep.done(tmp_path, words)
    sweep.begin(tmp_path, words)
    (tmp_path / sweep.DONE).touch()
    assert sweep.done(tmp_path, words)
    other = [*words, "--config.methods=X"]
    assert not sweep.done(tmp_path, other)
    sweep.begin(tmp_path, other)
    assert not sweep.done(tmp_path, words) and not sweep.done(tmp_path, other)


def run(*arguments, path=os.environ["PATH"]):
    return subprocess.run(
        [sys.executable, "-m", "launch.sweep", *arguments],
        cwd=ROOT,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def test_without_slurm_one_line(tmp_path):
    done = run("--config=configs/demo.py", f"--workdir={tmp_path}", "--slurm=partition=gpu", path=str(tmp_path))
    assert done.returncode == 2 and done.stderr.startswith("launch: sbatch is not installed here")


def test_points_run_once_and_failures_are_told(tmp_path):
    """Real runs of the main program: dry ones, so each takes seconds. One point cannot work."""
    arguments = [
        *("--config=configs/demo.py", f"--workdir={tmp_path}", "--sweep=run=audit,nonsense", "--jobs=2"),
        *("--", "--dry_run"),
    ]
    first = run(*arguments)
    good, bad = tmp_path / "run=audit", tmp_path / "run=nonsense"
    assert first.returncode == 1 and "run=nonsense failed with exit code 2" in first.stdout + first.stderr
    assert (good / "done").exists() and not (bad / "done").exists()
    assert "unknown run 'nonsense'" in (bad / "log.txt").read_text()
    before = (good / "log.txt").read_bytes()
    again = run(*arguments)
    assert again.returncode == 1 and (good / "log.txt").read_bytes() == before
    shown = run(*arguments[:4], "--print_only", *arguments[4:])
    assert shown.stdout.count("mma_jax.main") == 1 and "nonsense" in shown.stdout
    other = run(*arguments[:4], "--print_only", *arguments[4:], "--config.seed=1")
    assert other.stdout.count("mma_jax.main") == 2  # what is done was done by another command


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_what_runs_and_starts_nothing_more(tmp_path, sent):
    words = ["--config=configs/demo.py", f"--workdir={tmp_path}", "--sweep=seed=0,1,2", "--", "--config.run=prepare"]
    with subprocess.Popen([sys.executable, "-m", "launch.sweep", *words], cwd=ROOT, stderr=subprocess.PIPE) as process:
        log = tmp_path / "seed=0" / "log.txt"
        while process.poll() is None and not (log.exists() and log.stat().st_size):
            time.sleep(0.1)
        process.send_signal(sent)
        errors = process.stderr.read().decode()
    assert process.returncode == 128 + sent and "Traceback" not in errors
    assert [path.name for path in tmp_path.iterdir()] == ["seed=0"] and not (tmp_path / "seed=0" / "done").exists()


def test_wrong_input_is_one_line(tmp_path):
    done = run("--config=configs/none.py", f"--workdir={tmp_path}")
    assert done.returncode == 2 and done.stderr.strip().splitlines() == [
        "launch: --config=configs/none.py: no such file"
    ]


def test_table_means_over_seeds(tmp_path):
    found = sweep.points(["lr=1,2"])
    folder = tmp_path / sweep.name(found[0])
    with ResultLog(folder) as log:
        for seed, value in enumerate((0.2, 0.4)):
            row = {"subset": "all", "metric": "ndcg@10", "value": value, "n": 9}
            log.write(Cell("d", "ooma", "MMA-SFT", seed), [row, {**row, "subset": "text_only", "value": 0.9}])
    for seed, figures in enumerate(([0.1, 0.5, 0.2], [0.4])):
        panel = folder / "train" / "MMA-SFT" / str(seed) / "panel.jsonl"
        panel.parent.mkdir(parents=True)
        panel.write_text("".join(json.dumps(row) + "\n" for row in [{"loss": 9}, *({"valid": v} for v in figures)]))
    lines = sweep.table(tmp_path, found, "ndcg@10").splitlines()
    assert lines[0] == "| lr | protocol | method | seeds | valid | test ndcg@10 |"
    done = ["| 1 | ooma | MMA-SFT | 2 | 0.4500 | 0.3000 |", "| 2 |  | nothing yet |  |  |  |"]
    assert lines[2:] == done
    for path, begun in ((folder / "results.jsonl", json.dumps({**row, "method": "ReAct"}) + '\n{"da'), (panel, '{"va')):
        with path.open("a") as file:
            file.write(begun)  # while the point runs: a cell that is not finished, a line that is half there
    assert sweep.table(tmp_path, found, "ndcg@10").splitlines()[2:] == done


def test_slurm_array_names_every_point(tmp_path):
    flags.FLAGS.mark_as_parsed()
    todo = [(tmp_path / "a b", ["python", "-c", "print('x y')"]), (tmp_path / "c", ["true"])]
    script = sweep.slurm_script(todo, "partition=gpu,time=4:00:00", tmp_path)
    assert "#SBATCH --array=0-1" in script and "#SBATCH --time=4:00:00" in script
    checked = subprocess.run(
        ["bash"], input=script, env={"SLURM_ARRAY_TASK_ID": "1", "PATH": "/usr/bin:/bin"}, text=True, check=False
    )
    assert checked.returncode == 0 and (tmp_path / "c" / "done").exists() and not (tmp_path / "a b").exists()
    with pytest.raises(InputError, match="not key=value"):
        sweep.slurm_script(todo, "gpu", tmp_path)
