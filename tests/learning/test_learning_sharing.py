"""What samples have in common is computed once, and nothing else changes."""

import jax
import learning_fixture as fixture
import numpy as np
import pytest
from flax import nnx

from mma_jax.learning.sharing import share
from mma_jax.models.attention import SHARED

BEGINNING = [5, 6, 7, 8, 9]
ROWS = [[*BEGINNING, 1, 2], [*BEGINNING, 1, 3, 4], [11, 12], [*BEGINNING], [], [*BEGINNING, 9]]
GROUP = np.array([0, 0, 1, 2, 3, 0])
LENGTHS = np.array([len(row) for row in ROWS])
TOKENS = np.array([row + [0] * (12 - len(row)) for row in ROWS], np.int32)


def test_by_hand():
    packed = share(TOKENS, LENGTHS, GROUP, 2, (8, 16))
    assert packed.tokens.shape == (4, 16)  # doubled from 2, for 3 groups
    np.testing.assert_array_equal(packed.tokens[0, :11], [*BEGINNING, 1, 2, 1, 3, 4, 9])
    np.testing.assert_array_equal(packed.position[0, :11], [0, 1, 2, 3, 4, 5, 6, 5, 6, 7, 5])
    np.testing.assert_array_equal(packed.segment[0, :11], [SHARED] * 5 + [0] * 2 + [1] * 3 + [5])
    np.testing.assert_array_equal(packed.place[1, :8], [0, 1, 2, 3, 4, 7, 8, 9])
    np.testing.assert_array_equal(packed.place[2, :2], [16, 17])


def test_a_group_too_long_for_a_row_takes_several():
    packed = share(TOKENS, LENGTHS, GROUP, 1, (8,))
    assert packed.tokens.shape == (8, 8)
    for n, row in enumerate(ROWS):
        assert packed.tokens.reshape(-1)[packed.place[n, : len(row)]].tolist() == row


def test_what_parts_early_stays_apart():
    tokens = np.array([[1, *range(2, 12)], [1, *range(12, 22)]], np.int32)
    packed = share(tokens, np.array([11, 11]), np.array([0, 0]), 1, (16, 32))
    assert packed.tokens.shape == (2, 16) and (packed.segment == SHARED).all()


@pytest.mark.parametrize("buckets", [(8,), (16,), (12, 40)])
def test_hidden_states_and_gradients_are_those_of_rows_of_their_own(buckets):
    graphdef, params, frozen = fixture.actor_critic(trained=0.3)
    packed, real = share(TOKENS, LENGTHS, GROUP, 1, buckets), np.arange(TOKENS.shape[1]) < LENGTHS[:, None]
    weight = np.random.default_rng(0).normal(size=(*TOKENS.shape, fixture.SHAPE.width)) * real[..., None]

    def alone(params):
        hidden = nnx.merge(graphdef, params, frozen).model(TOKENS)
        return (hidden * weight).sum(), hidden

    def together(params):
        model = nnx.merge(graphdef, params, frozen).model
        hidden = model(packed.tokens, packed.position, packed.segment)
        hidden = hidden.reshape(-1, hidden.shape[-1])[packed.place]
        return (hidden * weight).sum(), hidden

    (_, slow), slow_gradient = jax.value_and_grad(alone, has_aux=True)(params)
    (_, fast), fast_gradient = jax.value_and_grad(together, has_aux=True)(params)
    np.testing.assert_allclose(fast[real], slow[real], atol=1e-5)
    for a, b in zip(jax.tree.leaves(fast_gradient), jax.tree.leaves(slow_gradient), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
