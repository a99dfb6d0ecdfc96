"""DESIGN §6.13, the hard way: SFT and then PPO in a process of their own, killed while they run,
or asked to end, and run again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys
from pathlib import Path
import jax
import numpy as np
import learning_fixture as fixture
from mma_jax.learning import interrupts, ppo, sft
from mma_jax.learning.checkpoint import Checkpoints
from mma_jax.learning.panel import Panel

interrupts.listen()
work = Path(sys.argv[1])
graphdef, params, frozen = fixture.actor_critic(trained=0.1)

def parts(name):
    return Checkpoints(work / name / "checkpoints", 2), Panel(work / name, fixture.limits()), 0

config = fixture.sft_config(steps=9, checkpoint_every=4, log_every=4)
state = sft.init(params, config)
examples = fixture.random_sequences(9)
state = sft.train(state, frozen, graphdef, examples, config, (32,), *parts("sft"))

def collect(params, iteration):
    actor, key = (graphdef, params, frozen), jax.random.fold_in(jax.random.key(0), iteration)
    prompts = [[1, 2, 3], [1, 2, 4], [1, 2, 5], [1, 2, 6]]
    return fixture.play(actor, prompts, key, 0.2, lambda ids: float(ids[0] < 16), turns=1), {}

def validate(params):
    return -float(sum(abs(leaf).sum() for leaf in jax.tree.leaves(params)))  # weights grow: the first is the best

config = fixture.ppo_config(iterations=8, checkpoint_every=3)
state = ppo.init(state.params, config)
checkpoints, *others = parts("ppo")
state = ppo.train(state, frozen, graphdef, collect, config, (16,), 1, checkpoints, *others, validate)
best = checkpoints.best(state)
np.savez(work / "done.npz", best[0], *map(np.asarray, jax.tree.leaves((state, best[1]))))
"""


def start(work: Path, compiled: Path) -> subprocess.Popen:
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)]),
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(compiled),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    work.mkdir(exist_ok=True)
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(work)], env=environment, stderr=subprocess.PIPE)


def kill_after(process: subprocess.Popen, log: Path, lines: int, sent: int = signal.SIGKILL) -> None:
    """A signal once `log` has so many lines."""
    while process.poll() is None:
        if log.exists() and log.read_bytes().count(b"\n") >= lines:
            process.send_signal(sent)
            break
        time.sleep(0.005)
    process.wait()
    expected = -signal.SIGKILL if sent == signal.SIGKILL else 128 + sent
    assert process.returncode == expected, process.stderr.read().decode()


def finish(process: subprocess.Popen) -> None:
    _, errors = process.communicate()
    assert process.returncode == 0, errors.decode()


def test_rule_13_killed_runs_end_as_an_uninterrupted_one_bit_by_bit(tmp_path):
    whole, parts, compiled = (tmp_path / name for name in ("whole", "parts", "compiled"))
    finish(start(whole, compiled))
    kill_after(start(parts, compiled), parts / "sft/panel.jsonl", 1, signal.SIGTERM)
    kill_after(start(parts, compiled), parts / "sft/panel.jsonl", 2)
    kill_after(start(parts, compiled), parts / "ppo/panel.jsonl", 1, signal.SIGINT)
    kill_after(start(parts, compiled), parts / "ppo/panel.jsonl", 4)
    assert not (parts / "done.npz").exists()
    finish(start(parts, compiled))
    for log in ("sft/panel.jsonl", "ppo/panel.jsonl"):
        assert (parts / log).read_bytes() == (whole / log).read_bytes()
    with np.load(whole / "done.npz") as expected, np.load(parts / "done.npz") as found:
        assert len(expected.files) == len(found.files) > 10
        for name in expected.files:
            np.testing.assert_array_equal(expected[name], found[name])
