import functools

import jax
import jax.numpy as jnp
import learning_fixture as fixture
import numpy as np
import pytest
from flax import nnx

from mma_jax.learning import state as states
from mma_jax.models.heads import ValueParam

RATES = (0.1, 0.01)


def start(max_grad_norm=1e9, weight_decay=0.0, warmup=0):
    """(optimizer, state, compiled update) of a tiny actor-critic."""
    _, params, _ = fixture.actor_critic(trained=0.1)
    optimizer = states.for_policy_and_value(*(states.adam(rate, warmup, max_grad_norm, weight_decay) for rate in RATES))
    return states.create(params, optimizer), jax.jit(functools.partial(states.apply, optimizer))


def parts(params):
    """(policy's leaves, value head's leaves)"""
    filters = (nnx.Not(ValueParam), ValueParam)
    return tuple([np.asarray(x) for x in jax.tree.leaves(nnx.filter_state(params, f))] for f in filters)


def filled(params, value):
    return jax.tree.map(lambda x: jnp.full_like(x, value), params)


def moved(before, after):
    return [np.abs(a - b).max() for a, b in zip(before, after, strict=True)]


def test_each_group_has_its_rate():
    """Adam's first step is its rate, whatever the gradient."""
    state, update = start()
    after, _ = update(state, 0.0, filled(state.params, 3.0), True)
    for before, now, rate in zip(parts(state.params), parts(after.params), RATES, strict=True):
        np.testing.assert_allclose(moved(before, now), rate, rtol=1e-3)


def test_warm_up_rises_to_the_rate_and_stays():
    state, update = start(warmup=4)
    steps = []
    for _ in range(6):
        after, _ = update(state, 0.0, filled(state.params, 3.0), True)
        steps.append(moved(parts(state.params)[0], parts(after.params)[0])[0])
        state = after
    np.testing.assert_allclose(steps, 0.1 * np.minimum(1, np.arange(1, 7) / 4), rtol=1e-3)


def test_given_its_steps_the_rate_falls_over_their_second_half():
    optimizer, params = states.adam(0.1, 2, 1e9, 0.0, steps=8), {"w": jnp.zeros(1)}
    moments, steps = optimizer.init(params), []
    for _ in range(8):
        update, moments = optimizer.update({"w": jnp.ones(1)}, moments, params)
        steps.append(-float(update["w"][0]))
    np.testing.assert_allclose(steps, 0.1 * np.array([0.5, 1, 1, 1, 1, 0.75, 0.5, 0.25]), rtol=1e-3)


def test_a_smaller_b2_slows_adam_down_sooner_where_gradients_have_grown():
    """After a hundred gradients of 1 comes one of 10 and then ones of 1; by hand, m / sqrt(v), bias corrected."""
    gradients = [1.0] * 100 + [10.0] + [1.0] * 5
    for b2 in (0.999, 0.98):
        optimizer, params = states.adam(0.1, 1, 1e9, 0.0, b2=b2), {"w": jnp.zeros(1)}
        moments, m, v = optimizer.init(params), 0.0, 0.0
        for n, gradient in enumerate(gradients, 1):
            update, moments = optimizer.update({"w": jnp.full(1, gradient)}, moments, params)
            m, v = 0.9 * m + 0.1 * gradient, b2 * v + (1 - b2) * gradient**2
            by_hand = 0.1 * (m / (1 - 0.9**n)) / np.sqrt(v / (1 - b2**n))
            assert -float(update["w"][0]) == pytest.approx(by_hand, rel=1e-3)


def test_policy_rests_without_using_up_its_warm_up():
    state, update = start(warmup=4)
    after, _ = update(state, 0.0, filled(state.params, 3.0), False)
    assert max(moved(parts(state.params)[0], parts(after.params)[0])) == 0
    assert min(moved(parts(state.params)[1], parts(after.params)[1])) > 0
    later, _ = update(after, 0.0, filled(state.params, 3.0), True)
    np.testing.assert_allclose(moved(parts(state.params)[0], parts(later.params)[0]), 0.1 / 4, rtol=1e-3)


def test_norms_are_of_each_group_and_clip_each_on_its_own():
    state, update = start(max_grad_norm=1.0)
    policy, value = (np.concatenate([x.ravel() for x in group]) for group in parts(state.params))
    gradient = jax.tree.map(lambda x: x, state.params)
    for variable in jax.tree.leaves(gradient, is_leaf=lambda x: isinstance(x, nnx.Variable)):
        variable.set_value(jnp.full_like(variable[...], 1e6 if isinstance(variable, ValueParam) else 1e-3))
    after, norms = update(state, 0.0, gradient, True)
    assert norms["grad_norm"] == pytest.approx(np.float32(1e-3 * len(policy) ** 0.5), rel=1e-5)
    assert norms["value_grad_norm"] == pytest.approx(np.float32(1e6 * len(value) ** 0.5), rel=1e-5)
    moments = [np.abs(x).max() for x in jax.tree.leaves(after.moments.inner_states["policy"]) if x.ndim]
    assert max(moments) == pytest.approx(1e-4, rel=1e-3)  # (1 - b1) x an unclipped 1e-3


@pytest.mark.parametrize("loss,bad", [(np.nan, 1.0), (np.inf, 1.0), (0.0, np.nan), (0.0, -np.inf)])
def test_what_is_not_finite_changes_nothing_and_is_counted(loss, bad):
    state, update = start()
    state, _ = update(state, 0.0, filled(state.params, 1.0), True)
    after, norms = update(state, loss, filled(state.params, bad), True)
    same = jax.tree.map(np.array_equal, (state.params, state.moments), (after.params, after.moments))
    assert all(jax.tree.leaves(same))
    assert (int(after.tried), int(after.skipped), int(after.streak), float(norms["skipped"])) == (2, 1, 1, 1)
    twice, _ = update(after, loss, filled(state.params, bad), True)
    well, _ = update(twice, 0.0, filled(state.params, 1.0), True)
    assert (int(twice.streak), int(well.streak), int(well.skipped)) == (2, 0, 2)


def test_a_streak_stops_the_run_and_leaves_the_batch(tmp_path):
    state, update = start()
    batch = {"tokens": np.arange(6).reshape(2, 3), "action": np.ones((2, 3), bool)}
    for _ in range(2):
        state, _ = update(state, np.nan, filled(state.params, 1.0), True)
        states.stop_if_stuck(state, 3, batch, tmp_path)
    state, _ = update(state, np.nan, filled(state.params, 1.0), True)
    with pytest.raises(FloatingPointError, match=r"nonfinite_3\.npz"):
        states.stop_if_stuck(state, 3, batch, tmp_path)
    with np.load(tmp_path / "nonfinite_3.npz", allow_pickle=False) as found:
        assert set(found) == set(batch)
        for name, array in batch.items():
            np.testing.assert_array_equal(found[name], array)
    assert [path.name for path in tmp_path.iterdir()] == ["nonfinite_3.npz"]
