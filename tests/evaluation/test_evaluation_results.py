"""The result log: what it writes, and that being killed at any moment loses a cell at most and doubles nothing."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from mma_jax.evaluation.results import Cell, ResultLog, read_episodes, read_results, read_traces
from mma_jax.types import InputError

ROOT = Path(__file__).parents[2]
FILES = ("results.jsonl", "per_episode.jsonl", "traces.jsonl", "cells.jsonl")
CELL = Cell("toy", "ooma", "First-stage", 0)
ROW = {"subset": "all", "metric": "ndcg@10", "value": 0.25, "n": 3}


def contents(directory):
    return {name: (directory / name).read_bytes() for name in FILES}


def test_lines_follow_the_contract(tmp_path):
    with ResultLog(tmp_path / "new" / "folder") as log:
        log.write(
            CELL,
            [{**ROW, "value": np.float32(0.25), "n": np.int64(3)}, {**ROW, "metric": "tts", "value": np.nan}],
            [{"episode_id": "e1", "user": np.int32(7), "ndcg@10": 1.0, "tts": float("nan"), "recalled": np.True_}],
            [{"episode_id": "e1", "scores": np.array([0.5, np.nan]), "turns": [{"text": "\ud800 Ünïcode\u2028\n"}]}],
        )
    directory = tmp_path / "new" / "folder"
    first, second = (directory / "results.jsonl").read_text().splitlines()
    assert first == (
        '{"dataset":"toy","protocol":"ooma","subset":"all","method":"First-stage","seed":0,'
        '"metric":"ndcg@10","value":0.25,"n":3}'
    )
    assert json.loads(second)["value"] is None
    assert read_results(directory) == [json.loads(first), json.loads(second)]
    identity = CELL._asdict() | {"episode_id": "e1"}
    assert list(read_episodes(directory)) == [identity | {"user": 7, "ndcg@10": 1.0, "tts": None, "recalled": True}]
    trace = {"scores": [0.5, None], "turns": [{"text": "\ud800 Ünïcode\u2028\n"}]}
    assert list(read_traces(directory)) == [identity | trace]


def test_cells_are_done_once_and_remembered(tmp_path):
    other = CELL._replace(seed=1)
    with ResultLog(tmp_path) as log:
        assert not log.done(CELL)
        log.write(CELL, [ROW])
        assert log.done(CELL) and not log.done(other)
        with pytest.raises(ValueError, match="already written"):
            log.write(CELL, [ROW])
    with ResultLog(tmp_path) as log:
        assert log.done(CELL) and log.done(Cell("toy", "ooma", "First-stage", np.int64(0)))
        log.write(other, [ROW])
    assert [row["seed"] for row in read_results(tmp_path)] == [0, 1]


def failing():
    yield {"episode_id": "e1", "text": "x" * 100_000}  # longer than any buffer, so that it reaches the file
    raise RuntimeError("the policy broke")


def test_a_cell_that_fails_leaves_nothing(tmp_path):
    with ResultLog(tmp_path) as log:
        log.write(CELL, [ROW], [{"episode_id": "e0"}], [{"episode_id": "e0"}])
        before = contents(tmp_path)
        other = CELL._replace(seed=1)
        with pytest.raises(RuntimeError, match="policy broke"):
            log.write(other, [ROW], [{"episode_id": "e1"}], failing())
        assert contents(tmp_path) == before and not log.done(other)
        log.write(other, [ROW], [{"episode_id": "e1"}])
    assert [row["seed"] for row in read_episodes(tmp_path)] == [0, 1]


@pytest.mark.parametrize(
    ("rows", "episodes", "complaint"),
    [
        ([{**ROW, "value": float("inf")}], [], "not JSON compliant"),
        ([ROW], [{"episode_id": "e", "x": [-np.inf]}], "not JSON compliant"),
        ([{**ROW, "method": "mine"}], [], "subset, metric, value and n"),
        ([{"metric": "ndcg@10", "value": 1.0}], [], "subset, metric, value and n"),
        ([ROW], [{"user": 3}], "has an episode_id"),
        ([ROW], [{"episode_id": "e", "seed": 2}], "leaves dataset, protocol, method and seed"),
    ],
)
def test_wrong_lines_are_refused(tmp_path, rows, episodes, complaint):
    with ResultLog(tmp_path) as log:
        with pytest.raises(ValueError, match=complaint):
            log.write(CELL, rows, episodes)
        assert not log.done(CELL)
    assert all(size == b"" for size in contents(tmp_path).values())


def test_readers_see_finished_cells_only(tmp_path):
    assert read_results(tmp_path) == [] and list(read_traces(tmp_path / "absent")) == []
    with ResultLog(tmp_path) as log:
        log.write(CELL, [ROW], [{"episode_id": "e0"}])
        with open(tmp_path / "per_episode.jsonl", "a") as file:
            file.write('{"episode_id":"half a cell"}\n{"epis')
        assert [row["episode_id"] for row in read_episodes(tmp_path)] == ["e0"]


def test_one_writer_at_a_time(tmp_path):
    with ResultLog(tmp_path), pytest.raises(InputError, match="another run is writing here"):
        ResultLog(tmp_path)
    ResultLog(tmp_path).close()


def test_edited_files_are_the_users_to_mend(tmp_path):
    with ResultLog(tmp_path) as log:
        log.write(CELL, [ROW], [{"episode_id": "e0"}])
    saved = contents(tmp_path)
    (tmp_path / "per_episode.jsonl").write_bytes(b"")
    for opening in (ResultLog, read_results):
        with pytest.raises(InputError, match="0 bytes where"):
            opening(tmp_path)
    (tmp_path / "per_episode.jsonl").write_bytes(saved["per_episode.jsonl"])
    for damage, complaint in ((b"[1]\n", "line 2: not a cell"), (b"{\n", "line 2: not JSON")):
        (tmp_path / "cells.jsonl").write_bytes(saved["cells.jsonl"] + damage)
        with pytest.raises(InputError, match=complaint):
            ResultLog(tmp_path)
    (tmp_path / "cells.jsonl").write_bytes(saved["cells.jsonl"])
    ResultLog(tmp_path).close()
    assert contents(tmp_path) == saved


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot write results here"):
        ResultLog(tmp_path / "file" / "folder")


RUN = textwrap.dedent(
    """
    import os, signal, sys
    from mma_jax.evaluation import results

    directory, deadly = sys.argv[1], int(sys.argv[2])  # the step at which this process kills itself; -1: never
    steps = 0

    def step():
        global steps
        if steps == deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        steps += 1

    class Disk:  # os, whose fsync may be the last thing it does: before or after the data is safe
        def __getattr__(self, name):
            return getattr(os, name)

        def fsync(self, descriptor):
            step()
            os.fsync(descriptor)
            step()

    def lines(seed, kind):
        for n in range(3):
            step()
            yield {"episode_id": f"{seed}-{n}", "kind": kind, "text": "long enough to leave the buffer " * 1000}

    results.os = Disk()
    with results.ResultLog(directory) as log:
        for seed in range(3):
            cell = results.Cell("toy", "ooma", "method", seed)
            if not log.done(cell):
                print("cell", seed, flush=True)
                rows = [{"subset": "all", "metric": "ndcg@10", "value": seed / 3, "n": 3}]
                log.write(cell, rows, lines(seed, "episode"), lines(seed, "trace"))
    print("steps", steps)
    """
)


def run(directory, deadly):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(directory), str(deadly)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The files of a run that nobody disturbed, and the number of steps at which it could have been killed."""
    directory = tmp_path_factory.mktemp("whole")
    out, err = run(directory, -1).communicate()
    assert err == "" and len(read_results(directory)) == 3
    return contents(directory), int(out.split()[-1])


def test_killed_at_every_step_of_a_cell_then_resumed(whole, tmp_path):
    expected, steps = whole
    per_cell = (steps - 2) // 3  # one directory sync at opening
    deaths = {
        n: run(tmp_path / str(n), n) for n in range(2 + per_cell, 2 + 2 * per_cell)
    }  # all through the second cell
    for n, process in deaths.items():
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        finished = [row["seed"] for row in read_results(tmp_path / str(n))]
        assert finished in ([0], [0, 1])
        assert len(list(read_traces(tmp_path / str(n)))) == 3 * len(finished)
    resumed = {n: run(tmp_path / str(n), -1) for n in deaths}
    for n, process in resumed.items():
        out, err = process.communicate()
        assert err == "" and "cell 0" not in out
        assert contents(tmp_path / str(n)) == expected


def test_killed_from_outside_again_and_again(whole, tmp_path):
    rng = np.random.default_rng(0)
    for _ in range(3):
        process = run(tmp_path, -1)
        process.stdout.readline()
        time.sleep(rng.uniform(0, 0.005))
        process.kill()
        process.communicate()
    out, err = run(tmp_path, -1).communicate()
    assert err == "" and "steps" in out
    assert contents(tmp_path) == whole[0]
