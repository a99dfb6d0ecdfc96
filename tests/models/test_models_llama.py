"""The Llama's own promises: one function whether a row comes whole, in chunks, packed, padded or recomputed.

That the function is Llama's is tested in test_models_convert.py, against transformers.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mma_jax.models import llama
from mma_jax.models.llama import Cache, Llama, LlamaConfig, RopeScaling

SMALL = LlamaConfig(vocab_size=61, width=24, layers=2, heads=4, kv_heads=2, head_dim=8, hidden=40, rope_theta=1000.0)
SLOTS, CHUNK = 32, 12


def lively(config):
    """A model whose attention is far from uniform and whose norms are not one."""
    model = nnx.eval_shape(lambda: Llama(config, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(0)
    for path, leaf in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        leaf.set_value(jnp.asarray((path[-1] == "scale") + 0.3 * rng.standard_normal(leaf.shape), leaf.dtype))
    return model


@pytest.fixture(scope="module")
def model():
    return lively(SMALL)


@pytest.fixture(scope="module")
def forward(model):
    graphdef, state = nnx.split(model)
    return jax.jit(lambda *inputs: nnx.merge(graphdef, state)(*inputs))


@pytest.fixture(scope="module")
def extend(model):
    graphdef, state = nnx.split(model)
    return jax.jit(lambda *inputs: nnx.merge(graphdef, state).extend(*inputs), static_argnums=3)


def tokens(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, SMALL.vocab_size, shape).astype(np.int32)


def test_number_of_parameters_is_the_published_one():
    def count(**shape):
        model = nnx.eval_shape(lambda: Llama(LlamaConfig(**shape), rngs=nnx.Rngs(0)))
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))

    for published, layers, shape in (
        (8_030_261_248, 32, {}),  # Llama-3-8B
        (1_235_814_400, 16, dict(width=2048, head_dim=64, hidden=8192, tied=True)),  # Llama-3.2-1B
    ):
        one, two = count(layers=1, **shape), count(layers=2, **shape)
        assert one + (layers - 1) * (two - one) == published


def test_rotation_is_a_product_of_complex_numbers():
    rng = np.random.default_rng(0)
    x, freq = rng.standard_normal((2, 3, 4, 8), np.float32), llama.frequencies(SMALL)
    position = np.array([[0, 1, 2], [7, 300, 5]])
    turned = (x[..., :4] + 1j * x[..., 4:]) * np.exp(1j * position[..., None, None] * freq)
    expected = np.concatenate([turned.real, turned.imag], axis=-1)
    np.testing.assert_allclose(llama.rotate(x, position, freq), expected, atol=1e-4)


def test_frequencies_by_hand():
    np.testing.assert_allclose(llama.frequencies(SMALL), 1000.0 ** -np.array([0, 0.25, 0.5, 0.75]), rtol=1e-6)


def test_scaled_frequencies_keep_the_fast_and_slow_the_slow():
    scaling = RopeScaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_length=100)
    config = LlamaConfig(head_dim=8, rope_theta=1000.0, rope_scaling=scaling)
    plain = 1000.0 ** -np.array([0, 0.25, 0.5, 0.75])
    turns = 100 * plain / (2 * np.pi)  # 15.9, 2.8, .50, .09: one beyond 4, one between, two below 1
    between = (turns[1] - 1) / 3
    expected = [plain[0], between * plain[1] + (1 - between) * plain[1] / 8, plain[2] / 8, plain[3] / 8]
    np.testing.assert_allclose(llama.frequencies(config), expected, rtol=1e-6)


def test_nothing_sees_the_future(forward):
    row = tokens(1, 20)
    other = row.copy()
    other[0, 12:] = (other[0, 12:] + 1) % SMALL.vocab_size
    one, two = np.asarray(forward(row)), np.asarray(forward(other))
    np.testing.assert_array_equal(one[:, :12], two[:, :12])
    assert (np.abs(one[:, 12:] - two[:, 12:]).max(-1) > 1e-3).all()


def test_the_past_and_its_order_matter(forward):
    row = tokens(1, 20)
    swapped = row.copy()
    swapped[0, [2, 3]] = row[0, [3, 2]]
    assert row[0, 2] != row[0, 3]
    assert np.abs(np.asarray(forward(row))[0, -1] - np.asarray(forward(swapped))[0, -1]).max() > 1e-3


def test_padded_equals_alone(forward):
    rows, lengths = tokens(3, 20), (20, 11, 4)
    together = np.asarray(forward(rows))
    for row, length, found in zip(rows, lengths, together, strict=True):
        alone = np.asarray(forward(row[None, :length]))
        np.testing.assert_allclose(found[:length], alone[0], atol=1e-5)


def test_packed_equals_alone(forward):
    first, second, third = tokens(1, 11), tokens(1, 20, seed=1), tokens(1, 4, seed=2)
    row = np.concatenate([first, second, third], axis=1)
    position = np.concatenate([np.arange(11), np.arange(20), np.arange(4)])[None]
    segments = np.repeat([0, 1, 2], [11, 20, 4])[None]
    packed = np.asarray(forward(row, position, segments))[0]
    for part, found in zip((first, second, third), np.split(packed, [11, 31]), strict=True):
        np.testing.assert_allclose(found, np.asarray(forward(part))[0], atol=1e-5)


def chunked(extend, rows, chunks, caches, padding):
    """Feed each row its own chunk lengths, padded to CHUNK unless one token is all; hidden states per row."""
    done, found = np.zeros(len(rows), np.int32), [[] for _ in rows]
    for sizes in zip(*chunks, strict=True):
        fed = np.full((len(rows), CHUNK if max(sizes) > 1 else 1), padding, np.int32)
        for row, size in enumerate(sizes):
            fed[row, :size] = rows[row, done[row] : done[row] + size]
        hidden, caches = extend(fed, done, caches)
        for row, size in enumerate(sizes):
            found[row].append(np.asarray(hidden)[row, :size])
        done += np.array(sizes, np.int32)
    return [np.concatenate(parts) for parts in found]


def test_ragged_chunks_equal_the_whole(forward, extend):
    """Rows at different lengths, some idle in a round, over caches that hold leftovers: as in the sampler."""
    rows = tokens(3, 20)
    chunks = [(5, 1, 0, 9, 1), (1, 1, 12, 0, 1), (9, 0, 2, 3, 6)]
    leftovers = np.random.default_rng(3).standard_normal((SMALL.layers, 2, 3, 2, SLOTS, 8), np.float32) * 50
    found = chunked(extend, rows, chunks, [Cache(k, v) for k, v in jnp.asarray(leftovers)], padding=7)
    whole = np.asarray(forward(rows))
    for row, sizes in enumerate(chunks):
        np.testing.assert_allclose(found[row], whole[row, : sum(sizes)], atol=1e-5)


def test_first_tokens_read_no_slot_and_leave_what_others_leave(forward, extend):
    """Slots of an empty row may hold anything; what is written must serve the tokens that follow."""
    rows, none = tokens(3, 20), np.zeros(3, np.int32)
    full = [Cache(*(jnp.full((3, 2, SLOTS, 8), jnp.nan),) * 2) for _ in range(SMALL.layers)]
    hidden, caches = extend(rows[:, :12], none, full, True)
    np.testing.assert_allclose(hidden, np.asarray(forward(rows))[:, :12], atol=1e-5)
    _, expected = extend(rows[:, :12], none, llama.empty_caches(SMALL, rows=3, slots=SLOTS), False)
    for ours, theirs in zip(jax.tree.leaves(caches), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours[:, :, :12], theirs[:, :, :12], atol=1e-5)


def test_token_by_token_equals_the_whole(forward, extend):
    rows = tokens(3, 20)
    found = chunked(extend, rows, [(1,) * 20] * 3, llama.empty_caches(SMALL, rows=3, slots=SLOTS), padding=0)
    np.testing.assert_allclose(np.stack(found), np.asarray(forward(rows)), atol=1e-5)


def test_remat_changes_no_gradient(model):
    graphdef, state = nnx.split(model)
    rows = tokens(2, 12)

    def loss(state, remat):
        trunk = nnx.merge(graphdef, state)
        logp = jax.nn.log_softmax(trunk.logits(trunk(rows, remat=remat)))
        return -jnp.take_along_axis(logp[:, :-1], rows[:, 1:, None], axis=-1).mean()

    grad = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    (plain, gradients), (again, recomputed) = grad(state, False), grad(state, True)
    np.testing.assert_allclose(plain, again, rtol=1e-6)
    for one, two in zip(jax.tree.leaves(gradients), jax.tree.leaves(recomputed), strict=True):
        assert np.abs(one).max() > 0
        np.testing.assert_allclose(one, two, atol=1e-6)
    for remat, expected in ((False, 0), (True, SMALL.layers)):
        program = jax.make_jaxpr(lambda state, remat=remat: loss(state, remat))(state)
        assert sum("remat" in equation.primitive.name for equation in program.eqns) == expected


def test_logits_are_float32_products_with_the_head():
    for tied in (False, True):
        model = lively(LlamaConfig(**{**vars(SMALL), "tied": tied}))
        hidden = np.random.default_rng(0).standard_normal((2, 3, 24), np.float32)
        head = np.asarray(model.embed_tokens.embedding[...]).T if tied else np.asarray(model.lm_head.kernel[...])
        np.testing.assert_allclose(model.logits(jnp.asarray(hidden)), hidden @ head, atol=1e-4)
        assert hasattr(model, "lm_head") is not tied
        assert model.logits(jnp.asarray(hidden, jnp.bfloat16)).dtype == jnp.float32


def test_bfloat16_is_near_float32(model):
    rough = nnx.eval_shape(lambda: Llama(SMALL, rngs=nnx.Rngs(0), dtype=jnp.bfloat16, param_dtype=jnp.bfloat16))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(nnx.state(rough, nnx.Param))} == {"bfloat16"}
    nnx.update(rough, jax.tree.map(lambda x: x.astype(jnp.bfloat16), nnx.state(model, nnx.Param)))
    rows = tokens(2, 10)
    assert jax.eval_shape(rough, rows).dtype == jnp.bfloat16
    expected, found = (np.asarray(jax.jit(lambda rows, m=m: m.logits(m(rows)))(rows)) for m in (model, rough))
    assert 1e-4 < np.abs(found - expected).mean() < 0.05 * expected.std()


def test_empty_caches_fit_the_model():
    caches = llama.empty_caches(SMALL, rows=3, slots=5, dtype=jnp.bfloat16)
    assert len(caches) == 2
    assert {(x.shape, x.dtype.name) for x in jax.tree.leaves(caches)} == {((3, 2, 5, 8), "bfloat16")}
