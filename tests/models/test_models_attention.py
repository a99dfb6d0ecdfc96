"""Attention against a softmax written out in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mma_jax.models import attention

causal, cached = jax.jit(attention.causal), jax.jit(attention.cached)


def brute_force(q, k, v, visible):
    """q [B, T, H, D], k and v [B, S, K, D], visible [B, T, S] -> [B, T, H, D], one query of one head at a time."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    out = np.zeros(q.shape)
    for row, head in np.ndindex(q.shape[0], q.shape[2]):
        shared = head // (q.shape[2] // k.shape[2])
        for t in range(q.shape[1]):
            seen = np.flatnonzero(visible[row, t])
            score = k[row, seen, shared] @ q[row, t, head] / np.sqrt(q.shape[3])
            weight = np.exp(score - score.max())
            out[row, t, head] = weight @ v[row, seen, shared] / weight.sum()
    return out


def inputs(batch, length, heads, kv_heads, slots=None, dim=8, seed=0):
    """Queries large enough for the softmax to be far from uniform."""
    rng = np.random.default_rng(seed)
    q = 2 * rng.standard_normal((batch, length, heads, dim), np.float32)
    k, v = rng.standard_normal((2, batch, slots or length, kv_heads, dim), np.float32)
    return q, k, v


def lower_triangle(batch, length):
    return np.broadcast_to(np.tri(length, dtype=bool), (batch, length, length))


@pytest.mark.parametrize("length", [1, 5, 127, 128, 129, 300])
def test_causal_equals_brute_force_at_block_boundaries(length):
    q, k, v = inputs(batch=2, length=length, heads=4, kv_heads=2)
    expected = brute_force(q, k, v, lower_triangle(2, length))
    np.testing.assert_allclose(causal(q, k, v), expected, atol=1e-5)


@pytest.mark.parametrize("heads, kv_heads", [(3, 3), (4, 1), (6, 2)])
def test_query_heads_share_keys_in_order(heads, kv_heads):
    q, k, v = inputs(batch=2, length=9, heads=heads, kv_heads=kv_heads)
    expected = brute_force(q, k, v, lower_triangle(2, 9))
    np.testing.assert_allclose(causal(q, k, v), expected, atol=1e-5)


@pytest.mark.parametrize("length", [129, 700])
def test_causal_takes_larger_blocks_on_an_accelerator_and_sees_the_same(length, monkeypatch):
    q, k, v = inputs(batch=1, length=length, heads=2, kv_heads=1)
    segments = np.arange(length)[None].astype(np.int32) // 450
    expected = [attention.causal(q, k, v), attention.causal(q, k, v, segments)]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    np.testing.assert_allclose(attention.causal(q, k, v), expected[0], atol=1e-5)
    np.testing.assert_allclose(attention.causal(q, k, v, segments), expected[1], atol=1e-5)


def test_segments_do_not_see_each_other():
    length = 140  # the second segment begins in one block of queries and ends in the next
    q, k, v = inputs(batch=2, length=length, heads=2, kv_heads=1)
    segments = np.zeros((2, length), np.int32)
    segments[0, 100:], segments[1, 3:130], segments[1, 130:] = 1, 1, 2
    visible = lower_triangle(2, length) & (segments[:, :, None] == segments[:, None, :])
    np.testing.assert_allclose(causal(q, k, v, segments), brute_force(q, k, v, visible), atol=1e-5)


@pytest.mark.parametrize("length", [1, 2, 7, 130])
def test_cached_equals_brute_force(length):
    slots = 150
    q, k, v = inputs(batch=3, length=length, heads=4, kv_heads=2, slots=slots)
    position = np.array([[0], [5], [20]]) + np.arange(length)
    visible = np.arange(slots) <= position[:, :, None]
    found = cached(q, k.swapaxes(1, 2), v.swapaxes(1, 2), position)
    np.testing.assert_allclose(found, brute_force(q, k, v, visible), atol=1e-5)


@pytest.mark.parametrize("length", [1, 2])
def test_few_queries_see_the_same_on_an_accelerator(length, monkeypatch):
    q, k, v = inputs(batch=3, length=length, heads=6, kv_heads=2, slots=40)
    position = np.array([[0], [17], [38]]) + np.arange(length)
    arguments = q, k.swapaxes(1, 2), v.swapaxes(1, 2), position
    expected = attention.cached(*arguments)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    np.testing.assert_allclose(attention.cached(*arguments), expected, atol=1e-6)


def test_gradients_equal_those_of_a_plain_softmax():
    q, k, v = inputs(batch=2, length=135, heads=2, kv_heads=2)
    pull = np.random.default_rng(1).standard_normal(q.shape, np.float32)

    def plain(q, k, v):
        score = jnp.einsum("bthd,bshd->bhts", q, k) / np.sqrt(q.shape[3])
        score = jnp.where(np.tri(135, dtype=bool), score, -jnp.inf)
        return jnp.sum(jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(score), v) * pull)

    found = jax.jit(jax.grad(lambda *x: jnp.sum(causal(*x) * pull), argnums=(0, 1, 2)))(q, k, v)
    for ours, theirs in zip(found, jax.jit(jax.grad(plain, argnums=(0, 1, 2)))(q, k, v), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


def test_scores_far_beyond_the_exponential_stay_finite():
    q, k, v = inputs(batch=1, length=6, heads=1, kv_heads=1)
    found = causal(1000 * q, k, v)
    np.testing.assert_allclose(found, brute_force(1000 * q, k, v, lower_triangle(1, 6)), atol=1e-3)


def test_a_query_that_sees_nothing_gives_numbers():
    q, k, v = inputs(batch=1, length=1, heads=2, kv_heads=1, slots=4)
    assert np.isfinite(cached(q, k.swapaxes(1, 2), v.swapaxes(1, 2), np.array([[-1]]))).all()


def test_bfloat16_in_and_out():
    q, k, v = (jnp.asarray(x, jnp.bfloat16) for x in inputs(batch=2, length=20, heads=2, kv_heads=1))
    found = causal(q, k, v)
    assert found.dtype == jnp.bfloat16
    expected = brute_force(*(np.asarray(x, np.float32) for x in (q, k, v)), lower_triangle(2, 20))
    np.testing.assert_allclose(np.asarray(found, np.float32), expected, atol=0.03)


def test_no_array_of_all_pairs_exists():
    q, k, v = inputs(batch=1, length=512, heads=2, kv_heads=1)
    program = str(jax.make_jaxpr(jax.grad(lambda q: causal(q, k, v).sum()))(q))
    assert "256,512]" in program  # a block's scores, both heads of the group
    assert "512,512]" not in program and "1024,512]" not in program
