"""Parts that several baselines are built of."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from mma_jax.types import InputError


def network(inward: int, hidden: int, outward: int, rngs: nnx.Rngs) -> nnx.Sequential:
    """Two layers, ReLU between them."""
    return nnx.Sequential(nnx.Linear(inward, hidden, rngs=rngs), nnx.relu, nnx.Linear(hidden, outward, rngs=rngs))


def check_heads(name: str, config) -> None:
    """Raises InputError if the heads of a model's attention do not divide its `dim`."""
    if config.dim % config.heads:
        raise InputError(f"{name}.dim={config.dim} cannot be shared by {name}.heads={config.heads}; choose a multiple")


def unit_rows(vectors: jax.Array) -> jax.Array:
    """Rows [..., D] of length 1; zero stays zero, with a gradient that is finite."""
    return vectors * jax.lax.rsqrt(jnp.square(vectors).sum(axis=-1, keepdims=True) + 1e-12)
