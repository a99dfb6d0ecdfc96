"""Latent semantic analysis of item texts, beside a dense decomposition."""

import numpy as np
import pytest

from mma_jax.features import text
from mma_jax.features.text_vectors import vectors
from mma_jax.types import Catalog

WORDS = ["red", "blue", "green", "shoe", "hat", "coat", "wool", "silk", "linen", "large"]


@pytest.fixture(scope="module")
def catalog():
    rng = np.random.default_rng(0)
    titles = tuple(" ".join(rng.choice(WORDS, 4)) for _ in range(30))
    titles = (*titles[:-1], "")
    empty = ("",) * 30
    brands = tuple(rng.choice(["acme", "zeta", ""]) for _ in range(29))
    return Catalog(tuple(map(str, range(30))), titles, empty, empty, (*brands, ""), ((),) * 30)


def dense(catalog, store, train):
    """tf-idf rows and their projection, written plainly."""
    rows = np.zeros((30, len(store.vocabulary)))
    for item in range(30):
        for column, field in ((0, catalog.title), (2, catalog.brand)):
            for word in set(text.tokenize(field[item])):
                where = store.vocabulary.index(word)
                rows[item, where] += store.idf[column, where]
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = rows / np.where(lengths > 0, lengths, 1)
    _, _, directions = np.linalg.svd(rows[train], full_matrices=False)
    return rows, directions


def test_vectors_are_projections_on_the_leading_directions_of_training_items(catalog):
    train = np.arange(30) < 20
    store = text.build(catalog, train)
    found = vectors(store, train, 5)
    rows, directions = dense(catalog, store, train)
    projected = rows @ directions[:5].T
    lengths = np.linalg.norm(projected, axis=1, keepdims=True)
    expected = projected / np.where(lengths > 1e-9, lengths, 1)
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-5)  # up to signs and order
    assert found.dtype == np.float32 and found.shape == (30, 5)
    assert (found[-1] == 0).all()


def test_equal_input_gives_equal_output(catalog):
    train = np.arange(30) < 20
    store = text.build(catalog, train)
    np.testing.assert_array_equal(vectors(store, train, 5), vectors(store, train, 5))


def test_text_of_other_items_changes_no_direction(catalog):
    """An item outside training may say what it likes: the others' vectors stay."""
    import dataclasses

    train = np.arange(30) < 20
    other = dataclasses.replace(catalog, title=(*catalog.title[:25], "canary canary", *catalog.title[26:]))
    before, after = (vectors(text.build(one, train), train, 5) for one in (catalog, other))
    kept = np.arange(30) != 25
    np.testing.assert_allclose(before[kept] @ before[kept].T, after[kept] @ after[kept].T, atol=1e-6)


def test_more_dimensions_than_there_are(catalog):
    train = np.arange(30) < 20
    assert vectors(text.build(catalog, train), train, 64).shape[1] < 20


def test_no_word_that_two_training_items_share():
    titles = ("red", "blue", "green", "shoe")
    empty = ("",) * 4
    train = np.ones(4, bool)
    catalog = Catalog(tuple("abcd"), titles, empty, empty, empty, ((),) * 4)
    assert (vectors(text.build(catalog, train), train, 8) == 0).all()


def test_no_text_at_all():
    empty = ("",) * 4
    nothing = Catalog(tuple("abcd"), empty, empty, empty, empty, ((),) * 4)
    train = np.ones(4, bool)
    assert (vectors(text.build(nothing, train), train, 8) == 0).all()
