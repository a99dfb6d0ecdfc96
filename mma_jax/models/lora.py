"""Low-rank adaptation (Hu et al. 2021, arXiv:2106.09685) as a wrapper around a projection, not an edit to the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from mma_jax.models.llama import Llama
from mma_jax.types import InputError

TARGETS = {
    "q_proj": "self_attn",
    "k_proj": "self_attn",
    "v_proj": "self_attn",
    "o_proj": "self_attn",
    "gate_proj": "mlp",
    "up_proj": "mlp",
    "down_proj": "mlp",
}
"""Projections that can carry an adapter -> the half of the block they are in."""


class LoRA(nnx.Module):
    """base(x) + (alpha / rank) x a b, without dropout; called like the `nnx.Linear` it wraps.

    The adapter starts as the identity: a ~ N(0, 1 / inputs) and b = 0, both float32 `nnx.LoRAParam`s, used in the
    dtype of the base's output.

    Args:
        base: the projection, [inputs, outputs] and without a bias to be adapted.
        rank: columns of `a`.
        alpha: the adapter is multiplied by alpha / rank.
        rngs: stream "params" draws `a`.
    """

    def __init__(self, base: nnx.Linear, rank: int, alpha: float, rngs: nnx.Rngs):
        self.base = base
        self.rank, self.scale = rank, alpha / rank
        a = jax.random.normal(rngs.params(), (base.in_features, rank), jnp.float32) * base.in_features**-0.5
        self.a = nnx.LoRAParam(a)
        self.b = nnx.LoRAParam(jnp.zeros((rank, base.out_features), jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., inputs] -> [..., outputs]"""
        y = self.base(x)
        a, b = self.a[...].astype(y.dtype), self.b[...].astype(y.dtype)
        return y + (x.astype(y.dtype) @ a @ b) * self.scale

    def merged(self) -> nnx.Linear:
        """The base, its kernel now kernel + (alpha / rank) a b; summed in float32, kept in the kernel's own dtype.

        A base of int8 becomes a plain one.
        """
        base = self.base if isinstance(self.base, nnx.Linear) else self.base.dequantized()
        kernel = base.kernel[...]
        update = jnp.matmul(self.a[...], self.b[...], precision="highest") * self.scale
        base.kernel.set_value((kernel.astype(jnp.float32) + update).astype(kernel.dtype))
        return base


def add_lora(model: Llama, rank: int, alpha: float, targets: Sequence[str], rngs: nnx.Rngs) -> None:
    """Wrap the projections named in `targets` in every block, in place.

    Raises:
        InputError: a target that no block has, no target at all, a rank below one.
    """
    if unknown := sorted(set(targets) - set(TARGETS)):
        raise InputError(f"lora: no projection named {', '.join(unknown)}; known: {', '.join(TARGETS)}")
    if not targets or rank < 1:
        raise InputError(f"lora: rank {rank} on {len(targets)} projections; give a rank >= 1 and at least one target")
    for block in model.layers:
        for name in dict.fromkeys(targets):
            half = getattr(block, TARGETS[name])
            setattr(half, name, LoRA(getattr(half, name), rank, alpha, rngs))


def merge_lora(model: Llama) -> None:
    """Fold every adapter into the projection it wraps, in place; the model is then a plain Llama, ready to be saved."""
    for layer, name, adapter in adapters(model):
        setattr(getattr(model.layers[layer], TARGETS[name]), name, adapter.merged())


def adapters(model: Llama) -> Iterator[tuple[int, str, LoRA]]:
    """(layer, projection, adapter) of all there are."""
    for layer, block in enumerate(model.layers):
        for name, half in TARGETS.items():
            module = getattr(getattr(block, half), name)
            if isinstance(module, LoRA):
                yield layer, name, module
