"""LRMM: m-drop, m-auto, and the prediction against numpy."""

import dataclasses

import jax
import numpy as np
import planted
import pytest
from flax import nnx

from mma_jax.baselines import lrmm
from mma_jax.types import FAMILIES, MODALITIES


def model():
    config = lrmm.get_config()
    config.dim, config.code = 5, 4
    return lrmm.LRMM(config, planted.corpus(), nnx.Rngs(0))


def layer(linear, values):
    return values @ np.asarray(linear.kernel[...]) + np.asarray(linear.bias[...])


def side(made, embedded, present):
    """The equations of the docstring for one user or item: embedded [K, D], present [K]."""
    code = np.maximum(layer(made.code, (embedded * present[:, None]).ravel()), 0)
    rebuilt = layer(made.decode, code).reshape(embedded.shape)
    return layer(made.last, np.where(present[:, None], embedded, rebuilt).ravel()), rebuilt


def test_the_prediction_is_the_inner_product_of_two_completed_sides():
    corpus, made = planted.corpus(), model()
    query, items = planted.questions(corpus, FAMILIES["no_text"], range(3))
    found = np.asarray(made.score(made.encode(), query, items))
    vectors = np.asarray(made.vectors[...])
    for row in range(3):
        behavior = np.tanh(layer(made.user_side.encoders["behavior"], vectors[query.history[row]].mean(axis=0)))
        image = np.tanh(layer(made.user_side.encoders["image"], query.profile["image"][row]))
        user, _ = side(made.user_side, np.stack([behavior, image, np.zeros(5)]), np.array([True, True, False]))
        for column, item in enumerate(items[row]):
            image = np.tanh(layer(made.item_side.encoders["image"], corpus.content["image"][item]))
            there = np.array([corpus.degree[item] > 0, corpus.has["image"][item], False])
            candidate, _ = side(made.item_side, np.stack([vectors[item], image, np.zeros(5)]), there)
            np.testing.assert_allclose(found[row, column], user @ candidate, rtol=1e-4, atol=1e-5)


def test_what_was_dropped_is_a_target_and_what_was_missing_is_not():
    made = model().item_side
    rng = np.random.default_rng(0)
    embedded = rng.normal(size=(2, 3, 5)).astype(np.float32)
    present = np.array([[True, True, True], [True, True, False]])
    kept = np.array([[True, False, True], [True, True, False]])
    whole, error = made(embedded, present, kept)
    squared = []
    for row in range(2):
        one, rebuilt = side(made, embedded[row], kept[row])
        np.testing.assert_allclose(whole[row], one, rtol=1e-4, atol=1e-5)
        squared += list(np.square(rebuilt - embedded[row]).sum(axis=1)[present[row]])
    np.testing.assert_allclose(error, np.mean(squared), rtol=1e-4)


def test_a_reconstruction_moves_and_its_target_does_not():
    made, there = model().item_side, np.ones((1, 3), bool)
    gradient = jax.grad(lambda embedded: made(embedded, there, ~there)[1])(np.ones((1, 3, 5), np.float32))
    assert not gradient.any()


def test_shares_of_modality_dropout():
    """One of k is lost with .4, but for the rows that would lose all k and so keep all."""
    for modalities in (1, 2, 3):
        left = np.asarray(lrmm.modality_dropout(jax.random.key(0), np.ones((20_000, 2, modalities), bool), 0.4))
        np.testing.assert_allclose(1 - left.mean(axis=(0, 1)), 0.4 - 0.4**modalities, atol=0.015)
        np.testing.assert_array_equal(left[:, 0], left[:, 1])  # all candidates of a row alike
        assert left.any(axis=-1).all()
    assert lrmm.modality_dropout(jax.random.key(0), np.ones((9, 3), bool), 0.0).all()
    assert not lrmm.modality_dropout(jax.random.key(0), np.zeros((9, 3), bool), 0.4).any()


@pytest.mark.parametrize("there", [(), ("text",), ("image",)])
def test_a_dataset_may_lack_text_images_or_both(there):
    whole = planted.corpus()
    parts = {name: {m: getattr(whole, name)[m] for m in there} for name in ("content", "has")}
    corpus = dataclasses.replace(whole, **parts)
    made = lrmm.LRMM(lrmm.get_config(), corpus, nnx.Rngs(0))
    for mask in FAMILIES.values():
        query, items = planted.questions(corpus, mask, range(3))
        scores = np.asarray(made.score(made.encode(), query, items))
        shown = any(mask[MODALITIES.index(m)] for m in ("behavior", *there))
        assert (
            np.isfinite(scores).all() and (np.ptp(scores, axis=1) > 0).all() == shown
        )  # or else a tie, to the last bit
