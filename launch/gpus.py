"""Run on this machine's GPUs: one process that uses all of them, or one a GPU.

    python -m launch.gpus --config=configs/mma_llama3_8b.py --workdir=runs/8b -- --config.mesh.fsdp=4
    python -m launch.gpus --each --config=... --workdir=... -- --config.mesh.fsdp=-1 --config.mesh.data=1

With --each every process plays its own share of the episodes on its GPU (which must hold the model), and training steps
run over all; without, one process does everything. If a process fails, the others are ended too; the same command
resumes. Where CUDA_VISIBLE_DEVICES is set, only those GPUs are taken.
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
_COUNT = flags.DEFINE_integer("gpus", None, "How many, with --each; default: all there are.", lower_bound=1)

ENVIRONMENT = {"PYTHONUNBUFFERED": "1", "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92"}
"""Where nothing else is set. A bit of memory stays free for NCCL."""


def chosen(count: int | None) -> list[str]:
    """The GPUs to take, as CUDA_VISIBLE_DEVICES names them. Raises InputError if there are not as many, or none."""
    if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
        gpus = visible.split(",")
        if count and count > len(gpus):
            raise InputError(f"--gpus={count}, and CUDA_VISIBLE_DEVICES={visible} names {len(gpus)}")
    elif count:
        gpus = [str(n) for n in range(count)]
    else:
        try:
            listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=True).stdout
        except (FileNotFoundError, subprocess.CalledProcessError):
            raise InputError("nvidia-smi lists no GPU here; say how many with --gpus") from None
        gpus = [str(n) for n in range(len(listed.splitlines()))]
    return gpus[:count]


def commands(words: list[str], gpus: list[str], port: int) -> list[tuple[list[str], dict[str, str]]]:
    """(words, environment of its own) of each process: one for each of `gpus`, or one that takes what it finds."""
    words = [sys.executable, *words[1:]]
    if len(gpus) < 2:
        return [(words, {})]
    meeting = ["--distributed", f"--coordinator=localhost:{port}", f"--processes={len(gpus)}"]
    return [([*words, *meeting, f"--process={n}"], {"CUDA_VISIBLE_DEVICES": gpu}) for n, gpu in enumerate(gpus)]


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
    gpus = chosen(_COUNT.value) if _EACH.value else []
    planned = commands(common.command(argv[1:], distributed=False), gpus, port)
    if common.PRINT_ONLY.value:
        for words, own in planned:
            print(common.in_code(words, ENVIRONMENT | own))
        return
    folder = common.CODE.value or os.getcwd()
    environment = ENVIRONMENT | os.environ
    sys.exit(supervise([subprocess.Popen(words, env=environment | own, cwd=folder) for words, own in planned]))


if __name__ == "__main__":
    common.run(main)
