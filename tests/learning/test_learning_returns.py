import itertools

import jax
import numpy as np
import pytest

from mma_jax.learning import ppo, returns, sequences

RNG = np.random.default_rng(0)


def test_gae_by_hand():
    """delta = (-.1 + .4 - .5, -.1 + .2 - .4, 1 - .2) at gamma 1; lam .5 halves what lies a turn ahead."""
    advantages, goals = returns.gae(
        np.array([-0.1, -0.1, 1.0, 9.0]), np.array([0.5, 0.4, 0.2, 9.0]), np.array([1, 1, 1, 0], bool), 1.0, 0.5
    )
    np.testing.assert_allclose(advantages, [-0.2 + 0.5 * (-0.3 + 0.5 * 0.8), -0.3 + 0.4, 0.8, 0], atol=1e-6)
    np.testing.assert_allclose(goals, [-0.15 + 0.5, 0.1 + 0.4, 1.0, 0], atol=1e-6)


@pytest.mark.parametrize("gamma,lam", [(1.0, 0.95), (0.9, 0.5), (0.9, 0.0), (1.0, 1.0)])
def test_gae_is_the_sum_of_equation_5(gamma, lam):
    rewards, values = RNG.normal(size=(2, 5, 6)).astype(np.float32)
    played = RNG.integers(0, 7, 5)
    mask = np.arange(6) < played[:, None]
    advantages, goals = jax.jit(jax.vmap(returns.gae, (0, 0, 0, None, None)))(rewards, values, mask, gamma, lam)
    to_go = jax.jit(jax.vmap(returns.rewards_to_go, (0, 0, None)))(rewards, mask, gamma)
    advantages, goals, to_go = jax.device_get((advantages, goals, to_go))
    for n, turns in enumerate(played):
        r, v = rewards[n, :turns].astype(float), np.append(values[n, :turns], 0.0).astype(float)
        delta = [r[t] + gamma * v[t + 1] - v[t] for t in range(turns)]
        for t in range(turns):
            slow = sum((gamma * lam) ** step * delta[t + step] for step in range(turns - t))
            assert advantages[n, t] == pytest.approx(slow, abs=1e-5)
            assert goals[n, t] == pytest.approx(slow + v[t], abs=1e-5)
            assert to_go[n, t] == pytest.approx(sum(gamma**step * r[t + step] for step in range(turns - t)), abs=1e-5)
        assert not np.any(advantages[n, turns:]) and not np.any(goals[n, turns:])


def test_whitening_is_over_turns_not_padding():
    x, mask = RNG.normal(3, 2, size=(4, 5)).astype(np.float32), RNG.random((4, 5)) < 0.6
    white = np.asarray(returns.whiten(x, mask))
    np.testing.assert_allclose(white[mask], (x[mask] - x[mask].mean()) / x[mask].std(), atol=1e-4)
    assert not white[~mask].any()
    assert np.isfinite(returns.whiten(np.ones((2, 2)), np.ones((2, 2), bool))).all()


def test_sibling_luck_leaves_oneself_out():
    surprise, group = np.array([1.0, 5.0, 2.0, 4.0, 7.0]), np.array([0, 1, 0, 0, 2])
    np.testing.assert_allclose(returns.sibling_luck(surprise, group, 5), [3, 0, 2.5, 1.5, 0])


def gradients(luck, policy, rewards):
    """Mean and variance of the score-function gradient of two siblings, over luck and both actions, by enumeration.

    reward = rewards[action] + what the episode's luck adds; V is 0.
    """
    estimates, weights = [], []
    for episode, first, second in itertools.product(range(len(luck)), range(2), range(2)):
        actions = [first, second]
        earned = np.array([[rewards[action] + luck[episode]] for action in actions], np.float32)
        batch = sequences.Batch(*[None] * 4, earned, np.ones((2, 1), bool), None, np.zeros((2, 3)))
        per_baseline = []
        for baseline in ppo.BASELINES:
            goal = ppo.targets(
                batch, np.zeros((2, 1)), np.zeros(2, int), gamma=1.0, lam=1.0, baseline=baseline, whiten=False
            )
            score = np.eye(2)[actions] - policy  # d log pi(a) / d logits
            per_baseline.append((score * np.asarray(goal.advantages)).mean(0)[0])
        estimates.append(per_baseline)
        weights.append(policy[first] * policy[second] / len(luck))
    estimates, weights = np.array(estimates), np.array(weights)[:, None]
    mean = (weights * estimates).sum(0)
    return mean, (weights * (estimates - mean) ** 2).sum(0)


def test_siblings_are_an_unbiased_baseline_that_removes_an_episodes_luck():
    policy, rewards = np.array([0.3, 0.7]), np.array([0.1, 0.4])
    mean, variance = gradients([-2.0, 0.0, 2.5], policy, rewards)
    exact = (policy * (rewards - policy @ rewards))[0]
    luck = np.mean([-2.0, 0.0, 2.5])
    assert mean[0] == pytest.approx(exact, abs=1e-6)
    assert mean[1] == pytest.approx(exact, abs=1e-6)
    assert luck != 0 and variance[1] < 0.1 * variance[0]
