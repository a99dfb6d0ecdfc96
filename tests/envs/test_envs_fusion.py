from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mma_jax.envs.fusion import fuse, normalize
from mma_jax.envs.rewards import terminal_reward

NAN = np.nan


def test_hand_computed():
    s0 = np.array([1.0, 0.5, 0.25, 0.0])
    agent = np.array([10.0, 30.0, NAN, 20.0])
    np.testing.assert_array_equal(normalize(s0, agent), [0.0, 1.0, 0.25, 0.5])
    np.testing.assert_allclose(fuse(s0, agent, 0.5), [0.5, 0.75, 0.25, 0.25])
    np.testing.assert_allclose(fuse(s0, agent, 0.2), [0.2, 0.9, 0.25, 0.4])


@pytest.mark.parametrize("agent", [[7.0, 7.0, 7.0], [NAN, 3.0, NAN], [NAN, NAN, NAN], [NAN, -2.0, -2.0]])
@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.3, 1.0])
def test_a_map_without_order_changes_nothing(agent, alpha):
    s0 = np.array([0.3, 0.7, 0.1], np.float32)
    np.testing.assert_array_equal(fuse(s0, np.array(agent), alpha), s0.astype(np.float64))


def test_unscored_keep_their_score_and_order_at_every_alpha():
    s0 = np.array([0.9, 0.61, 0.6, 0.1])
    agent = np.array([0.0, NAN, NAN, 100.0])
    for alpha in np.linspace(0, 1, 21):
        np.testing.assert_array_equal(fuse(s0, agent, alpha)[1:3], s0[1:3])


def test_extremes_of_alpha_are_exact():
    s0, agent = np.array([0.1, 0.7, 0.3]), np.array([3.0, 1.0, 3.0])
    np.testing.assert_array_equal(fuse(s0, agent, 1.0), s0)
    np.testing.assert_array_equal(fuse(s0, agent, 0.0), [1.0, 0.0, 1.0])


def test_alpha_grid_in_front():
    rng = np.random.default_rng(0)
    s0, agent = rng.random((3, 5)), np.where(rng.random((3, 5)) < 0.3, NAN, rng.normal(size=(3, 5)))
    grid = np.linspace(0, 1, 21)
    many = fuse(s0, agent, grid)
    assert many.shape == (21, 3, 5)
    for g, alpha in enumerate(grid):
        for n in range(3):
            np.testing.assert_array_equal(many[g, n], fuse(s0[n], agent[n], alpha))


finite = st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.one_of(st.just(NAN), finite)), min_size=1, max_size=8))
def test_against_a_loop_and_within_range(rows):
    s0, agent = (np.array(column) for column in zip(*rows, strict=True))
    scored = [a for a in agent if a == a]
    fused = fuse(s0, agent, 0.5)
    assert np.isfinite(fused).all() and (fused >= 0).all() and (fused <= 1).all()
    if not scored or min(scored) == max(scored):
        np.testing.assert_array_equal(fused, s0)
        return
    low, high = Fraction(min(scored)), Fraction(max(scored))
    for s, a, f in zip(s0, agent, fused, strict=True):
        own = s if a != a else float((Fraction(a) - low) / (high - low))
        assert f == pytest.approx(0.5 * s + 0.5 * own, abs=1e-9)


def test_terminal_reward_by_hand():
    s0 = np.array([1.0, 0.5, 0.0])
    agent = np.array([0.0, 50.0, 100.0])  # fused at 1/2: .5 .5 .5
    tie_of_three = (1 + 1 / np.log2(3) + 1 / 2) / 3
    assert terminal_reward(s0, agent, 1, 0.5) == pytest.approx(tie_of_three)
    assert terminal_reward(s0, agent, 2, 0.0) == 1.0
    assert terminal_reward(s0, agent, 2, 1.0) == pytest.approx(0.5)
    assert terminal_reward(s0, agent, -1, 0.5) == 0.0
