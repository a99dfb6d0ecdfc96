"""Parts that several baselines are built of."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx


def network(inward: int, hidden: int, outward: int, rngs: nnx.Rngs) -> nnx.Sequential:
    """Two layers, ReLU between them."""
    return nnx.Sequential(nnx.Linear(inward, hidden, rngs=rngs), nnx.relu, nnx.Linear(hidden, outward, rngs=rngs))


def unit_rows(vectors: jax.Array) -> jax.Array:
    """Rows [..., D] of length 1; zero stays zero, with a gradient that is finite."""
    return vectors * jax.lax.rsqrt(jnp.square(vectors).sum(axis=-1, keepdims=True) + 1e-12)
