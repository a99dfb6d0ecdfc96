"""Train on this machine's GPUs: one process that uses all of them, or one a GPU.

    python -m launch.gpus --config=configs/mma_llama3_8b.py --workdir=runs/8b -- --config.mesh.fsdp=4
    python -m launch.gpus --each --config=... --workdir=... -- --config.mesh.fsdp=-1 --config.mesh.data=1

With --each every process plays its own share of the episodes on its GPU (which must hold the model), and training steps
run over all; without, one process does everything. If a process ends, the others are ended too; the same command
resumes.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time

from absl import flags

from launch import common
from mma_jax.types import InputError

_EACH = flags.DEFINE_bool("each", False, "A process a GPU.")
_COUNT = flags.DEFINE_integer("gpus", None, "How many; default: all that nvidia-smi lists.", lower_bound=1)

ENVIRONMENT = {"PYTHONUNBUFFERED": "1", "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92"}
"""A bit of memory stays free for NCCL."""


def found() -> int:
    """GPUs of this machine."""
    try:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=True).stdout
    except (FileNotFoundError, subprocess.CalledProcessError):
        raise InputError("nvidia-smi lists no GPU here; say how many with --gpus") from None
    return len(listed.splitlines())


def commands(words: list[str], count: int, port: int) -> list[tuple[list[str], dict[str, str]]]:
    """(words, environment) of each process."""
    words = [sys.executable, *words[1:]]
    if count == 1:
        return [(words, ENVIRONMENT)]
    meeting = ["--distributed", f"--coordinator=localhost:{port}", f"--processes={count}"]
    return [
        ([*words, "--config.run=train", *meeting, f"--process={n}"], ENVIRONMENT | {"CUDA_VISIBLE_DEVICES": str(n)})
        for n in range(count)
    ]


def supervise(processes: list[subprocess.Popen], grace: float = 120.0) -> int:
    """Wait for all; when one fails, ask the others to end, and after `grace` seconds end them. SIGTERM is passed on.

    The first exit code that is not 0, else 0.
    """

    def pass_on(number: int, frame) -> None:
        for process in processes:
            process.send_signal(number)

    signal.signal(signal.SIGTERM, pass_on)
    while None in (codes := [process.poll() for process in processes]) and not any(codes):
        time.sleep(0.2)
    code = next(filter(None, codes), 0)
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(grace)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    return code


def main(argv: list[str]) -> None:
    common.config_file()
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    count = (_COUNT.value or found()) if _EACH.value else 1
    planned = commands(common.training(argv[1:], distributed=False), count, port)
    if common.PRINT_ONLY.value:
        for words, environment in planned:
            print(common.in_code(words, environment))
        return
    folder = common.CODE.value or os.getcwd()
    sys.exit(supervise([subprocess.Popen(words, env=os.environ | env, cwd=folder) for words, env in planned]))


if __name__ == "__main__":
    common.run(main)
