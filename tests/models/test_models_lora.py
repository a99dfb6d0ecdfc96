"""The adapter against its formula, and where it sits."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mma_jax.models import lora
from mma_jax.models.llama import Llama, LlamaConfig, empty_caches
from mma_jax.types import InputError

SMALL = LlamaConfig(vocab_size=31, width=16, layers=2, heads=4, kv_heads=2, head_dim=6, hidden=20)
TOKENS = np.random.default_rng(0).integers(0, 31, (2, 9)).astype(np.int32)


def adapted(targets=("q_proj", "v_proj"), rank=3, alpha=6.0, **kinds):
    model = Llama(SMALL, rngs=nnx.Rngs(0), **kinds)
    lora.add_lora(model, rank, alpha, targets, nnx.Rngs(1))
    return model


def perturb(model):
    """Adapters as after training: b is no longer zero."""
    rng = np.random.default_rng(2)
    for leaf in jax.tree.leaves(nnx.state(model, nnx.LoRAParam), is_leaf=lambda x: isinstance(x, nnx.Variable)):
        leaf.set_value(jnp.asarray(0.3 * rng.standard_normal(leaf.shape), leaf.dtype))


def hidden(model):
    return np.asarray(jax.jit(lambda tokens: model(tokens))(TOKENS), np.float32)


def wrapped(model):
    found = set()
    for layer, block in enumerate(model.layers):
        for half in (block.self_attn, block.mlp):
            found |= {(layer, name) for name, module in vars(half).items() if isinstance(module, lora.LoRA)}
    return found


def test_formula():
    base = nnx.Linear(5, 7, use_bias=False, rngs=nnx.Rngs(0))
    layer = lora.LoRA(base, rank=3, alpha=12.0, rngs=nnx.Rngs(1))
    perturb(layer)
    x = np.random.default_rng(0).standard_normal((2, 4, 5), np.float32)
    expected = x @ np.asarray(base.kernel[...]) + 4.0 * x @ (np.asarray(layer.a[...]) @ np.asarray(layer.b[...]))
    np.testing.assert_allclose(layer(jnp.asarray(x)), expected, atol=1e-5)


def test_starts_as_the_identity():
    plain = Llama(SMALL, rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(hidden(adapted()), hidden(plain))


def test_sits_on_the_targets_of_every_block_and_nowhere_else():
    assert wrapped(adapted()) == {(0, "q_proj"), (0, "v_proj"), (1, "q_proj"), (1, "v_proj")}
    assert wrapped(adapted(tuple(lora.TARGETS))) == {(layer, name) for layer in range(2) for name in lora.TARGETS}
    assert wrapped(adapted(("down_proj", "down_proj"))) == {(0, "down_proj"), (1, "down_proj")}


def test_every_target_takes_part():
    graphdef, adapters, rest = nnx.split(adapted(tuple(lora.TARGETS)), nnx.LoRAParam, ...)
    forward = jax.jit(lambda adapters: nnx.merge(graphdef, adapters, rest)(TOKENS))
    before = np.asarray(forward(adapters))

    def with_b_of(path, x, name, layer):
        keys = jax.tree_util.keystr(path)
        return x + 0.1 if f"[{layer}]" in keys and name in keys and keys.count("b") else x

    for name in lora.TARGETS:
        for layer in range(2):
            changed = jax.tree.map_with_path(lambda *x, name=name, layer=layer: with_b_of(*x, name, layer), adapters)
            assert np.abs(np.asarray(forward(changed)) - before).max() > 1e-3, (name, layer)


def test_number_of_trainable_parameters():
    def count(config, rank, targets):
        def build():
            model = Llama(config, rngs=nnx.Rngs(0))
            lora.add_lora(model, rank, 32.0, targets, nnx.Rngs(1))
            return model

        state = nnx.state(nnx.eval_shape(build), nnx.LoRAParam)
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state))

    # rank (inputs + outputs) per projection; of Llama-3-8B, q is 4096 x 4096 and v 4096 x 1024
    assert count(LlamaConfig(layers=1), 16, ("q_proj", "v_proj")) == 16 * ((4096 + 4096) + (4096 + 1024))
    assert count(SMALL, 3, ("q_proj", "v_proj")) == 2 * 3 * ((16 + 24) + (16 + 12))
    assert count(SMALL, 5, ("down_proj",)) == 2 * 5 * (20 + 16)


def test_draws_differ_between_projections_and_repeat_with_the_seed():
    def drawn(seed):
        model = Llama(SMALL, rngs=nnx.Rngs(0))
        lora.add_lora(model, 200, 1.0, ("q_proj", "v_proj"), nnx.Rngs(seed))
        return [np.asarray(x) for x in jax.tree.leaves(nnx.state(model, nnx.LoRAParam)) if x.shape == (16, 200)]

    first, again, other = drawn(1), drawn(1), drawn(2)
    assert len(first) == 4 and len({x.tobytes() for x in first + other}) == 8
    np.testing.assert_array_equal(first, again)
    assert abs(np.std(first) - 16**-0.5) < 0.01  # N(0, 1 / inputs)


def test_merged_equals_wrapped():
    model = adapted(tuple(lora.TARGETS))
    perturb(model)
    expected = hidden(model)
    lora.merge_lora(model)
    assert not wrapped(model) and not nnx.state(model, nnx.LoRAParam)
    fresh = nnx.split(Llama(SMALL, rngs=nnx.Rngs(0)))[0]
    assert nnx.split(model)[0] == fresh  # nothing of the wrapper is left
    np.testing.assert_allclose(hidden(model), expected, atol=2e-5)


def test_cached_equals_whole():
    model = adapted()
    perturb(model)
    found, _ = jax.jit(lambda *inputs: model.extend(*inputs))(TOKENS, np.zeros(2, np.int32), empty_caches(SMALL, 2, 12))
    np.testing.assert_allclose(found, hidden(model), atol=1e-5)


def test_adapter_is_float32_and_computes_in_the_dtype_of_the_activations():
    base = nnx.Linear(5, 7, use_bias=False, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    layer = lora.LoRA(base, rank=3, alpha=12.0, rngs=nnx.Rngs(1))
    assert layer.a.dtype == layer.b.dtype == jnp.float32
    program = jax.make_jaxpr(layer)(jnp.zeros((2, 5), jnp.bfloat16))
    products = [out.aval.dtype for eqn in program.eqns if eqn.primitive.name == "dot_general" for out in eqn.outvars]
    assert products == [jnp.bfloat16] * 3 and program.out_avals[0].dtype == jnp.bfloat16
    perturb(layer)
    expected = np.asarray(base.kernel[...], np.float32) + 4 * np.asarray(layer.a[...]) @ np.asarray(layer.b[...])
    kernel = layer.merged().kernel[...]
    assert kernel.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(kernel, np.float32), expected, rtol=2**-8)  # rounded once, at the end


def test_gradient_reaches_b_first():
    """At the start b = 0, so that only b learns; a follows."""
    graphdef, trainable, frozen = nnx.split(adapted(), nnx.LoRAParam, ...)

    def loss(trainable):
        return jnp.square(nnx.merge(graphdef, trainable, frozen)(TOKENS)[..., 0]).sum()

    for path, leaf in nnx.to_flat_state(jax.jit(jax.grad(loss))(trainable)):
        assert (np.abs(leaf[...]).max() > 0) == (path[-1] == "b"), path


@pytest.mark.parametrize("rank, targets", [(4, ("q_proj", "wq")), (0, ("q_proj",)), (4, ())])
def test_refusals(rank, targets):
    with pytest.raises(InputError, match="lora: ") as caught:
        lora.add_lora(Llama(SMALL, rngs=nnx.Rngs(0)), rank, 8.0, targets, nnx.Rngs(1))
    assert "\n" not in str(caught.value)
    if "wq" in targets:
        assert "wq" in str(caught.value) and all(name in str(caught.value) for name in lora.TARGETS)
