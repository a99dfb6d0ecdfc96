"""The collaborative graph against dense brute force, and the embedding's promises."""

import dataclasses

import numpy as np
import pytest

from mma_jax.features import graph
from mma_jax.types import InputError


def dense_graph(baskets):
    """W of the module's docstring, written out with dense loops. baskets bool [n, I]."""
    n_items = baskets.shape[1]
    degree = baskets.sum(0)
    strength = np.zeros((n_items, n_items))
    for basket in baskets:
        for i in np.flatnonzero(basket):
            for j in np.flatnonzero(basket):
                if i != j:
                    strength[i, j] += 1 / basket.sum() / (degree[i] * degree[j]) ** graph.POPULARITY_DISCOUNT
    return strength


def random_baskets(seed, n_baskets=40, n_items=30, density=0.12):
    return np.random.default_rng(seed).random((n_baskets, n_items)) < density


def build_from(baskets, **options):
    users, items = np.nonzero(baskets)
    return graph.build(users, items, *baskets.shape, **options)


@pytest.mark.parametrize("seed", range(3))
def test_neighbors_are_exact(seed, monkeypatch):
    monkeypatch.setattr(graph, "ITEMS_PER_BLOCK", 7)
    baskets = random_baskets(seed)
    strength = dense_graph(baskets)
    store = build_from(baskets, n_neighbors=5)
    for item, row in enumerate(store.neighbors):
        linked = strength[item] > 0
        assert (row >= 0).sum() == min(5, linked.sum())
        found = row[row >= 0]
        assert len(set(found)) == len(found) and item not in found
        np.testing.assert_allclose(strength[item, found], np.sort(strength[item][linked])[::-1][:5], rtol=1e-12)
        assert (row[len(found) :] == -1).all()


@pytest.mark.parametrize("dim", [4, 16])
def test_embedding_is_the_damped_spectrum(dim):
    """Lanczos agrees with a dense eigendecomposition: inner products of rows do not depend on signs."""
    baskets = random_baskets(0, 80, 40)
    values, vectors = np.linalg.eigh(dense_graph(baskets))
    rows = vectors[:, ::-1][:, :dim] * np.maximum(values[::-1][:dim], 0) ** graph.SPECTRUM_EXPONENT
    rows /= np.sqrt(np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))
    embedding = build_from(baskets, dim=dim).embedding
    assert embedding.dtype == np.float32 and embedding.shape == (40, dim)
    np.testing.assert_allclose(embedding @ embedding.T, rows @ rows.T, atol=1e-4)


def test_has_popularity_and_repeats():
    users = np.array([0, 0, 0, 1, 1, 2])
    items = np.array([0, 1, 1, 1, 2, 3])
    store = graph.build(users, items, 3, 5)
    np.testing.assert_array_equal(store.popularity, [1, 2, 1, 1, 0])
    np.testing.assert_array_equal(store.has, [True, True, True, False, False])  # item 3 is linked to nobody
    np.testing.assert_array_equal(store.neighbors[:, 0], [1, 0, 1, -1, -1])
    assert (store.embedding[4] == 0).all()
    once = graph.build(np.delete(users, 2), np.delete(items, 2), 3, 5)
    np.testing.assert_array_equal(store.embedding, once.embedding)


def test_copurchases_replace_interactions():
    pairs = np.array([[0, 1], [1, 0], [1, 2], [3, 3]])  # one repeated the other way round, one with itself
    store = graph.build(np.array([0, 0]), np.array([3, 4]), 1, 5, copurchases=pairs)
    np.testing.assert_array_equal(store.popularity, [1, 2, 1, 0, 0])
    np.testing.assert_array_equal(store.neighbors[:, :2], [[1, -1], [0, 2], [1, -1], [-1, -1], [-1, -1]])


def test_planted_groups_are_found():
    rng = np.random.default_rng(0)
    group = np.arange(600) % 4
    pairs = rng.integers(600, size=(60_000, 2))
    same = group[pairs[:, 0]] == group[pairs[:, 1]]
    pairs = pairs[same | (rng.random(len(pairs)) < 0.05)][:3000]
    store = graph.build(np.zeros(0, int), np.zeros(0, int), 0, 600, copurchases=pairs)
    unit = store.embedding / np.maximum(np.linalg.norm(store.embedding, axis=1, keepdims=True), 1e-9)
    similarity = unit @ unit.T - 2 * np.eye(600)
    nearest = np.argsort(-similarity, axis=1)[:, :10]
    assert (group[nearest] == group[:, None])[store.has].mean() > 0.75  # chance is .25


def test_small_catalogs_get_fewer_dimensions():
    assert build_from(random_baskets(0, 50, 40)).embedding.shape == (40, 16)
    assert build_from(random_baskets(0, 50, 40), dim=8).embedding.shape == (40, 8)
    assert build_from(random_baskets(0, 200, 800, 0.02)).embedding.shape == (800, 25)


@pytest.mark.parametrize("n_items", [1, 5, 40])
def test_graph_without_any_edge(n_items):
    store = graph.build(np.zeros(0, int), np.zeros(0, int), 3, n_items)
    assert not store.has.any() and not store.embedding.any()
    assert (store.neighbors == -1).all()


def test_users_of_one_item_link_nothing():
    store = graph.build(np.arange(30), np.arange(30), 30, 40)
    assert not store.has.any() and (store.neighbors == -1).all() and not store.embedding.any()
    assert store.popularity.sum() == 30


def test_graph_of_isolated_pairs():
    """The spectrum is as degenerate as can be; the solver must still come back."""
    pairs = np.arange(400).reshape(-1, 2)
    store = graph.build(np.zeros(0, int), np.zeros(0, int), 0, 400, copurchases=pairs)
    np.testing.assert_array_equal(store.neighbors[:4, 0], [1, 0, 3, 2])
    assert np.isfinite(store.embedding).all()
    again = graph.build(np.zeros(0, int), np.zeros(0, int), 0, 400, copurchases=pairs)
    np.testing.assert_array_equal(store.embedding, again.embedding)


def test_equal_input_gives_equal_output():
    first, again = (build_from(random_baskets(1, 200, 300, 0.02)) for _ in range(2))
    for field in dataclasses.fields(first):
        np.testing.assert_array_equal(getattr(first, field.name), getattr(again, field.name))
    other_seed = build_from(random_baskets(1, 200, 300, 0.02), seed=7)
    np.testing.assert_allclose(first.embedding, other_seed.embedding, atol=1e-4)  # signs are fixed, not drawn


def test_saved_store_is_the_same(tmp_path):
    store = build_from(random_baskets(2))
    store.save(tmp_path / "graph")
    loaded = graph.load(tmp_path / "graph")
    for field in dataclasses.fields(store):
        np.testing.assert_array_equal(getattr(store, field.name), getattr(loaded, field.name))
        assert not getattr(loaded, field.name).flags.writeable
    with pytest.raises(InputError, match="no evidence store"):
        graph.load(tmp_path)
