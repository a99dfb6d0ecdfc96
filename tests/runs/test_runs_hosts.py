"""Two processes train and judge what one does; a process that dies takes the others with it, and the rerun goes on."""

import dataclasses
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tiny

from mma_jax.evaluation.results import read_episodes, read_results, read_traces
from mma_jax.learning import interrupts
from mma_jax.learning.sequences import Sequence
from mma_jax.runs import hosts
from mma_jax.types import Message, Trajectory, Turn

ROOT = Path(__file__).parents[2]
SETTINGS = tiny.SETTINGS | {
    "methods": "First-stage,RuleRouter-Fuse,ReAct,MMA-Auto",
    "world.images": False,
    "sft.steps": 4,
    "ppo.iterations": 4,
    "ppo.prompts": 4,
    "ppo.samples": 2,
    "ppo.value_only": 0,
    "ppo.micro_batch": 4,
    "ppo.temperature": 1.0,
}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """(a base model of one layer, a folder for what has been compiled)"""
    folder = tmp_path_factory.mktemp("model")
    tiny.base_model(folder)
    return folder, tmp_path_factory.mktemp("compiled")


def start(small, workdir, count, index, port, extra=()):
    words = [sys.executable, "-m", "mma_jax.main", "--config=configs/demo.py", f"--workdir={workdir}"]
    words += [f"--config.{key}={value}" for key, value in SETTINGS.items()]
    words += [f"--config.model.path={small[0]}", *extra]
    devices = count if count == 1 else 2 * count  # of all processes; none holds a whole weight
    words += [f"--config.mesh.fsdp={devices}", "--config.mesh.data=1"]
    flags = os.environ["XLA_FLAGS"]
    if count > 1:
        flags += " --xla_force_host_platform_device_count=2"
        words += [
            "--heartbeat=10",
            "--distributed",
            f"--coordinator=localhost:{port}",
            f"--processes={count}",
            f"--process={index}",
        ]
    return subprocess.Popen(
        words,
        cwd=ROOT,
        env=os.environ
        | {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": flags,
            "JAX_COMPILATION_CACHE_DIR": str(small[1]),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def together(small, workdir, extra=()):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    return [start(small, workdir, 2, index, port, extra) for index in range(2)]


def ended(processes):
    return [(process.communicate(timeout=300)[0], process.returncode) for process in processes]


def panel(workdir, method):
    return [json.loads(line) for line in (workdir / "train" / method / "0" / "panel.jsonl").open()]


@pytest.fixture(scope="module")
def alone(small, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("alone")
    [(text, code)] = ended([start(small, workdir, 1, 0, 0)])
    assert code == 0, text[-3000:]
    return workdir


def test_two_processes_train_what_one_does_killed_and_rerun(small, alone, tmp_path):
    """One of them is killed in the middle of PPO: the other ends soon, by itself. The rerun goes on, is stopped by
    SIGTERM and finished by a process alone."""
    train = ("--config.run=train",)
    processes = together(small, tmp_path, train)
    log = tmp_path / "train" / "MMA-Auto" / "0" / "panel.jsonl"
    while not (log.exists() and log.read_bytes().count(b"\n") >= 1):
        assert all(process.poll() is None for process in processes), ended(processes)
        time.sleep(0.05)
    processes[1].send_signal(signal.SIGKILL)
    (text, code), _ = ended(processes)
    assert code != 0, text[-2000:]
    processes = together(small, tmp_path, train)
    while log.read_bytes().count(b"\n") < 2:
        assert all(process.poll() is None for process in processes), ended(processes)
        time.sleep(0.01)
    processes[0].send_signal(signal.SIGTERM)  # to one of them: both stop behind the same step
    assert [code for _, code in ended(processes)] == [interrupts.EXIT_CODE] * 2
    [(text, code)] = ended([start(small, tmp_path, 1, 0, 0, train)])
    assert code == 0, text[-3000:]
    for method in ("MMA-SFT", "MMA-Auto"):
        ours, theirs = panel(tmp_path, method), panel(alone, method)
        assert len(ours) == len(theirs)
        for mine, other in zip(ours, theirs, strict=True):
            assert mine["iteration"] == other["iteration"]
            np.testing.assert_allclose(mine["loss"], other["loss"], rtol=1e-3, atol=1e-5)
            np.testing.assert_allclose(mine["grad_norm"], other["grad_norm"], rtol=1e-3)
    assert [line["reward"] for line in panel(tmp_path, "MMA-Auto")] == pytest.approx(
        [line["reward"] for line in panel(alone, "MMA-Auto")]
    )


def test_two_processes_judge_what_one_does(small, alone, tmp_path):
    """From what one has trained, through all the run's steps: each plays its share of every agent's episodes."""
    for name in ("prepared", "train", "config.json", "data.sha256"):
        copy = shutil.copytree if (alone / name).is_dir() else shutil.copy
        copy(alone / name, tmp_path / name)
    done = ended(together(small, tmp_path))
    assert [code for _, code in done] == [0, 0], done[0][0][-3000:]
    for read in (read_results, read_episodes, read_traces):
        ours, theirs = list(read(tmp_path)), list(read(alone))
        assert len(ours) == len(theirs) > 0
        for mine, other in zip(ours, theirs, strict=True):
            assert_alike(mine, other)
    for name in ("regret.jsonl", "information.jsonl", "comparisons.jsonl", "audit.json", "report/index.html"):
        assert (tmp_path / name).is_file() and (alone / name).is_file()
    assert len((tmp_path / "test_access.jsonl").read_text().splitlines()) == 4


def assert_alike(ours, theirs):
    """The same but for rounding: what a row computes depends a little on how many there are."""
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        ours, theirs = list(ours.values()), list(theirs.values())
    if isinstance(ours, list):
        assert len(ours) == len(theirs)
        for mine, other in zip(ours, theirs, strict=True):
            assert_alike(mine, other)
    else:
        assert ours == (pytest.approx(theirs, abs=1e-4) if isinstance(ours, float) else theirs)


def test_who_waits_waits_as_long_as_it_takes(tmp_path):
    """Longer than the half minute after which the devices' own first meeting gives up."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    program = "import sys, time; from mma_jax.runs import hosts; hosts.join('localhost:' + sys.argv[1], 2, "
    program += "int(sys.argv[2]), 10); hosts.alone(lambda: time.sleep(35), 'work'); "
    program += "sys.exit(hosts.agree([hosts.first()]) != [True])"
    words = [sys.executable, "-c", program, str(port)]
    processes = [subprocess.Popen([*words, str(n)], cwd=ROOT, stdout=subprocess.PIPE, text=True) for n in range(2)]
    assert [code for _, code in ended(processes)] == [0, 0]


def test_a_report_needs_one_process(small, tmp_path):
    [(text, code)] = ended([start(small, tmp_path, 2, 0, 1, ("--config.run=report",))])
    assert code == 2 and "--distributed is for --config.run=all, train, evaluate; report runs in one process" in text


def test_trajectories_survive_the_wire():
    turns = (
        Turn("say\ud800 é", "Analyze_Text", {"item_id": ["1", "2"]}, "Null", -0.02, "", True, (1, 2), 0.1),
        Turn("{", "", {}, "", -0.2, "json", False),
    )
    prompt = (Message("system", "s"), Message("user", "ü"))
    one = Trajectory(None, prompt, turns, "turn_limit", np.array([1 / 3, math.nan]))
    got = hosts._trajectory(None, json.loads(json.dumps(hosts._plain(one))))
    assert got.prompt == prompt and got.stop_reason == "turn_limit" and got.turns[0] == turns[0]
    assert math.isnan(got.turns[1].value) and dataclasses.replace(got.turns[1], value=0.0) == dataclasses.replace(
        turns[1], value=0.0
    )
    np.testing.assert_array_equal(got.scores, one.scores)


def test_sequences_survive_the_wire():
    one = Sequence(
        np.arange(5, dtype=np.int32),
        np.array([False, False, True, True, False]),
        np.array([-1, -1, 0, 0, -1], np.int32),
        np.array([1], np.int32),
        np.array([0.5], np.float32),
        np.zeros(5, np.float32),
        "épisode 1",
        "full",
        np.full(5, np.nan, np.float32),
        np.arange(5, dtype=np.int32),
        np.arange(15, dtype=np.int32).reshape(5, 3),
        np.linspace(0, 1, 15, dtype=np.float32).reshape(5, 3),
        np.array([0.25], np.float32),
    )
    plain = dataclasses.replace(one, episode="b", family="x", credit=None, choices=None, worth=None, values=None)
    found = hosts._unpack(hosts._pack([one, plain]))
    for sent, got in zip((one, plain), found, strict=True):
        assert (sent.episode, sent.family) == (got.episode, got.family)
        for name in hosts._ARRAYS:
            if getattr(sent, name) is None:
                assert getattr(got, name) is None
            else:
                np.testing.assert_array_equal(getattr(sent, name), getattr(got, name))
                assert getattr(sent, name).dtype == getattr(got, name).dtype
    assert hosts._unpack(hosts._pack([])) == []
