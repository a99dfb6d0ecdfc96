"""The value head beside a Llama's language-model head, and the pair as PPO trains it."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from mma_jax.models.llama import Llama
from mma_jax.models.lora import add_lora


class ValueParam(nnx.Param):
    """A weight of the value head: a type of its own, so that it can have its own learning rate."""


class ValueHead(nnx.Module):
    """Two-layer MLP on the normalized hidden state, MMA §4.1: V = tanh(h w1 + b1) w2 + b2, in float32.

    tanh, because it did best among the value networks of Andrychowicz et al. 2021 (arXiv:2006.05990). The last layer
    starts at zero, so V = 0 before the first update (DESIGN §6.10).

    Args:
        width: E, of the hidden state.
        hidden: of the layer between.
        rngs: stream "params" draws w1 ~ N(0, 1 / E).
    """

    def __init__(self, width: int, hidden: int, rngs: nnx.Rngs):
        self.w1 = ValueParam(jax.random.normal(rngs.params(), (width, hidden), jnp.float32) * width**-0.5)
        self.b1 = ValueParam(jnp.zeros(hidden, jnp.float32))
        self.w2 = ValueParam(jnp.zeros(hidden, jnp.float32))
        self.b2 = ValueParam(jnp.zeros((), jnp.float32))

    def __call__(self, hidden: jax.Array) -> jax.Array:
        """[..., E] of any float dtype -> float32 [...]"""
        x = jnp.tanh(hidden.astype(jnp.float32) @ self.w1[...] + self.b1[...])
        return x @ self.w2[...] + self.b2[...]


class ActorCritic(nnx.Module):
    """A policy and its value function on one trunk.

    Args:
        model: the policy; give it its adapter (`lora.add_lora`) before or after.
        hidden: of the value head.
        rngs: stream "params".
    """

    def __init__(self, model: Llama, hidden: int, rngs: nnx.Rngs):
        self.model = model
        self.value = ValueHead(model.config.width, hidden, rngs)

    def values(self, hidden: jax.Array) -> jax.Array:
        """Hidden states [..., E] -> float32 [...]; no gradient flows back into the trunk (DESIGN §5.9)."""
        return self.value(jax.lax.stop_gradient(hidden))


def adapted(base: Llama, rank: int, alpha: float, targets: Sequence[str], hidden: int, seed: int) -> ActorCritic:
    """A frozen base with a new adapter and value head, in place; both say nothing yet.

    rank, alpha, targets: as `lora.add_lora` takes them; hidden: of the value head; seed: of what is drawn.
    """
    add_lora(base, rank, alpha, targets, nnx.Rngs(seed))
    return ActorCritic(base, hidden, nnx.Rngs(seed + 1))


TRAINABLE = nnx.Any(nnx.LoRAParam, ValueParam)
"""What fine-tuning changes: adapters and the value head. Everything else of an `ActorCritic` is frozen."""
