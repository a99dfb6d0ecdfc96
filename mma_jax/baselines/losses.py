"""Losses that several baselines share."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def bpr(scores: jax.Array) -> jax.Array:
    """- ln sigma(chosen - other), mean over rows and others (Rendle et al., UAI 2009). scores: [Q, 1 + n], chosen
    first."""
    return jax.nn.softplus(scores[:, 1:] - scores[:, :1]).mean()


def squares(vectors: jax.Array) -> jax.Array:
    """Half the squared length of a row's vectors [Q, ..., D], mean over rows."""
    return 0.5 * jnp.square(vectors).sum() / len(vectors)
