"""Several processes, one run: each plays its own share of the episodes, all make the same updates, one writes.

Training steps are one program over all devices. Rollouts are not: episodes end when they end, and loops of different
lengths would wait for each other forever, so every process plays on its own devices.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import multihost

from mma_jax.learning import sequences
from mma_jax.types import Episode, InputError, Message, Trajectory, Turn

WEEK = 7 * 24 * 3600 * 1000  # milliseconds
_ARRAYS = ("tokens", "action", "turn", "starts", "rewards", "logprobs", "credit", "rules", "choices", "worth", "values")


def join(coordinator: str, count: int, index: int, heartbeat: int) -> None:
    """Meet the other processes; before any other use of JAX.

    Args:
        coordinator: HOST:PORT of process 0; "" where JAX finds out by itself (TPU pods, SLURM, Open MPI).
        count: processes, with a coordinator.
        index: of this one.
        heartbeat: seconds without a sign of life after which a process counts as dead, and all end.

    Raises:
        InputError: they do not meet.
    """
    named = dict(coordinator_address=coordinator, num_processes=count, process_id=index) if coordinator else {}
    try:
        jax.distributed.initialize(**named, heartbeat_timeout_seconds=heartbeat)
    except (RuntimeError, ValueError) as error:
        raise InputError(f"--distributed: the processes do not meet ({str(error).splitlines()[0]})") from error


def check(config) -> None:
    """Raises InputError if a process would have no episode to play."""
    if jax.process_count() > config.ppo.prompts:
        raise InputError(
            f"ppo.prompts={config.ppo.prompts} are fewer than the {jax.process_count()} processes: raise it"
        )


def several() -> bool:
    """Whether there is more than this process."""
    return jax.process_count() > 1


def first() -> bool:
    """Whether this process writes files."""
    return jax.process_index() == 0


def alone(work: Callable[[], None], name: str) -> None:
    """The first process works, the others wait. If it fails, they end with it."""
    if first():
        work()
    meet(name)


def meet(name: str) -> None:
    """Wait for all processes, however long they take: the devices' own first meeting gives up after half a minute."""
    multihost.get_barrier_sync_fn()(key=name, timeout_ms=WEEK)


def agree(flags: list[bool]) -> list[bool]:
    """What the first process says, on all."""
    return multihost_utils.broadcast_one_to_all(np.array(flags, bool)).tolist() if several() else flags


def mine(items: list) -> list:
    """This process's share."""
    return items[jax.process_index() :: jax.process_count()]


def share(found: list[sequences.Sequence]) -> list[sequences.Sequence]:
    """Everybody's sequences, on every process in the same order."""
    if not several():
        return found
    return [one for packed in _gather(_pack(found)) for one in _unpack(packed)]


def whole(played: list[Trajectory], episodes: list[Episode], samples: int = 1) -> list[Trajectory]:
    """Everybody's trajectories, on every process in the order of `episodes`, of which each has played `mine`.

    samples: trajectories of each episode, next to each other.
    """
    if not several():
        return played
    parts = [iter(json.loads(part)) for part in _gather(json.dumps([_plain(one) for one in played]).encode())]
    return [
        _trajectory(episode, next(parts[n % len(parts)])) for n, episode in enumerate(episodes) for _ in range(samples)
    ]


def _gather(packed: bytes) -> list[bytes]:
    """What every process has packed, in their order."""
    row = np.frombuffer(packed, np.uint8)
    sizes = multihost_utils.process_allgather(np.array([len(row)])).ravel()
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[: len(row)] = row
    rows = multihost_utils.process_allgather(padded)
    return [row[:size].tobytes() for row, size in zip(rows, sizes, strict=True)]


def _plain(one: Trajectory) -> dict:
    """All of it but its episode, which every process has."""
    return {
        "prompt": [[message.role, message.content] for message in one.prompt],
        "turns": [dataclasses.asdict(turn) for turn in one.turns],
        "stop_reason": one.stop_reason,
        "scores": one.scores.tolist(),
    }


def _trajectory(episode: Episode, plain: dict) -> Trajectory:
    turns = tuple(Turn(**{**turn, "tokens": tuple(turn["tokens"])}) for turn in plain["turns"])
    prompt = tuple(Message(*message) for message in plain["prompt"])
    return Trajectory(episode, prompt, turns, plain["stop_reason"], np.array(plain["scores"], np.float64))


def _pack(found: Sequence[sequences.Sequence]) -> bytes:
    """As an npz without pickles."""
    arrays = {"names": np.array([[one.episode, one.family] for one in found], str).reshape(-1, 2)}
    for n, one in enumerate(found):
        arrays |= {f"{n}/{name}": value for name in _ARRAYS if (value := getattr(one, name)) is not None}
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def _unpack(packed: bytes) -> list[sequences.Sequence]:
    with np.load(io.BytesIO(packed), allow_pickle=False) as arrays:
        return [
            sequences.Sequence(
                **{name: arrays[f"{n}/{name}"] for name in _ARRAYS if f"{n}/{name}" in arrays},
                episode=str(episode),
                family=str(family),
            )
            for n, (episode, family) in enumerate(arrays["names"])
        ]
