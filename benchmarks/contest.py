"""Contestants that do the same tasks in turn, each in a process of its own, so that other work on the machine hits them
alike. The processor time is that of the contestant's process: on a busy machine it says more than the clock.

A benchmark is a script that calls `compare`, and `serve` where it was started with --serve NAME FOLDER.
"""

from __future__ import annotations

import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable

REFERENCE = "mma_jax"

Results = dict[tuple[str, str], list[dict]]
"""(task, contestant) -> what it answered, round by round: "wall" and "cpu" seconds, "peak" bytes, and its own."""


def compare(script: str, pythons: dict[str, str], folder: str, tasks: Iterable[str], rounds: int) -> Results:
    """Rounds of all tasks by all contestants, after one that compiles and is not counted.

    Args:
        script: the benchmark's own file.
        pythons: contestant -> interpreter.
        folder: what all of them read.
    """
    peers = {name: Peer(script, name, python, folder) for name, python in pythons.items()}
    results: Results = {}
    for round_ in range(rounds + 1):
        for task in tasks:
            for name, peer in list(peers.items()):
                if (result := peer.run(task)) is None:
                    print(f"{name} is left out: {peer.complaint()}")
                    del peers[name]
                    continue
                print(f"round {round_} {task} {name} {json.dumps(result)}", file=sys.stderr, flush=True)
                if round_:
                    results.setdefault((task, name), []).append(result)
    for peer in peers.values():
        peer.process.kill()
    return results


class Peer:
    """A contestant's process."""

    def __init__(self, script: str, name: str, python: str, folder: str):
        self.errors = pathlib.Path(folder, f"{name}.stderr")
        command = [python, os.path.abspath(script), "--serve", name, folder]
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
            )

    def run(self, task: str) -> dict | None:
        """Its answer, or None if the process is gone."""
        if self.process.poll() is not None:
            return None
        try:
            self.process.stdin.write(task + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return None
        line = self.process.stdout.readline()
        return json.loads(line) if line else None

    def complaint(self) -> str:
        return self.errors.read_text().strip().rpartition("\n")[2] or "no message"


def serve(do: Callable[[str], dict]) -> None:
    """Do the tasks named on stdin, one a line; answer each in JSON, with its seconds and the process's peak memory.

    do: task -> what else to tell of it.
    """
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries print, too
    for line in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        told = do(line.strip())
        result = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu} | told
        result["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps(result), file=answers, flush=True)


def print_table(results: Results, tokens: Callable[[str], int]) -> None:
    """Medians over the rounds, Markdown. tokens: of a task, for tokens a second."""
    columns = ("task", "contestant", "s", "CPU s", "tokens/s", "peak GB", "s / ours", "CPU s / ours")
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for (task, name), answers in results.items():
        if (task, REFERENCE) not in results:
            continue
        wall, cpu, peak = (statistics.median(answer[key] for answer in answers) for key in ("wall", "cpu", "peak"))
        ours = [statistics.median(answer[key] for answer in results[task, REFERENCE]) for key in ("wall", "cpu")]
        print(
            f"| {task} | {name} | {wall:.2f} | {cpu:.2f} | {tokens(task) / wall:.0f} | {peak / 1e9:.2f} "
            f"| {wall / ours[0]:.2f} | {cpu / ours[1]:.2f} |"
        )


def environment(folder: pathlib.Path, packages: Iterable[str]) -> str | None:
    """The interpreter of a virtual environment with these packages, made if it is not there; None, and a line that says
    why, if it cannot be made."""
    python = folder / "bin" / "python"
    for command in (
        [sys.executable, "-m", "venv", str(folder)],
        [str(python), "-m", "pip", "install", "-q", *packages],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            print(f"{folder.name} is left out: {done.stderr.strip().rpartition(chr(10))[2]}")
            return None
    return str(python)
