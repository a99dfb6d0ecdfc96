"""Attention with grouped queries (Ainslie et al. 2023, arXiv:2305.13245), causal, over a sequence or over a cache.

B = batch, T = query tokens, S = cache slots, H = query heads, K = key/value heads, G = H / K, D = head dimension.

Written as contiguous batched matmuls over blocks of queries, the softmax's division left to the end, because XLA:CPU
is four times faster on these than on `jax.nn.dot_product_attention` (forward and backward, B=16, T=640, H=4), and no
B x H x T x T array ever exists.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

BLOCK = 128  # queries at a time
FEW = 2  # queries that XLA:CPU is faster on one by one: at 1,536 slots two take 57 ms for 80, four 110 for 90
LARGE = 512  # on an accelerator, over a sequence: every block's matmuls have a shape of their own, compiled and tuned
SHARED = -1  # the segment that all others read
_NEVER = -1e30  # finite, so that a row without a single visible key gives numbers, not nan


def causal(q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array | None = None) -> jax.Array:
    """Every token attends to itself and to what precedes it in its segment and in the segment SHARED.

    Args:
        q: [B, T, H, D]. k, v: [B, T, K, D].
        segments: int32 [B, T], which packed sequence a token belongs to, or SHARED; None if a row is one sequence.
            Padding on the right needs no mask: nothing before it can see it.

    Returns:
        [B, T, H, D] in the dtype of `v`.
    """
    length, block = q.shape[1], BLOCK if jax.default_backend() == "cpu" else LARGE
    q, k, v = _by_group(q, k.shape[2]), k.swapaxes(1, 2), v.swapaxes(1, 2)
    position = jnp.arange(length)
    blocks = []
    for start in range(0, length, block):
        end = min(start + block, length)
        visible = position[start:end, None] >= position[:end]
        if segments is not None:
            theirs = segments[:, None, :end]
            visible = visible & ((segments[:, start:end, None] == theirs) | (theirs == SHARED))
        visible = jnp.broadcast_to(visible, (q.shape[0], end - start, end))
        blocks.append(_attend(q[:, :, :, start:end], k[:, :, :end], v[:, :, :end], visible))
    return _by_token(jnp.concatenate(blocks, axis=3))


def cached(q: jax.Array, k: jax.Array, v: jax.Array, position: jax.Array) -> jax.Array:
    """Every token attends to the cache's slots up to its own.

    Args:
        q: [B, T, H, D]. k, v: [B, K, S, D], in which the T tokens themselves have been written.
        position: int32 [B, T], the slot of each token.

    Returns:
        [B, T, H, D] in the dtype of `v`.
    """
    q, slots, blocks = _by_group(q, k.shape[1]), jnp.arange(k.shape[2]), []
    few = q.shape[3] <= FEW and jax.default_backend() == "cpu"
    attend, block = (_attend_one, 1) if few else (_attend, BLOCK)
    for start in range(0, q.shape[3], block):
        end = min(start + block, q.shape[3])
        blocks.append(attend(q[:, :, :, start:end], k, v, slots <= position[:, start:end, None]))
    return _by_token(jnp.concatenate(blocks, axis=3))


def _by_group(q: jax.Array, kv_heads: int) -> jax.Array:
    """[B, T, H, D] -> [B, K, G, T, D]"""
    batch, length, heads, dim = q.shape
    return q.reshape(batch, length, kv_heads, heads // kv_heads, dim).transpose(0, 2, 3, 1, 4)


def _by_token(x: jax.Array) -> jax.Array:
    """[B, K, G, T, D] -> [B, T, H, D]"""
    batch, kv_heads, groups, length, dim = x.shape
    return x.transpose(0, 3, 1, 2, 4).reshape(batch, length, kv_heads * groups, dim)


def _attend(q: jax.Array, k: jax.Array, v: jax.Array, visible: jax.Array) -> jax.Array:
    """q [B, K, G, t, D], k and v [B, K, S, D], visible bool [B, t, S] -> [B, K, G, t, D]. The softmax is in fp32."""
    batch, kv_heads, groups, length, dim = q.shape
    rows = q.reshape(batch, kv_heads, groups * length, dim)
    logits = jnp.matmul(rows, k.swapaxes(-1, -2), preferred_element_type=jnp.float32) * dim**-0.5
    mask = jnp.broadcast_to(visible[:, None, None], (batch, 1, groups, length, k.shape[2]))
    logits = jnp.where(mask.reshape(batch, 1, groups * length, -1), logits, _NEVER)
    weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True)))
    summed = jnp.matmul(weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return (summed / weights.sum(-1, keepdims=True)).astype(v.dtype).reshape(q.shape)


def _attend_one(q: jax.Array, k: jax.Array, v: jax.Array, visible: jax.Array) -> jax.Array:
    """`_attend` for a single query, visible bool [B, 1, S]. XLA:CPU is twice as fast on products of a matrix with a
    vector than on those with a few of them, though keys and values are then read once for each query head."""
    heads = []
    for group in range(q.shape[2]):
        logits = (
            jnp.matmul(k, q[:, :, group].swapaxes(-1, -2), preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
        )
        logits = jnp.where(visible[:, None], logits.swapaxes(-1, -2), _NEVER)
        weights = jnp.exp(logits - logits.max(-1, keepdims=True))
        summed = jnp.matmul(weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
        heads.append((summed / weights.sum(-1, keepdims=True)).astype(v.dtype))
    return jnp.stack(heads, axis=2)
