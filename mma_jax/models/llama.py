"""Llama 3 (Grattafiori et al. 2024, arXiv:2407.21783) as Flax NNX modules, with the semantics of public checkpoints.

Grouped-query attention, rotary positions with Llama 3.1's scaling, RMSNorm before each half of a block, SwiGLU, head
tied to the embedding or not. One layout of weights serves training and decoding: a list of blocks, not stacked arrays,
since a decoding step that reads slices of a stack copies them first.

B = batch, T = tokens, S = cache slots, E = width, H = query heads, K = key/value heads, D = head dimension,
V = vocabulary.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mma_jax.models import attention
from mma_jax.models.sharding import ROWS, keep


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Llama 3.1's stretching of slow rotations; the defaults are that checkpoint's."""

    factor: float = 8.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_length: int = 8192


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
    """Shape of a Llama. The defaults are Llama-3-8B's."""

    vocab_size: int = 128_256
    width: int = 4096
    layers: int = 32
    heads: int = 32
    kv_heads: int = 8
    head_dim: int = 128
    hidden: int = 14_336  # width inside the MLP
    rope_theta: float = 500_000.0
    rope_scaling: RopeScaling | None = None
    norm_epsilon: float = 1e-5
    tied: bool = False  # the head is the embedding


class Cache(NamedTuple):
    """Keys and values of one layer, [B, K, S, D] each; slots behind a row's length hold anything."""

    k: jax.Array
    v: jax.Array


def frequencies(config: LlamaConfig) -> np.ndarray:
    """Radians per position of each rotated pair, float32 [D / 2] (RoFormer §3.2; Llama 3.1's scaling)."""
    freq = config.rope_theta ** -(np.arange(0, config.head_dim, 2, dtype=np.float64) / config.head_dim)
    if (scaling := config.rope_scaling) is not None:
        turns = scaling.original_length * freq / (2 * math.pi)  # over the original context
        keep = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
        keep = np.clip(keep, 0.0, 1.0)
        freq = keep * freq + (1 - keep) * freq / scaling.factor
    return freq.astype(np.float32)


def rotate(x: jax.Array, position: jax.Array, freq: np.ndarray) -> jax.Array:
    """Rotate the pairs (i, i + D/2) of x [B, T, heads, D] by position [B, T] times their frequency."""
    angle = position[..., None].astype(jnp.float32) * freq
    cos, sin = jnp.cos(angle)[:, :, None], jnp.sin(angle)[:, :, None]
    left, right = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1).astype(x.dtype)


class Linear(nnx.Linear):
    """A matrix product over the last axis, all others flattened first: XLA:CPU's gradients are a third faster so."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return super().__call__(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)


class Head(nnx.Linear):
    """The untied language-model head."""

    def __call__(self, hidden: jax.Array) -> jax.Array:
        """[..., E] -> float32 [..., V]"""
        return jnp.matmul(hidden, self.kernel[...].astype(hidden.dtype), preferred_element_type=jnp.float32)


class Embed(nnx.Embed):
    """Token vectors, which a tied model's head compares with."""

    def attend(self, hidden: jax.Array) -> jax.Array:
        """[..., E] -> float32 [..., V]"""
        return jnp.matmul(hidden, self.embedding[...].astype(hidden.dtype).T, preferred_element_type=jnp.float32)


class Attention(nnx.Module):
    def __init__(self, config: LlamaConfig, dtype, param_dtype, rngs: nnx.Rngs):
        def linear(inputs: int, outputs: int) -> Linear:
            return Linear(inputs, outputs, use_bias=False, dtype=dtype, param_dtype=param_dtype, rngs=rngs)

        self.head_dim = config.head_dim
        self.q_proj = linear(config.width, config.heads * config.head_dim)
        self.k_proj = linear(config.width, config.kv_heads * config.head_dim)
        self.v_proj = linear(config.width, config.kv_heads * config.head_dim)
        self.o_proj = linear(config.heads * config.head_dim, config.width)

    def project(self, x: jax.Array, position: jax.Array, freq: np.ndarray) -> tuple[jax.Array, jax.Array, jax.Array]:
        """x [B, T, E] -> q [B, T, H, D], k and v [B, T, K, D], the first two rotated."""
        q, k, v = (p(x).reshape(*x.shape[:2], -1, self.head_dim) for p in (self.q_proj, self.k_proj, self.v_proj))
        q, k, v = (keep(heads, ROWS, None, "tensor", None) for heads in (q, k, v))
        return rotate(q, position, freq), rotate(k, position, freq), v

    def merge(self, heads: jax.Array) -> jax.Array:
        """[B, T, H, D] -> [B, T, E]"""
        return self.o_proj(heads.reshape(*heads.shape[:2], -1))


class MLP(nnx.Module):
    """SwiGLU (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, config: LlamaConfig, dtype, param_dtype, rngs: nnx.Rngs):
        def linear(inputs: int, outputs: int) -> Linear:
            return Linear(inputs, outputs, use_bias=False, dtype=dtype, param_dtype=param_dtype, rngs=rngs)

        self.gate_proj = linear(config.width, config.hidden)
        self.up_proj = linear(config.width, config.hidden)
        self.down_proj = linear(config.hidden, config.width)

    def __call__(self, x: jax.Array) -> jax.Array:
        gate, up = (keep(projection(x), ROWS, None, "tensor") for projection in (self.gate_proj, self.up_proj))
        return self.down_proj(jax.nn.silu(gate) * up)


class Block(nnx.Module):
    def __init__(self, config: LlamaConfig, dtype, param_dtype, rngs: nnx.Rngs):
        def norm() -> nnx.RMSNorm:
            return nnx.RMSNorm(
                config.width, epsilon=config.norm_epsilon, dtype=dtype, param_dtype=param_dtype, rngs=rngs
            )

        self.input_layernorm, self.post_attention_layernorm = norm(), norm()
        self.self_attn = Attention(config, dtype, param_dtype, rngs)
        self.mlp = MLP(config, dtype, param_dtype, rngs)

    def __call__(self, x: jax.Array, position: jax.Array, segments: jax.Array | None, freq: np.ndarray) -> jax.Array:
        q, k, v = self.self_attn.project(self.input_layernorm(x), position, freq)
        x = keep(x + self.self_attn.merge(attention.causal(q, k, v, segments)), ROWS, None, None)
        return keep(x + self.mlp(self.post_attention_layernorm(x)), ROWS, None, None)

    def extend(
        self, x: jax.Array, position: jax.Array, cache: Cache, freq: np.ndarray, first: bool
    ) -> tuple[jax.Array, Cache]:
        q, k, v = self.self_attn.project(self.input_layernorm(x), position, freq)
        cache = Cache(_write(cache.k, k, position[:, 0]), _write(cache.v, v, position[:, 0]))
        attended = attention.causal(q, k, v) if first else attention.cached(q, cache.k, cache.v, position)
        x = keep(x + self.self_attn.merge(attended), ROWS, None, None)
        return keep(x + self.mlp(self.post_attention_layernorm(x)), ROWS, None, None), cache


class Llama(nnx.Module):
    """The model without its task: tokens in, hidden states out; `logits` is the language-model head.

    Args:
        config: shape.
        rngs: stream "params" draws the weights.
        dtype: of activations and matrix products; logits, softmax and rotations are always float32.
        param_dtype: of weights.
    """

    def __init__(self, config: LlamaConfig, *, rngs: nnx.Rngs, dtype=jnp.float32, param_dtype=jnp.float32):
        self.config = config
        self.embed_tokens = Embed(config.vocab_size, config.width, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.layers = nnx.List([Block(config, dtype, param_dtype, rngs) for _ in range(config.layers)])
        self.norm = nnx.RMSNorm(
            config.width, epsilon=config.norm_epsilon, dtype=dtype, param_dtype=param_dtype, rngs=rngs
        )
        if not config.tied:
            self.lm_head = Head(
                config.width, config.vocab_size, use_bias=False, dtype=dtype, param_dtype=param_dtype, rngs=rngs
            )

    def __call__(
        self,
        tokens: jax.Array,
        position: jax.Array | None = None,
        segments: jax.Array | None = None,
        remat: bool = False,
    ) -> jax.Array:
        """Hidden states of whole sequences.

        Args:
            tokens: int32 [B, T], padded on the right with anything.
            position: int32 [B, T]; None counts from 0 in every row.
            segments: int32 [B, T] of packed rows (give `position` too), see `attention.causal`; None if a row is one
                sequence.
            remat: recompute each block in the backward pass instead of keeping its activations.

        Returns:
            [B, T, E], normalised, ready for `logits` or a value head.
        """
        return self.norm(self._streams(tokens, position, segments, remat)[-1])

    def depths(self, tokens: jax.Array) -> list[jax.Array]:
        """The residual stream before, between and after the blocks, each normalised as if it were the last: what the
        head reads there ("logit lens"). layers + 1 arrays [B, T, E]."""
        return [self.norm(x) for x in self._streams(tokens)]

    def _streams(self, tokens, position=None, segments=None, remat: bool = False) -> list[jax.Array]:
        if position is None:
            position = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        freq = frequencies(self.config)

        def apply(block: Block, x: jax.Array) -> jax.Array:
            return block(x, position, segments, freq)

        def recomputed(block: Block, x: jax.Array) -> jax.Array:
            # not nnx.remat: it writes back every weight, which a frozen one, of an outer trace, does not allow
            graph, state = nnx.split(block)
            return jax.checkpoint(lambda state, x: apply(nnx.merge(graph, state), x))(state, x)

        streams = [keep(self.embed_tokens(tokens), ROWS, None, None)]
        for block in self.layers:
            streams.append((recomputed if remat else apply)(block, streams[-1]))
        return streams

    def extend(
        self, tokens: jax.Array, length: jax.Array, caches: list[Cache], first: bool = False
    ) -> tuple[jax.Array, list[Cache]]:
        """Hidden states of tokens that continue cached rows.

        Args:
            tokens: int32 [B, T], padded on the right with anything.
            length: int32 [B], tokens already in each row's cache. length + T must not exceed S; what padding writes
                lies behind the row's new length and is overwritten by what comes next.
            caches: one per layer; donate them.
            first: every row's cache is empty (length 0): the tokens see one another alone, and no slot is read.

        Returns:
            [B, T, E], normalised, and the caches.
        """
        position = length[:, None] + jnp.arange(tokens.shape[1])
        freq, x, extended = frequencies(self.config), self.embed_tokens(tokens), []
        for block, cache in zip(self.layers, caches, strict=True):
            x, cache = block.extend(x, position, cache, freq, first)
            extended.append(cache)
        return self.norm(x), extended

    def logits(self, hidden: jax.Array) -> jax.Array:
        """[..., E] -> float32 [..., V]"""
        return self.embed_tokens.attend(hidden) if self.config.tied else self.lm_head(hidden)


def empty_caches(config: LlamaConfig, rows: int, slots: int, dtype=jnp.float32) -> list[Cache]:
    """One cache per layer for `rows` sequences of at most `slots` tokens."""
    shape = (rows, config.kv_heads, slots, config.head_dim)
    return [Cache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)) for _ in range(config.layers)]


def _write(cache: jax.Array, new: jax.Array, start: jax.Array) -> jax.Array:
    """Put new [B, T, K, D] into cache [B, K, S, D] from slot start[b] of row b on."""

    def row(cache: jax.Array, new: jax.Array, start: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_slice(cache, new.astype(cache.dtype), (0, start, 0))

    return jax.vmap(row)(cache, new.swapaxes(1, 2), start)
