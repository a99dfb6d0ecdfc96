"""int8 weights against their definition, and against the model in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mma_jax.models import convert, lora, quantize, tensors
from mma_jax.models.llama import Llama, LlamaConfig, empty_caches

SMALL = LlamaConfig(vocab_size=97, width=64, layers=3, heads=4, kv_heads=2, head_dim=16, hidden=160)
TIED = LlamaConfig(vocab_size=97, width=64, layers=3, heads=4, kv_heads=2, head_dim=16, hidden=160, tied=True)
TOKENS = np.random.default_rng(0).integers(0, 97, (2, 12)).astype(np.int32)


def logits(model):
    graphdef, state = nnx.split(model)
    return np.asarray(jax.jit(lambda s: (m := nnx.merge(graphdef, s)).logits(m(TOKENS)))(state))


def test_weights_by_hand():
    weight = np.array([[1.27, 0.0, -2.0], [-0.635, 0.0, 1.0]])
    values, scales = quantize.to_int8(weight, axis=0)
    np.testing.assert_array_equal(values, [[127, 0, -127], [-64, 0, 64]])
    np.testing.assert_allclose(scales, [0.01, 1.0, 2 / 127])
    assert values.dtype == np.int8 and scales.dtype == np.float32


@pytest.mark.parametrize("axis", [0, 1])
def test_no_weight_is_off_by_more_than_half_a_step(axis):
    weight = np.random.default_rng(0).normal(size=(31, 17)) * np.random.default_rng(1).lognormal(size=(1, 17))
    values, scales = quantize.to_int8(weight, axis)
    steps = np.expand_dims(scales, axis)
    assert (np.abs(values * steps - weight) <= 0.5001 * steps).all()


@pytest.mark.parametrize("config", [SMALL, TIED])
def test_logits_are_close(config):
    """Relative error of at most 2.5% on random weights, embedding and head included."""
    model = Llama(config, rngs=nnx.Rngs(0))
    exact = logits(model)
    quantize.quantize(model)
    relative = np.linalg.norm(logits(model) - exact) / np.linalg.norm(exact)
    assert 1e-4 < relative < 0.025
    kinds = {leaf.dtype.name for leaf in jax.tree.leaves(nnx.state(model)) if leaf.ndim == 2}
    assert kinds == {"int8"}


@pytest.mark.parametrize("dtype, tolerance", [(jnp.float32, 1e-6), (jnp.bfloat16, 1e-2)])
def test_a_gradient_passes_through_in_the_activations_dtype(dtype, tolerance):
    """float32 times bfloat16 would be a float32 matmul, slow on an accelerator."""
    rng = np.random.default_rng(0)
    x, weight = jnp.asarray(rng.normal(size=(5, 48)), dtype), jnp.asarray(rng.integers(-127, 128, (48, 31)), jnp.int8)
    pull = rng.normal(size=(5, 31)).astype(np.float32)
    back = jax.grad(lambda x: (quantize.product(x, weight) * pull).sum())
    found, expected = np.asarray(back(x), np.float64), pull @ np.asarray(weight, np.float64).T
    assert np.linalg.norm(found - expected) < tolerance * np.linalg.norm(expected)
    products = [line for line in str(jax.make_jaxpr(back)(x)).splitlines() if "dot_general" in line]
    assert back(x).dtype == dtype and len(products) == 2
    text = jax.jit(back).lower(x).as_text()
    kinds = {jnp.float32: "f32", jnp.bfloat16: "bf16"}
    assert f"(tensor<5x31x{kinds[dtype]}>, tensor<31x48x{kinds[dtype]}>)" in text


def test_logits_are_those_of_the_dequantized_weights():
    """Not a tolerance: the same products, in another order."""
    model, plain = (Llama(SMALL, rngs=nnx.Rngs(0)) for _ in range(2))
    for name, leaf in tensors.parameters(plain).items():
        if leaf.ndim == 2:
            axis = 1 if "embed" in name else 0
            values, scales = quantize.to_int8(np.asarray(leaf[...]), axis)
            leaf.set_value(jnp.asarray(values * np.expand_dims(scales, axis)))
    quantize.quantize(model)
    np.testing.assert_allclose(logits(model), logits(plain), atol=1e-4)


def test_adapters_and_caches_work_on_it_and_merging_makes_it_plain():
    model = Llama(SMALL, rngs=nnx.Rngs(0))
    quantize.quantize(model)
    lora.add_lora(model, 4, 8.0, tuple(lora.TARGETS), nnx.Rngs(1))
    for _, _, adapter in lora.adapters(model):
        adapter.b.set_value(0.1 * jax.random.normal(jax.random.key(0), adapter.b.shape))
    whole = logits(model)
    hidden, _ = model.extend(TOKENS, jnp.zeros(2, jnp.int32), empty_caches(SMALL, 2, 16))
    np.testing.assert_allclose(model.logits(hidden), whole, atol=1e-4)
    lora.merge_lora(model)
    np.testing.assert_allclose(logits(model), whole, atol=1e-3)


@pytest.mark.parametrize("piece", [1, 100, 1 << 18])
def test_loaded_as_int8_is_quantized_after_loading(piece, tmp_path, monkeypatch):
    monkeypatch.setattr(convert, "_PIECE", piece)  # weights at a time: one row, some with a rest, all
    model = Llama(SMALL, rngs=nnx.Rngs(0))
    convert.save_llama(model, tmp_path)
    loaded = convert.load_llama(tmp_path, int8=True)
    quantize.quantize(model)
    for ours, theirs in zip(*(tensors.parameters(m).values() for m in (loaded, model)), strict=True):
        np.testing.assert_array_equal(ours[...], theirs[...])
        assert ours.dtype == theirs.dtype


def test_shapes_alone_can_be_quantized():
    shapes = nnx.eval_shape(lambda: Llama(LlamaConfig(), rngs=nnx.Rngs(0), param_dtype=jnp.bfloat16))
    quantize.quantize(shapes)
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(nnx.state(shapes)))
    assert 8.0e9 < size < 8.05e9  # 8.03 billion weights, a byte each, and scales
