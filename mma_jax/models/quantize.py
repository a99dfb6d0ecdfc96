"""int8 weights for a frozen Llama: one scale per output channel, activations as they were (MMA §4.1's 8-bit base).

w[i, o] = q[i, o] s[o] with q = round(w / s) in -127..127 and s[o] = max_i |w[i, o]| / 127. Since s depends on the
output alone, it multiplies the finished product: x w = (x q) s, and a matmul reads the int8 array, widened as it goes;
no floating-point copy of a whole weight is kept. An embedding has one scale per token, which serves a tied head too.

Norms, adapters and value head keep their dtype.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mma_jax.models.llama import Linear, Llama
from mma_jax.models.lora import TARGETS, LoRA

LIMIT = 127
SCALES = ".scales"  # how the path of a quantized weight's scales ends


def scales_of(weight: str) -> str:
    """Path of a quantized weight -> path of its scales."""
    return weight.rpartition(".")[0] + SCALES


class Int8Linear(nnx.Module):
    """A projection [inputs, outputs] without a bias, called like the `nnx.Linear` it replaces; as a head it answers in
    float32."""

    def __init__(self, kernel, scales, dtype, head: bool = False):
        self.kernel, self.scales = nnx.Param(kernel), nnx.Param(scales)  # int8 [inputs, outputs], float32 [outputs]
        self.in_features, self.out_features = kernel.shape
        self.dtype, self.head = dtype, head

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., inputs] -> [..., outputs]"""
        flat = x.reshape(-1, self.in_features).astype(self.dtype)
        y = product(flat, self.kernel[...]) * self.scales[...]
        return y.astype(jnp.float32 if self.head else self.dtype).reshape(*x.shape[:-1], self.out_features)

    def dequantized(self) -> nnx.Linear:
        """A plain projection with these weights, in `dtype`."""
        kinds = dict(use_bias=False, dtype=self.dtype, param_dtype=self.dtype)
        make = functools.partial(Linear, self.in_features, self.out_features, **kinds)
        linear = nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0)))
        linear.kernel.set_value((self.kernel[...] * self.scales[...]).astype(self.dtype))
        return linear


class Int8Embed(nnx.Module):
    """A table of token vectors, called like the `nnx.Embed` it replaces."""

    def __init__(self, embedding, scales, dtype):
        self.embedding, self.scales = nnx.Param(embedding), nnx.Param(scales)  # int8 [V, E], float32 [V]
        self.dtype = dtype

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """int [...] -> [..., E] in `dtype`"""
        rows = self.embedding[...][tokens].astype(jnp.float32) * self.scales[...][tokens][..., None]
        return rows.astype(self.dtype)

    def attend(self, hidden: jax.Array) -> jax.Array:
        """[..., E] -> float32 [..., V], the tied head"""
        return product(hidden.astype(self.dtype), self.embedding[...].T) * self.scales[...]


@jax.custom_vjp
def product(x: jax.Array, weight: jax.Array) -> jax.Array:
    """x [..., inputs] float and weight [inputs, outputs] int8 -> float32 [..., outputs].

    |q| <= 127 is exact in bfloat16, so the only rounding is that of x's own dtype. So it is backwards: left to itself,
    the product's float32 gradient would make a float32 matmul of it, at less than half the speed of a bfloat16 one.
    """
    return jnp.matmul(x, weight.astype(x.dtype), preferred_element_type=jnp.float32)


def _forward(x: jax.Array, weight: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return product(x, weight), (weight, jnp.zeros(0, x.dtype))


def _backward(kept: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, np.ndarray]:
    weight, like = kept
    back = jnp.matmul(gradient.astype(like.dtype), weight.astype(like.dtype).T, preferred_element_type=jnp.float32)
    return back.astype(like.dtype), np.zeros(weight.shape, jax.dtypes.float0)  # integers have no gradient


product.defvjp(_forward, _backward)


def to_int8(weight: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """(int8 of the same shape, float32 scales of the other axis); `axis` is summed over in the product."""
    weight = np.asarray(weight, np.float32)
    scale = np.abs(weight).max(axis) / LIMIT
    safe = np.where(scale > 0, scale, 1.0).astype(np.float32)  # an output of zeros stays one
    return np.rint(weight / np.expand_dims(safe, axis)).astype(np.int8), safe


def quantize(model: Llama) -> None:
    """Replace every projection, the embedding and an untied head by int8 ones, in place, one tensor at a time.

    Works on a model of shapes alone (`nnx.eval_shape`) too. Adapters stay on the projections they wrap.
    """
    embed = model.embed_tokens
    model.embed_tokens = Int8Embed(*_converted(embed.embedding.get_value(), 1), embed.dtype)
    if not model.config.tied:
        model.lm_head = _linear(model.lm_head, head=True)
    for block in model.layers:
        for name, half in TARGETS.items():
            owner = getattr(block, half)
            module = getattr(owner, name)
            if isinstance(module, LoRA):
                module.base = _linear(module.base)
            else:
                setattr(owner, name, _linear(module))


def _linear(linear: nnx.Linear, head: bool = False) -> Int8Linear:
    return Int8Linear(*_converted(linear.kernel.get_value(), 0), linear.dtype, head)


def _converted(weight, axis: int):
    if isinstance(weight, jax.ShapeDtypeStruct):
        scales = jax.ShapeDtypeStruct((weight.shape[1 - axis],), jnp.float32)
        return jax.ShapeDtypeStruct(weight.shape, jnp.int8), scales
    return tuple(map(jnp.asarray, to_int8(np.asarray(weight), axis)))
