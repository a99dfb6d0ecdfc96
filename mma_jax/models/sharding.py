"""One mesh for weights, optimizer, batches and caches: axes data, fsdp and tensor.

    data     rows of a batch; weights are the same everywhere
    fsdp     rows of a batch, and one side of every weight matrix (ZeRO-3, Rajbhandari et al. 2020)
    tensor   the other side: heads, the MLP's width, the vocabulary (Shoeybi et al. 2019)

Arrays are placed once; the compiler then moves what a computation needs (GSPMD, Xu et al. 2021), told by `keep` that
activations stay with their rows: left alone it adds up partial products of all rows on every device rather than gather
a weight. An axis that does not divide a dimension is left out for that array, so every shape has a place.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from mma_jax.types import InputError

AXES = ("data", "fsdp", "tensor")
ROWS = ("data", "fsdp")
"""Axes that a batch's rows are split over."""

_COLUMNS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "lm_head")  # [E, outputs]: outputs are split
_BACK = ("o_proj", "down_proj")  # [inputs, E]: what the columns made comes together again

Tree = TypeVar("Tree")


def make_mesh(data: int = 1, fsdp: int = 1, tensor: int = 1, devices=None) -> Mesh:
    """A mesh of the given sizes over all devices of all hosts; one size may be -1, for what is left.

    Raises:
        InputError: the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [data, fsdp, tensor]
    if sizes.count(-1) == 1:
        known = -math.prod(sizes)
        sizes[sizes.index(-1)] = len(devices) // known if known > 0 and len(devices) % known == 0 else 0
    if min(sizes) < 1 or math.prod(sizes) != len(devices):
        asked = ", ".join(f"{axis}={size}" for axis, size in zip(AXES, (data, fsdp, tensor), strict=True))
        raise InputError(f"config.mesh asks for {asked}; there are {len(devices)} devices: make them multiply to it")
    return Mesh(np.asarray(devices).reshape(sizes), AXES)


def spec(path: str, shape: tuple[int, ...]) -> tuple:
    """Axes of each dimension of a parameter, by its dotted path; of an adapter and its moments too."""
    names = path.split(".")
    if "embed_tokens" in names:
        return ("tensor", "fsdp")[: len(shape)]
    across = next((("fsdp", "tensor") for name in _COLUMNS if name in names), None)
    across = across or next((("tensor", "fsdp") for name in _BACK if name in names), None)
    if across is None or not shape:
        return (None,) * len(shape)
    if len(shape) == 1:  # scales of the outputs
        return (across[1],)
    if "a" in names[-2:]:
        return (across[0], None)
    if "b" in names[-2:]:
        return (None, across[1])
    return across


def fitted(axes: tuple, shape: tuple[int, ...], mesh: Mesh | AbstractMesh) -> NamedSharding:
    """The sharding, without the axes that do not divide their dimension."""

    def divides(axis, size: int) -> bool:
        names = axis if isinstance(axis, tuple) else (axis,)
        return size % math.prod(mesh.shape[name] for name in names) == 0

    kept = [axis if axis and divides(axis, size) else None for axis, size in zip(axes, shape, strict=True)]
    return NamedSharding(mesh, PartitionSpec(*kept))


def keep(x: jax.Array, *axes) -> jax.Array:
    """x, of which the compiler is told how it is split, if the program is for a mesh (`Placement.program`)."""
    mesh = jax.sharding.get_abstract_mesh()
    return x if mesh.empty else jax.lax.with_sharding_constraint(x, fitted(axes, x.shape, mesh))


def of_weights(tree: Tree, mesh: Mesh) -> Tree:
    """The sharding of every leaf of parameters, an optimizer's state, or a state that holds both."""

    def of(path, leaf) -> NamedSharding:
        return fitted(spec(jax.tree_util.keystr(path, simple=True, separator="."), leaf.shape), leaf.shape, mesh)

    return jax.tree_util.tree_map_with_path(of, tree)


def of_rows(tree: Tree, mesh: Mesh) -> Tree:
    """The sharding of arrays whose first dimension is a batch's rows; numbers are everywhere."""

    def of(leaf) -> NamedSharding:
        shape = np.shape(leaf)
        return fitted((ROWS, *[None] * len(shape))[: len(shape)], shape, mesh)

    return jax.tree.map(of, tree)


class Placement:
    """Puts a run's arrays on a mesh, and fetches them back; on a single device it leaves them alone.

    Every host holds what it puts as a whole, equal to that of the others, and gives its devices their parts.

    mesh: None for the devices' default.
    """

    def __init__(self, mesh: Mesh | None = None):
        self.mesh = mesh if mesh is not None and mesh.size > 1 else None

    def parameter(self, path: str, array: np.ndarray) -> jax.Array:
        """One parameter by its dotted path, as `convert.load_llama` reads it."""
        if self.mesh is None:
            return jnp.asarray(array)
        return _put(array, fitted(spec(path, array.shape), array.shape, self.mesh))

    def weights(self, tree: Tree) -> Tree:
        """What `of_weights` knows."""
        return tree if self.mesh is None else jax.tree.map(_put, tree, of_weights(tree, self.mesh))

    def program(self, function: Callable) -> Callable:
        """The function, traced for the mesh."""
        if self.mesh is None:
            return function

        @functools.wraps(function)
        def traced(*args, **kwargs):
            with jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh):
                return function(*args, **kwargs)

        return traced

    def rows(self, tree: Tree) -> Tree:
        """What `of_rows` knows."""
        return tree if self.mesh is None else jax.tree.map(_put, tree, of_rows(tree, self.mesh))

    def fetch(self, tree: Tree) -> Tree:
        """Whole arrays as numpy, on every host; all hosts must ask."""
        if self.mesh is None or jax.process_count() == 1:
            return jax.device_get(tree)
        return multihost_utils.process_allgather(tree, tiled=True)


def _put(leaf, where: NamedSharding) -> jax.Array:
    if isinstance(leaf, jax.Array) and leaf.sharding.is_equivalent_to(where, leaf.ndim):
        return leaf  # no host may hold it as a whole
    array = np.asarray(leaf)
    return jax.make_array_from_callback(array.shape, where, lambda index: array[index])


HERE = Placement()
"""On one device."""
