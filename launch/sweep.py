"""Every combination of some settings, each in a folder of its own, and one table of results at the end.

    python -m launch.sweep --config=configs/demo.py --workdir=runs/sweep --sweep=ppo.lr=1e-4,5e-4 --sweep=seeds=0,1,2
    python -m launch.sweep ... --slurm=partition=gpu,gres=gpu:1,time=4:00:00      # writes and submits a job array
    python -m launch.sweep ... --table                                            # only the table, of what is done

What follows `--` goes to every run as it is: `-- --config.methods=MMA-SFT`. The same command resumes: a point that is
done is not run again unless its own command has changed, one that was cut off goes on where it was. `--print_only`
shows the commands and runs none.
The table's metric is the test set's. Choose by its column "valid", the best validation reward of PPO where
config.ppo.validate is set (mean over seeds), or by a sweep's runs on other episodes; not by the metric.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import shlex
import signal
import statistics
import subprocess
import sys
import urllib.parse
from pathlib import Path

from absl import flags
from tqdm import tqdm

from launch import common
from mma_jax.data.disk import write_atomically
from mma_jax.evaluation.results import read_results
from mma_jax.reports.load import read_training
from mma_jax.types import InputError

_SWEEP = flags.DEFINE_multi_string("sweep", [], "key=value,value,... of the config; several are combined.")
_JOBS = flags.DEFINE_integer("jobs", 1, "Runs side by side on this machine.", lower_bound=1)
_SLURM = flags.DEFINE_string("slurm", None, "key=value,... for sbatch: submit a job array instead of running here.")
_TABLE = flags.DEFINE_bool("table", False, "Only print the table of what is done.")
_METRIC = flags.DEFINE_string("metric", "ndcg@10", "What the table shows, over all test episodes.")

LOG, DONE, COMMAND = "log.txt", "done", "command.txt"
"""Files of a point: its output, its mark of having ended well, and the command that this mark counts for."""


def points(sweeps: list[str]) -> list[dict[str, str]]:
    """["a=1,2", "b=x"] -> [{"a": "1", "b": "x"}, {"a": "2", "b": "x"}].

    Raises:
        InputError: one is not key=value,..., or a key comes twice.
    """
    axes: dict[str, list[str]] = {}
    for sweep in sweeps:
        key, equals, values = sweep.partition("=")
        if not equals or not key or not all(values.split(",")):
            raise InputError(f"--sweep={sweep}: want key=value,value,... such as --sweep=ppo.lr=1e-4,5e-4")
        if key in axes:
            raise InputError(f"--sweep={sweep}: {key} is there already; give all its values at once")
        axes[key] = values.split(",")
    return [dict(zip(axes, chosen, strict=True)) for chosen in itertools.product(*axes.values())]


def name(point: dict[str, str]) -> str:
    """The folder of a point: its settings, readable and safe."""
    said = ",".join(f"{key}={value}" for key, value in point.items())
    return urllib.parse.quote(said, safe="=,+") or "default"


def command(config: str, workdir: Path, point: dict[str, str], rest: list[str]) -> list[str]:
    """What runs a point."""
    settings = [f"--config.{key}={value}" for key, value in point.items()]
    return [
        sys.executable,
        *("-m", "mma_jax.main", f"--config={config}", f"--workdir={workdir / name(point)}"),
        *settings,
        *rest,
    ]


def done(folder: Path, words: list[str]) -> bool:
    """Whether a point has ended well with this very command."""
    asked = folder / COMMAND
    return (folder / DONE).exists() and asked.exists() and asked.read_text() == shlex.join(words)


def begin(folder: Path, words: list[str]) -> None:
    """Notes what runs in a point's folder from here on."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / DONE).unlink(missing_ok=True)
    write_atomically(folder / COMMAND, shlex.join(words))


def run_here(todo: list[tuple[Path, list[str]]], jobs: int) -> list[Path]:
    """Runs commands, `jobs` at a time, each with its output in its folder; returns the folders of those that failed.

    SIGTERM and Ctrl-C start nothing more, ask what runs to save and end, wait for that, and end the program.
    """
    running: set[subprocess.Popen] = set()

    def one(folder: Path, words: list[str]) -> int:
        begin(folder, words)
        with open(folder / LOG, "ab") as log:
            process = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, cwd=common.CODE.value)
            running.add(process)
            code = process.wait()
            running.discard(process)
        if code == 0:
            (folder / DONE).touch()
        return code

    def end(number: int, frame) -> None:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in [*running]:
            process.terminate()
        raise SystemExit(128 + number)  # leaving `pool` waits for those that run

    failed = []
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool, tqdm(total=len(todo), desc="sweep") as bar:
        before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
        waiting = {pool.submit(one, folder, words): folder for folder, words in todo}
        for ended in concurrent.futures.as_completed(waiting):
            bar.update()
            if ended.result():
                failed.append(waiting[ended])
                bar.write(f"{waiting[ended]} failed with exit code {ended.result()}: see its {LOG}")
    for number, handler in before.items():
        signal.signal(number, handler)
    return failed


def slurm_script(todo: list[tuple[Path, list[str]]], options: str, root: Path) -> str:
    """An sbatch script of one job array, a task a point.

    Raises:
        InputError: an option is not key=value.
    """
    lines = ["#!/bin/bash", f"#SBATCH --array=0-{len(todo) - 1}", f"#SBATCH --output={root}/slurm-%A_%a.txt"]
    lines += [
        *common.sbatch_options("slurm", options),
        "#SBATCH --requeue",
        "set -euo pipefail",
        'case "$SLURM_ARRAY_TASK_ID" in',
    ]
    for number, (folder, words) in enumerate(todo):
        done = shlex.quote(str(folder / DONE))
        lines.append(f"{number}) mkdir -p {shlex.quote(str(folder))} && ({common.in_code(words)}) && touch {done} ;;")
    return "\n".join([*lines, "esac", ""])


def table(root: Path, found: list[dict[str, str]], metric: str) -> str:
    """Markdown: a row a point, protocol and method, means over its seeds. Of a point that runs, what is finished."""
    headers = [*found[0], "protocol", "method", "seeds", "valid", f"test {metric}"]
    lines = [headers, ["---"] * len(headers)]
    for point in found:
        folder, values = root / name(point), {}
        for row in read_results(folder):
            if (row["subset"], row["metric"]) == ("all", metric) and row["value"] is not None:
                values.setdefault((row["protocol"], row["method"]), []).append(row["value"])
        panels = read_training(folder / "train")
        for (protocol, method), seeds in values.items():
            valid = _validated([rows for (trained, _), rows in panels.items() if trained == method])
            lines.append([*point.values(), protocol, method, str(len(seeds)), valid, f"{statistics.fmean(seeds):.4f}"])
        if not values:
            lines.append([*point.values(), "", "nothing yet", "", "", ""])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _validated(panels: list[tuple[dict, ...]]) -> str:
    """Mean over seeds of the best "valid" in a method's panels; empty if there is none."""
    found = [[row["valid"] for row in rows if "valid" in row] for rows in panels]
    best = [max(figures) for figures in found if figures]
    return f"{statistics.fmean(best):.4f}" if best else ""


def main(argv: list[str]) -> None:
    root, found = Path(common.WORKDIR.value), points(_SWEEP.value)
    common.config_file()
    todo = [(root / name(point), command(common.CONFIG.value, root, point, argv[1:])) for point in found]
    todo = [point for point in todo if not done(*point)]
    if common.PRINT_ONLY.value:
        print("\n".join(shlex.join(words) for _, words in todo))
        return
    failed = []
    if _SLURM.value is not None and todo and not _TABLE.value:
        script = slurm_script(todo, _SLURM.value, root)
        for point in todo:
            begin(*point)
        (root / "sweep.sbatch").write_text(script)
        common.start(["sbatch", str(root / "sweep.sbatch")])
    if not _TABLE.value:
        failed = run_here(todo, _JOBS.value)
    text = table(root, found, _METRIC.value)
    print(text)
    if root.is_dir():
        (root / "table.md").write_text(text + "\n")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    common.run(main)
