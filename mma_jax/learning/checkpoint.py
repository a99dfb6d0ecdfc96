"""Checkpoints of everything a run needs to go on as if it had never stopped (DESIGN §6.13, §6.16).

Orbax writes a checkpoint under a temporary name and renames it when it is whole, so one that was cut short is never
picked up. A log that is only appended to is continued from the length that the checkpoint remembers.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp

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
        policies = ocp.checkpoint_managers
        last_and_best = policies.AnyPreservationPolicy(
            [
                policies.LatestN(keep),
                policies.BestN(get_metric_fn=_figure, n=1),
            ]
        )
        self._manager = ocp.CheckpointManager(
            self.directory,
            item_handlers={"arrays": ocp.StandardCheckpointHandler(), "extra": ocp.JsonCheckpointHandler()},
            options=ocp.CheckpointManagerOptions(
                preservation_policy=last_and_best,
                best_fn=_figure,
                cleanup_tmp_directories=True,
                enable_async_checkpointing=False,
            ),
        )

    def save(self, step: int, arrays: Any, extra: dict, figure: float | None = None) -> None:
        """Returns when the checkpoint is on disk.

        Args:
            step: larger than any before.
            arrays: a pytree of arrays.
            extra: anything JSON can hold.
            figure: how good it is, larger is better; None if that was not measured.
        """
        self._manager.save(
            step,
            args=ocp.args.Composite(arrays=ocp.args.StandardSave(_named(arrays)), extra=ocp.args.JsonSave(extra)),
            metrics={"figure": -math.inf if figure is None else float(figure)},
        )

    def latest(self, template: Tree) -> tuple[int, Tree, dict] | None:
        """(step, arrays, extra) of the last checkpoint, or None.

        Args:
            template: a pytree with the structure, shapes, dtypes and shardings that `arrays` had.

        Raises:
            InputError: the checkpoint is of something else.
        """
        step = self._manager.latest_step()
        return None if step is None else self._restore(step, template)

    def best(self, template: Tree) -> tuple[int, Tree, dict] | None:
        """Like `latest`, of the checkpoint with the largest figure; None if none was given one."""
        step = self._manager.best_step()
        unmeasured = step is None or _figure(self._manager.metrics(step)) == -math.inf
        return None if unmeasured else self._restore(step, template)

    def close(self) -> None:
        self._manager.close()

    def _restore(self, step: int, template: Tree) -> tuple[int, Tree, dict]:
        named = {name: ocp.tree.to_shape_dtype_struct(leaf) for name, leaf in _named(template).items()}
        stored = self._manager.item_metadata(step)["arrays"].tree
        if _shapes(stored) != _shapes(named):
            raise InputError(f"the checkpoint in {self.directory} is of another model or optimizer: use a new workdir")
        args = ocp.args.Composite(arrays=ocp.args.StandardRestore(named), extra=ocp.args.JsonRestore())
        found = self._manager.restore(step, args=args)
        leaves = [found["arrays"][name] for name in named]  # `restore` sorts by name
        return step, jax.tree.unflatten(jax.tree.structure(template), leaves), found["extra"]


def _figure(metrics: dict[str, float]) -> float:
    return metrics["figure"]


def _named(tree: Any) -> dict[str, Any]:
    """Leaves by their path: what is on disk does not depend on the classes that held them."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _shapes(named: dict[str, Any]) -> dict[str, tuple]:
    return {name: (tuple(leaf.shape), leaf.dtype) for name, leaf in named.items()}
