"""DESIGN §6.10 and §5.9: the value starts at zero and teaches the trunk nothing."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mma_jax.models import heads, lora
from mma_jax.models.llama import Llama, LlamaConfig

SMALL = LlamaConfig(vocab_size=31, width=16, layers=1, heads=4, kv_heads=2, head_dim=6, hidden=20)
TOKENS = np.random.default_rng(0).integers(0, 31, (2, 9)).astype(np.int32)


def agent():
    model = Llama(SMALL, rngs=nnx.Rngs(0))
    lora.add_lora(model, 3, 6.0, ("q_proj", "v_proj"), nnx.Rngs(1))
    return heads.ActorCritic(model, hidden=10, rngs=nnx.Rngs(2))


def perturbed(state):
    """Every weight as after training: no longer zero."""
    rng = np.random.default_rng(3)
    return jax.tree.map(lambda x: x + 0.3 * rng.standard_normal(x.shape).astype(np.float32), state)


def hidden_states(*shape):
    return np.random.default_rng(4).standard_normal((*shape, 16), np.float32)


def test_value_head_starts_at_zero():
    head = heads.ValueHead(16, 10, nnx.Rngs(0))
    np.testing.assert_array_equal(head(100 * hidden_states(3, 5)), np.zeros((3, 5)))
    assert np.abs(head.w1[...]).max() > 0  # or it could never leave zero


def test_formula():
    head = heads.ValueHead(16, 10, nnx.Rngs(0))
    nnx.update(head, perturbed(nnx.state(head)))
    w1, b1, w2, b2 = (np.asarray(x[...], np.float64) for x in (head.w1, head.b1, head.w2, head.b2))
    x = hidden_states(3, 5)
    np.testing.assert_allclose(head(x), np.tanh(x @ w1 + b1) @ w2 + b2, atol=1e-5)
    assert head(x[0, 0]).shape == ()


def test_head_computes_in_float32_whatever_comes():
    head = heads.ValueHead(16, 10, nnx.Rngs(0))
    nnx.update(head, perturbed(nnx.state(head)))
    rough = jnp.asarray(hidden_states(7), jnp.bfloat16)
    assert head(rough).dtype == jnp.float32
    np.testing.assert_allclose(head(rough), head(np.asarray(rough, np.float32)), rtol=1e-6)


def test_value_gradient_stays_in_the_head():
    """Also once nothing is zero any more: the stop is in `values`, not in the weights."""
    graphdef, trainable, frozen = nnx.split(agent(), heads.TRAINABLE, ...)

    def losses(trainable):
        pair = nnx.merge(graphdef, trainable, frozen)
        hidden = pair.model(TOKENS)
        return jnp.square(pair.values(hidden) - 1.0).mean(), -jax.nn.log_softmax(pair.model.logits(hidden))[
            ..., 0
        ].sum()

    gradients = jax.jit(jax.jacrev(losses))
    for start, weights in ((True, trainable), (False, perturbed(trainable))):
        value, policy = gradients(weights)
        for path, leaf in nnx.to_flat_state(value):
            moved = np.abs(leaf[...]).max() > 0
            assert moved == (path[0] == "value" and (not start or path[-1] in ("w2", "b2"))), path
        for path, leaf in nnx.to_flat_state(policy):
            moved = np.abs(leaf[...]).max() > 0
            assert moved == (path[0] == "model" and (not start or path[-1] == "b")), path


def test_trainable_is_the_adapters_and_the_head():
    _, adapters, head, frozen = nnx.split(agent(), nnx.LoRAParam, heads.ValueParam, ...)
    assert {path[-1] for path, _ in nnx.to_flat_state(head)} == {"w1", "b1", "w2", "b2"}
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(head)) == 16 * 10 + 10 + 10 + 1
    both = nnx.state(agent(), heads.TRAINABLE)
    assert len(jax.tree.leaves(both)) == len(jax.tree.leaves(adapters)) + 4 == 2 * 2 + 4
    plain = nnx.state(Llama(SMALL, rngs=nnx.Rngs(0)), nnx.Param)
    assert len(jax.tree.leaves(frozen)) == len(jax.tree.leaves(plain))
