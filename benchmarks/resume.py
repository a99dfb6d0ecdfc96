"""Kills training at random moments and compares the end with a run that was left alone (DESIGN §6.13).

    python benchmarks/resume.py --kills=21

A small pre-training, SFT and PPO are each run once without interruption and once under SIGKILL: started again after
every kill, with a delay drawn anew, until the kills of that stage are used up and it has finished. Then every array of
the last checkpoint must be bitwise the same, and so must every line of the log. Prints a Markdown table; exits with 1
if anything differs. Processes share XLA's compilation cache, so that a start takes seconds.
"""

from __future__ import annotations

import argparse
import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
PRETRAIN = (
    "--config.run=pretrain --config.pretrain.steps=12 --config.pretrain.width=32 --config.pretrain.layers=6 "
    "--config.pretrain.heads=2 --config.pretrain.kv_heads=1 --config.pretrain.head_dim=16 --config.pretrain.hidden=48 "
    "--config.pretrain.checkpoint_every=2"
)
TRAIN = (
    "--config.run=train --config.world.n_items=120 --config.world.n_users=250 --config.world.images=False "
    "--config.images.encoder=none --config.pool.size=5 --config.episodes.train=60 --config.episodes.valid=6 "
    "--config.episodes.test=8 --config.env.turns=3 --config.env.context=512 --config.env.count=model "
    "--config.sampler.slots=512 --config.sampler.chunks=32,256 --config.sampler.max_new=24 --config.sampler.rows=8 "
    "--config.sft.steps=40 --config.sft.batch=4 --config.sft.episodes=20 --config.sft.checkpoint_every=4 "
    "--config.ppo.iterations=16 --config.ppo.prompts=2 --config.ppo.samples=2 --config.ppo.baseline=siblings "
    "--config.ppo.query=1 --config.ppo.value_only=2 --config.ppo.checkpoint_every=1 --config.ppo.temperature=1.0"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=21, help="over all three stages")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder / "cache")
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        base = f"--config.model.path={folder}/pretrain_alone/l0_tiny"
        stages = {
            "pretrain": (PRETRAIN, "train/L0-tiny"),
            "SFT": (f"{TRAIN} {base} --config.methods=MMA-SFT", "train/MMA-SFT/0"),
            "PPO": (f"{TRAIN} {base} --config.methods=MMA-Auto", "train/MMA-Auto/0"),
        }
        print("| stage | kills | seconds alone | checkpoint | log |\n|---|---|---|---|---|")
        failed = False
        for number, (name, (arguments, where)) in enumerate(stages.items()):
            kills = options.kills // 3 + (number < options.kills % 3)
            alone, killed = (folder / f"{name.lower()}_{kind}" for kind in ("alone", "killed"))
            started = time.time()
            finish(arguments, alone)
            seconds = time.time() - started
            same = interrupt(arguments, killed, kills, seconds, rng, functools.partial(compare, alone, where))
            failed |= not all(same)
            print(
                f"| {name} | {kills} | {seconds:.0f} | " + " | ".join("equal" if s else "DIFFERS" for s in same) + " |"
            )
    sys.exit(failed)


def command(arguments: str, workdir: Path) -> list[str]:
    options = [f"--config={ROOT}/configs/demo.py", f"--workdir={workdir}", *arguments.split()]
    return [sys.executable, "-m", "mma_jax.main", *options]


def finish(arguments: str, workdir: Path) -> None:
    done = subprocess.run(command(arguments, workdir), cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{workdir.name} failed:\n{done.stderr[-2000:]}")


def interrupt(
    arguments: str, workdir: Path, kills: int, seconds: float, rng: np.random.Generator, check: Callable
) -> np.ndarray:
    """Start and kill until `kills` processes have died at work; what finishes before is checked, and begun anew.

    Returns what `check` found of all that finished, bool [2].
    """
    found = np.array([True, True])
    while kills:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(command(arguments, workdir), cwd=ROOT, **quiet)
        try:
            process.wait(timeout=rng.uniform(0.2, 0.9) * seconds)
            found &= check(workdir)
            shutil.rmtree(workdir)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills -= 1
    finish(arguments, workdir)
    return found & check(workdir)


def compare(alone: Path, where: str, killed: Path) -> tuple[bool, bool]:
    """Whether the last checkpoints' arrays and the logs in `where` of two workdirs are the same."""
    alone, killed = alone / where, killed / where
    log = [(folder / "panel.jsonl").read_bytes() for folder in (alone, killed)]
    arrays = [arrays_of(folder / "checkpoints") for folder in (alone, killed)]
    same = arrays[0].keys() == arrays[1].keys() and all(
        np.array_equal(arrays[0][name], arrays[1][name], equal_nan=True) for name in arrays[0]
    )
    return same, log[0] == log[1]


def arrays_of(checkpoints: Path) -> dict[str, np.ndarray]:
    from orbax.checkpoint import v1 as ocp

    last = max((int(path.name), path) for path in checkpoints.iterdir() if path.name.isdigit())[1]
    return {name: np.asarray(array) for name, array in ocp.load_checkpointables(last)["arrays"].items()}


if __name__ == "__main__":
    main()
