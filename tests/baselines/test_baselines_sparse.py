"""Sparse products beside dense ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mma_jax.baselines.sparse import sparse

SHAPE = 7, 5


@pytest.fixture(scope="module")
def dense():
    """float32 [7, 5]; the third row and the last column have no entry."""
    rng = np.random.default_rng(0)
    table = rng.normal(size=SHAPE).astype(np.float32) * (rng.random(SHAPE) < 0.4)
    table[2], table[:, -1] = 0, 0
    return table


@pytest.fixture(scope="module")
def matrix(dense):
    places = np.random.default_rng(1).permutation(np.argwhere(dense))  # in any order
    return sparse(*places.T, dense[*places.T], SHAPE)


def test_products_and_those_of_the_transpose(matrix, dense):
    right, left = np.random.default_rng(2).normal(size=(5, 3)), np.random.default_rng(3).normal(size=(7, 3))
    np.testing.assert_allclose(matrix @ jnp.asarray(right, jnp.float32), dense @ right, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(matrix.T @ jnp.asarray(left, jnp.float32), dense.T @ left, rtol=1e-5, atol=1e-6)


def test_the_gradient_is_that_of_a_dense_product(matrix, dense):
    right = jnp.asarray(np.random.default_rng(2).normal(size=(5, 3)), jnp.float32)
    found = jax.jit(jax.grad(lambda right: jnp.sin(matrix @ right).sum()))(right)
    np.testing.assert_allclose(found, jax.grad(lambda right: jnp.sin(dense @ right).sum())(right), rtol=1e-4, atol=1e-6)
    turned = jax.jit(jax.grad(lambda left: jnp.sin(matrix.T @ left).sum()))(jnp.asarray(dense[:, :3]))
    wanted = jax.grad(lambda left: jnp.sin(dense.T @ left).sum())(jnp.asarray(dense[:, :3]))
    np.testing.assert_allclose(turned, wanted, rtol=1e-4, atol=1e-6)


def test_its_gradient_scatters_nothing(matrix):
    program = jax.jit(jax.grad(lambda right: jnp.sin(matrix @ right).sum())).lower(jnp.ones((5, 3))).as_text()
    assert "scatter" not in program
