"""DGMRec: its information objectives against plain loops, and what is generated where."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import planted
import pytest
from flax import nnx

from mma_jax.baselines import dgmrec, fit
from mma_jax.types import FAMILIES


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def slow_info_nce(a, b, there, ids, temperature):
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    losses = []
    for n in np.flatnonzero(there):
        others = [k for k in np.flatnonzero(there) if k == n or ids[k] != ids[n]]
        masses = {k: np.exp(a[n] @ b[k] / temperature) for k in others}
        losses.append(-np.log(masses[n] / sum(masses.values())))
    return np.mean(losses)


@pytest.mark.parametrize("seed", range(3))
def test_info_nce_is_the_formula(seed):
    rng = np.random.default_rng(seed)
    a, b, there, ids = (
        normal(9, 4, seed=seed),
        normal(9, 4, seed=seed + 9),
        rng.random(9) > 0.3,
        rng.integers(6, size=9),
    )
    found = dgmrec.info_nce(a, b, there, ids, 0.3)
    np.testing.assert_allclose(found, slow_info_nce(a, b, there, ids, 0.3), rtol=2e-5)


def test_info_nce_of_nothing_is_zero_with_a_finite_gradient():
    value, gradient = jax.value_and_grad(dgmrec.info_nce)(
        normal(4, 3), jnp.zeros((4, 3)), np.zeros(4, bool), np.arange(4), 0.1
    )
    assert value == 0 and np.isfinite(gradient).all()


def log_q(club, s, g):
    """ln q(g | s) of every pair of rows [N, N], without the constant."""
    center, log_variance = np.asarray(club.mean(s)), np.tanh(np.asarray(club.spread(s)))
    terms = (g[None] - center[:, None]) ** 2 / np.exp(log_variance[:, None]) + log_variance[:, None]
    return -0.5 * terms.sum(axis=-1)


def test_club_is_the_mean_over_all_pairs():
    club, there = dgmrec.Club(4, nnx.Rngs(0)), np.array([True, False, True, True, True, False])
    s, g = normal(6, 4), normal(6, 4, seed=1)
    q = log_q(club, s[there], g[there])
    np.testing.assert_allclose(club.bound(s, g, there), np.diagonal(q).mean() - q.mean(), rtol=1e-4)
    np.testing.assert_allclose(club.surprise(s, g, there), -np.diagonal(q).mean() / 4, rtol=1e-5)


def test_club_of_a_fitted_network_exceeds_the_information_and_tells_dependence():
    """Of correlated normals the mutual information is known: - ln(1 - rho^2) / 2 an element."""
    rho, s = 0.8, normal(4000, 4)
    noise, there = normal(4000, 4, seed=1), np.ones(4000, bool)

    def fitted(g):
        graph, state = nnx.split(dgmrec.Club(4, nnx.Rngs(0)))
        step = jax.jit(jax.value_and_grad(lambda state: nnx.merge(graph, state).surprise(s, g, there)))
        for _ in range(300):
            gradient = step(state)[1]
            state = jax.tree.map(lambda x, d: x - 0.4 * d, state, gradient)
        return float(nnx.merge(graph, state).bound(s, g, there))

    information = -4 * np.log(1 - rho**2) / 2
    assert fitted(rho * s + np.sqrt(1 - rho**2) * noise) > information
    assert fitted(noise) < 0.1 * information


@pytest.fixture(scope="module")
def model():
    return dgmrec.DGMRec(dgmrec.get_config(), planted.corpus(), nnx.Rngs(0))


CASES = [(text, image, known) for text in (0, 1) for image in (0, 1) for known in (0, 1)]


@pytest.mark.parametrize(("text", "image", "known"), CASES)
def test_what_is_missing_is_generated(model, text, image, known):
    """The docstring's c_i, for one item."""
    rng, there = np.random.default_rng(0), {"text": text, "image": image}
    parts = {name: dgmrec.Part(*jnp.asarray(rng.normal(size=(5, 1, 64)), jnp.float32)) for name in there}
    wanted = 0
    for name, part in parts.items():
        other = there["image" if name == "text" else "text"]
        preference = part.preference if known else model.nobody[name][...]
        general = part.general if there[name] else part.translated if other else 0
        generated = part.generated if known else model.generate[name](model.nobody[name][...])
        wanted += preference * (general / 2 + (part.specific if there[name] else generated)) / 3
    found = model.content(parts, {name: jnp.array([bool(x)]) for name, x in there.items()}, jnp.array([bool(known)]))
    np.testing.assert_allclose(found, np.broadcast_to(wanted, found.shape), rtol=1e-5, atol=1e-6)


def test_a_user_has_the_mean_content_of_the_history_or_that_of_the_profile(model):
    tables = model.encode()
    query, _ = planted.questions(planted.corpus(), FAMILIES["no_text"], range(3))
    rows = int("011", 2)
    content = [np.asarray(tables.content)[rows, [item for item in history if item >= 0]] for history in query.history]
    wanted = np.asarray(tables.users)[query.user] + [own.mean(axis=0) for own in content]
    np.testing.assert_allclose(model.asked(tables, query), wanted, rtol=1e-4, atol=1e-6)
    hidden, _ = planted.questions(planted.corpus(), FAMILIES["image_only"], range(3))
    np.testing.assert_allclose(model.asked(tables, hidden), model.content_of_profiles(hidden), rtol=1e-5)


def test_a_bound_gives_no_gradient_to_its_own_network(model):
    parts = model.parts()
    own = {name: dgmrec.Part(*(table[:9] for table in part)) for name, part in parts.items()}
    there = {name: jnp.ones(9, bool) for name in own}
    users = dgmrec.Aligned(
        jnp.ones((9, 64)), jnp.arange(9), {name: (own[name].general,) * 2 + (there[name],) for name in own}
    )
    graph, state = nnx.split(model)

    def loss(state):
        return nnx.merge(graph, state).disentanglement(own, there, users, jnp.arange(9))

    gradient = jax.grad(loss, allow_int=True)(state)
    assert not any(np.asarray(x).any() for x in jax.tree.leaves(gradient["clubs"]))


@pytest.mark.parametrize("left", [(), ("text",), ("image",)])
def test_any_content_will_do(left, tmp_path):
    corpus = planted.corpus()
    corpus = dataclasses.replace(
        corpus, content={name: corpus.content[name] for name in left}, has={name: corpus.has[name] for name in left}
    )
    config = dgmrec.get_config()
    config.batch, config.epochs = 256, 2
    scorer, _ = fit.fit(dgmrec.make(config, corpus), config, 0, tmp_path, None, "DGMRec")
    for mask in FAMILIES.values():
        assert np.isfinite(scorer(*planted.questions(corpus, mask, range(4)))).all()
