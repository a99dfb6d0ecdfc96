"""Checkpoints of everything a run needs to go on as if it had never stopped (DESIGN §6.13, §6.16).

Orbax writes a checkpoint under a temporary name, renames it when it is whole and only then deletes an older one, so
one that was cut short, by a kill or by a full disk, is never picked up and costs none of the others. A kill during that
deletion leaves a part of an older one: it is not picked up either, and goes with the next save. A log that is only
appended to is continued from the length that the checkpoint remembers.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import jax
from orbax.checkpoint import v1 as ocp

from mma_jax.types import InputError

Tree = TypeVar("Tree")


class Checkpoints:
    """The checkpoints of one run: its last ones, and its best by a validation figure.

    Args:
        directory: theirs alone; made when needed.
        keep: how many of the last ones to keep.
    """

    def __init__(self, directory: Path | str, keep: int):
        self.directory = Path(directory).absolute()
        policies = ocp.training.preservation_policies
        best = policies.BestN(get_metric_fn=_figure, n=1, keep_checkpoints_without_metrics=False)
        context = ocp.Context()
        context.checkpointables.registry = ocp.handlers.local_registry()
        context.checkpointables.registry.add(ocp.handlers.JsonHandler, checkpointable_name="extra")
        self._checkpointer = ocp.training.Checkpointer(
            self.directory,
            context=context,
            preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(keep), best]),
            cleanup_tmp_directories=True,
        )

    def save(self, step: int, arrays: Any, extra: dict, figure: float | None = None) -> None:
        """Returns when the checkpoint is on disk.

        Args:
            step: larger than any before.
            arrays: a pytree of arrays.
            extra: anything JSON can hold.
            figure: how good it is, larger is better; None if that was not measured.

        Raises:
            OSError: the disk is full or the like; the checkpoints before this one are as they were.
        """
        parts = {"arrays": _named(arrays), "extra": extra}
        metrics = {"figure": -math.inf if figure is None else float(figure)}
        try:
            with _without_tracebacks():
                self._checkpointer.save_checkpointables(step, parts, force=True, metrics=metrics)
        except Exception as error:
            self._recover()
            if (code := _disk_error(error)) is None:
                raise
            raise OSError(code, os.strerror(code), str(self.directory)) from error

    @property
    def step(self) -> int:
        """Of the last checkpoint; 0 before the first."""
        found = self._checkpointer.latest
        return 0 if found is None else found.step

    def latest(self, template: Tree) -> tuple[int, Tree, dict] | None:
        """(step, arrays, extra) of the last checkpoint, or None.

        Args:
            template: a pytree with the structure, shapes, dtypes and shardings that `arrays` had.

        Raises:
            InputError: the checkpoint is of something else.
        """
        found = self._checkpointer.latest
        return None if found is None else self._load(found.step, template)

    def best(self, template: Tree) -> tuple[int, Tree, dict] | None:
        """Like `latest`, of the checkpoint with the largest figure; None if none was given one."""
        measured = [one for one in self._checkpointer.checkpoints if _figure(one.metrics) > -math.inf]
        found = max(measured, key=lambda one: (_figure(one.metrics), one.step), default=None)
        return None if found is None else self._load(found.step, template)

    def close(self) -> None:
        self._checkpointer.close()

    def _recover(self) -> None:
        """After a failed save: have it raised to the end, or the next call would raise it again; look what is there."""
        with _without_tracebacks(), contextlib.suppress(Exception):
            self._checkpointer.wait()
        self._checkpointer.reload()

    def _load(self, step: int, template: Tree) -> tuple[int, Tree, dict]:
        named = {name: _abstract(leaf) for name, leaf in _named(template).items()}
        stored = self._checkpointer.checkpointables_metadata(step).metadata["arrays"]
        if _shapes(stored) != _shapes(named):
            raise InputError(f"the checkpoint in {self.directory} is of another model or optimizer: use a new workdir")
        found = self._checkpointer.load_checkpointables(step, {"arrays": named, "extra": None})
        leaves = [found["arrays"][name] for name in named]  # they come sorted by name
        return step, jax.tree.unflatten(jax.tree.structure(template), leaves), found["extra"]


def room(arrays: Any, keep: int) -> int:
    """Bytes that `Checkpoints(directory, keep)` takes at most: the last ones, the best, and the one being written.

    arrays: a pytree of arrays, or of their shapes.
    """
    return (keep + 2) * sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(arrays))


@contextlib.contextmanager
def _without_tracebacks() -> Iterator[None]:
    """Orbax's threads log tracebacks of what Orbax raises anyway; inside, these are left out."""

    def plain(record: logging.LogRecord) -> bool:
        return not record.exc_info

    logger = logging.getLogger("absl")
    logger.addFilter(plain)
    try:
        yield
    finally:
        logger.removeFilter(plain)


def _disk_error(error: BaseException | None) -> int | None:
    """The number of the operating system's error behind an exception; TensorStore has it in its text alone."""
    while error is not None:
        if isinstance(error, OSError) and error.errno:
            return error.errno
        if found := re.search(r"os_error_code='(\d+)'", str(error)):
            return int(found[1])
        error = error.__cause__ or error.__context__
    return None


def _figure(metrics: dict[str, float] | None) -> float:
    return -math.inf if metrics is None else metrics["figure"]  # None: half deleted


def _named(tree: Any) -> dict[str, Any]:
    """Leaves by their path: what is on disk does not depend on the classes that held them."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _abstract(leaf: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def _shapes(named: dict[str, Any]) -> dict[str, tuple]:
    return {name: (tuple(leaf.shape), leaf.dtype) for name, leaf in named.items()}
