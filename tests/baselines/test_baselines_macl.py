"""MACL: the contrast against plain loops, what is missing leaves the sums, and the tables of all masks."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import planted
import pytest

from mma_jax.baselines import fit, macl, views
from mma_jax.baselines.corpus import catalog, look
from mma_jax.types import FAMILIES


def cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def slow_nt_xent(vectors, there, ids, temperature):
    """The docstring's formula, one pair after the other."""
    count, losses = there.shape[1], []
    modalities = range(len(there))
    for n in range(count):
        for m in modalities:
            others = [
                np.exp(cosine(vectors[m, n], vectors[w, k]) / temperature)
                for k in range(count)
                for w in modalities
                if there[w, k] and ids[k] != ids[n]
            ]
            for other in modalities:
                if other != m and there[m, n] and there[other, n]:
                    own = np.exp(cosine(vectors[m, n], vectors[other, n]) / temperature)
                    losses.append(-np.log(own / (own + sum(others))))
    return np.mean(losses) if losses else 0.0


def example(seed, modalities=3, count=7):
    rng = np.random.default_rng(seed)
    there = rng.random((modalities, count)) > 0.35
    return rng.normal(size=(modalities, count, 4)).astype(np.float32), there, rng.integers(5, size=count)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("modalities", [2, 3])
def test_contrast_is_the_formula(seed, modalities):
    vectors, there, ids = example(seed, modalities)
    np.testing.assert_allclose(
        macl.nt_xent(vectors, there, ids, 0.2), slow_nt_xent(vectors, there, ids, 0.2), rtol=2e-5
    )


def test_what_is_missing_leaves_the_contrast():
    vectors, there, ids = example(0)
    other = np.where(there[..., None], vectors, 100.0)
    contrast = jax.value_and_grad(macl.nt_xent)
    (value, gradient), (same, _) = contrast(vectors, there, ids, 0.2), contrast(other, there, ids, 0.2)
    np.testing.assert_allclose(value, same, rtol=1e-6)
    assert not np.asarray(gradient)[~there].any()


@pytest.mark.parametrize("left", ["nothing", "one thing", "one view each"])
def test_a_contrast_without_a_pair_or_without_others_is_zero(left):
    vectors, there, ids = np.ones((3, 4, 5), np.float32), np.zeros((3, 4), bool), np.arange(4)
    if left == "one thing":
        there[:, 0] = True
    if left == "one view each":
        there[1] = True
    value, gradient = jax.value_and_grad(macl.nt_xent)(vectors, there, ids, 0.1)
    assert value == pytest.approx(0.0, abs=1e-6)
    assert np.isfinite(gradient).all()


def test_what_is_there_is_averaged():
    x = jnp.arange(12.0).reshape(3, 2, 2)
    fused = macl.fused({"a": (x[0], jnp.array([True, False])), "b": (x[1], jnp.array([True, True]))})
    np.testing.assert_allclose(fused, [(x[0, 0] + x[1, 0]) / 2, x[1, 1]])
    assert not np.asarray(macl.fused({"a": (x[0], jnp.zeros(2, bool))})).any()


def test_tables_show_what_a_question_sees():
    seen = catalog(planted.corpus())
    every = views.everything(seen)
    rng = np.random.default_rng(0)
    masks = np.array(list(FAMILIES.values()))
    items = rng.integers(planted.ITEMS, size=(len(masks), 30))
    asked = look(seen, items, masks)
    rows = np.asarray(views.which(jnp.asarray(masks)))
    np.testing.assert_array_equal(views.MASKS[rows], masks)
    np.testing.assert_array_equal(every.row[rows[:, None], items], asked.row)
    for name in seen.content:
        np.testing.assert_array_equal(every.has[name][rows[:, None], items], asked.has[name])
        np.testing.assert_array_equal(every.content[name][rows[:, None], items], asked.content[name])
        picked = views.pick(every.content[name], jnp.asarray(masks), jnp.asarray(items).at[:, 0].set(-1))
        np.testing.assert_array_equal(picked[:, 1:], asked.content[name][:, 1:])
        assert not np.asarray(picked[:, 0]).any()


@pytest.mark.parametrize("left", [(), ("text",), ("image",)])
def test_any_content_will_do(left, tmp_path):
    corpus = planted.corpus()
    corpus = dataclasses.replace(
        corpus, content={name: corpus.content[name] for name in left}, has={name: corpus.has[name] for name in left}
    )
    config = macl.get_config()
    config.batch, config.epochs, config.contrast = 256, 2, 32
    scorer, _ = fit.fit(macl.make(config, corpus), config, 0, tmp_path, None, "MACL")
    for mask in FAMILIES.values():
        assert np.isfinite(scorer(*planted.questions(corpus, mask, range(4)))).all()
