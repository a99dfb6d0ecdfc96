"""What launchers would start, and that they refuse what cannot work before anything is started."""

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from launch import gpus
from mma_jax.learning import interrupts
from mma_jax.types import InputError

ROOT = Path(__file__).parents[2]
COMMON = ("--config=configs/mma_llama3_8b.py", "--workdir=/shared/runs/8b", "--code=/shared/code")
REST = ("--", "--config.mesh.fsdp=16")


def launch(name, *arguments, path=None):
    return subprocess.run(
        [sys.executable, "-m", f"launch.{name}", *COMMON, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | ({"PATH": path} if path is not None else {}),
    )


def fake(folder, name):
    """A program that shows what it was called with and given."""
    program = folder / name
    program.write_text('#!/bin/sh\nfor word in "$@"; do printf "%s\\n" "$word"; done\ncat\n')
    program.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def test_tpu_runs_the_same_command_on_all_workers(tmp_path):
    slice_ = ("--name=pod", "--zone=us-central2-b")
    done = launch("tpu", *slice_, *REST, path=fake(tmp_path, "gcloud"))
    assert done.returncode == 0, done.stderr
    words = done.stdout.splitlines()
    assert words[:4] == ["compute", "tpus", "tpu-vm", "ssh"] and "--worker=all" in words
    command = next(word for word in words if word.startswith("--command=")).removeprefix("--command=")
    folder, _, rest = command.partition(" && ")
    assert folder == "cd /shared/code" and "JAX_PLATFORMS=tpu" in rest
    assert shlex.split(rest)[2:5] == [".venv/bin/python", "-m", "mma_jax.main"]
    assert {"--distributed", "--config.mesh.fsdp=16"} <= set(shlex.split(rest))
    printed = launch("tpu", *slice_, "--print_only", *REST)
    assert printed.stdout.startswith("gcloud compute") and shlex.split(printed.stdout)[1:] == words


def test_kubernetes_writes_a_jobset_that_restarts(tmp_path):
    pods = ("--name=mma-8b", "--image=repo/mma:1", "--topology=4x4", "--hosts=4", "--claim=shared")
    done = launch("kubernetes", *pods, *REST, path=fake(tmp_path, "kubectl"))
    assert done.returncode == 0, done.stderr
    text = done.stdout.partition("-f\n-\n")[2]
    manifest = json.loads(text)
    job = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]
    [container] = job["template"]["spec"]["containers"]
    assert manifest["kind"] == "JobSet" and manifest["spec"]["failurePolicy"]["maxRestarts"] > 0
    assert job["parallelism"] == job["completions"] == 4 and container["resources"]["limits"] == {"google.com/tpu": 4}
    assert container["command"][-1] == "--config.mesh.fsdp=16" and container["workingDir"] == "/shared/code"
    assert json.loads(launch("kubernetes", *pods, "--print_only", *REST).stdout) == manifest


def test_slurm_goes_back_into_the_queue_after_a_preemption(tmp_path):
    done = launch("slurm", "--nodes=2", "--options=partition=gpu,time=4:00:00", "--print_only", *REST)
    assert done.returncode == 0, done.stderr
    assert "#SBATCH --nodes=2" in done.stdout and "#SBATCH --time=4:00:00" in done.stdout
    for name, body in (("srun", "exit ${CODE}"), ("scontrol", 'echo "$@"')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    for code, said in ((0, ""), (1, ""), (interrupts.EXIT_CODE, "requeue 7\n")):
        ran = subprocess.run(
            ["bash"],
            input=done.stdout,
            env={"PATH": f"{tmp_path}:/usr/bin:/bin", "CODE": str(code), "SLURM_JOB_ID": "7"},
            text=True,
            capture_output=True,
            check=False,
        )
        assert (ran.returncode, ran.stdout) == (code, said), ran.stderr


def test_gpus_one_process_or_one_each(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    one = launch("gpus", "--gpus=4", "--print_only", *REST).stdout.splitlines()
    assert len(one) == 1 and "--distributed" not in one[0] and "CUDA_VISIBLE_DEVICES" not in one[0]
    each = launch("gpus", "--each", "--gpus=4", "--print_only", *REST).stdout.splitlines()
    assert [f"CUDA_VISIBLE_DEVICES={n}" in line and f"--process={n}" in line for n, line in enumerate(each)] == [
        True
    ] * 4
    assert len({word for line in each for word in shlex.split(line) if word.startswith("--coordinator=")}) == 1


def test_gpus_that_are_set_aside_for_this_shell(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6,GPU-1a")
    assert gpus.chosen(None) == ["4", "6", "GPU-1a"] and gpus.chosen(2) == ["4", "6"]
    with pytest.raises(InputError, match="--gpus=4, and CUDA_VISIBLE_DEVICES=4,6,GPU-1a names 3"):
        gpus.chosen(4)
    each = gpus.commands(["python", "x"], gpus.chosen(2), 1)
    assert [own["CUDA_VISIBLE_DEVICES"] for _, own in each] == ["4", "6"]


@pytest.mark.parametrize("handler", ["SIG_DFL", "SIG_IGN"])
def test_when_one_process_fails_the_others_are_ended(handler):
    program = f"import signal, time; signal.signal(signal.SIGTERM, signal.{handler}); print(flush=True); time.sleep(60)"
    sleeper = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    sleeper.stdout.readline()
    failing = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    assert gpus.supervise([sleeper, failing], grace=1.0) == 3
    assert sleeper.returncode == (-signal.SIGTERM if handler == "SIG_DFL" else -signal.SIGKILL)


def test_processes_that_end_well_end_well():
    assert gpus.supervise([subprocess.Popen([sys.executable, "-c", ""]) for _ in range(2)]) == 0


def test_help_is_no_error():
    done = launch("gpus", "--help")
    assert done.returncode == 0 and "--each" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tpu", "--name=Bad_Name", "--zone=z"), "--name=Bad_Name: want small letters"),
        (("tpu", "--name=pod", "--zone=z", "--", "nonsense"), "'nonsense' is no option"),
        (("kubernetes", "--name=a", "--image=i", "--claim=c", "--topology=4x4", "--hosts=2"), "has 16 chips"),
        (("kubernetes", "--name=a", "--image=i", "--claim=c", "--topology=4y4", "--hosts=2"), "want numbers and x"),
        (("slurm", "--options=gpu"), "'gpu' is not key=value"),
        (("slurm", "--nodes=0"), "--nodes=0"),
        (("slurm", "--knots=2"), "Unknown command line flag 'knots'"),
        (("gpus", "--config=configs/nope.py", "--print_only"), "configs/nope.py: no such file"),
        (("missing_rate", "--protocols=foo", "--print_only"), "unknown 'foo' in config.protocols"),
    ],
)
def test_wrong_arguments_are_one_line(arguments, message):
    done = launch(*arguments)
    assert done.returncode == 2 and done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1 and message in done.stderr


def test_a_missing_program_is_told(tmp_path):
    done = launch("tpu", "--name=pod", "--zone=z", path=str(tmp_path))
    assert done.returncode == 2 and "gcloud is not installed here" in done.stderr
