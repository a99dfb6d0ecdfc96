"""Several processes, one run: each plays its own share of the episodes, all make the same updates, one writes.

Training steps are one program over all devices. Rollouts are not: episodes end when they end, and loops of different
lengths would wait for each other forever, so every process plays on its own devices.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils

from mma_jax.learning import sequences
from mma_jax.types import InputError

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


def first() -> bool:
    """Whether this process writes files."""
    return jax.process_index() == 0


def alone(work: Callable[[], None], name: str) -> None:
    """The first process works, the others wait. If it fails, they end with it."""
    if first():
        work()
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def mine(items: list) -> list:
    """This process's share."""
    return items[jax.process_index() :: jax.process_count()]


def share(found: list[sequences.Sequence]) -> list[sequences.Sequence]:
    """Everybody's sequences, on every process in the same order."""
    if jax.process_count() == 1:
        return found
    packed = np.frombuffer(_pack(found), np.uint8)
    sizes = multihost_utils.process_allgather(np.array([len(packed)]))
    longest = np.zeros(int(sizes.max()), np.uint8)
    longest[: len(packed)] = packed
    gathered = multihost_utils.process_allgather(longest)
    return [one for row, size in zip(gathered, sizes.ravel(), strict=True) for one in _unpack(row[:size].tobytes())]


def mean(figures: dict[str, float]) -> dict[str, float]:
    """Means over processes of figures that all of them have."""
    if jax.process_count() == 1:
        return figures
    values = multihost_utils.process_allgather(np.array(list(figures.values()), np.float64))
    return dict(zip(figures, values.mean(0).tolist(), strict=True))


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
