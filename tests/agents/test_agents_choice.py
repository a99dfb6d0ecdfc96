"""Conditional logit against a direct optimum and against planted weights."""

import numpy as np
from scipy import optimize, special

from mma_jax.agents import choice


def planted(episodes=4000, size=5, seed=0):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(episodes, size, 3)) * np.array([1.0, 5.0, 0.2])
    utility = features @ np.array([1.5, -0.2, 0.0])
    target = (utility + rng.gumbel(size=utility.shape)).argmax(1)
    return features, target


def test_recovers_planted_weights():
    features, target = planted()
    model = choice.fit(features.reshape(-1, 3), target, 5, l2=1e-3)
    np.testing.assert_allclose(model.weights / model.scale, [1.5, -0.2, 0.0], atol=0.3)
    np.testing.assert_allclose((model.weights / model.scale)[:2], [1.5, -0.2], atol=0.06)


def test_is_the_penalised_optimum():
    features, target = planted(episodes=60)
    flat = features.reshape(-1, 3)
    model = choice.fit(flat, target, 5, l2=2.0)
    scale = flat.std(0)

    def loss(weights):
        log_prob = special.log_softmax((features / scale) @ weights, axis=1)
        return -log_prob[np.arange(60), target].sum() + weights @ weights

    best = optimize.minimize(loss, np.zeros(3)).x
    np.testing.assert_allclose(model.weights, best, atol=1e-3)
    np.testing.assert_allclose(model.scores(features[0]), features[0] @ (best / scale), atol=1e-2)


def test_constant_feature_gets_no_weight():
    features, target = planted(episodes=50)
    features[..., 2] = 7.0
    model = choice.fit(features.reshape(-1, 3), target, 5, l2=1.0)
    assert abs(model.weights[2]) < 1e-8
