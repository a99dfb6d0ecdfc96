"""Vector search against brute force; centroids against a plain loop."""

import numpy as np
import pytest

from mma_jax.retrieval.topk import top_k
from mma_jax.retrieval.vectors import VectorIndex, history_queries
from mma_jax.types import InputError


def recall(found, exact):
    return np.mean([len(np.intersect1d(a, b)) / len(b) for a, b in zip(found.items, exact.items, strict=True)])


def random_vectors(n, d, seed=0):
    vectors = np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_hnsw_reaches_the_promised_recall():
    """Uniform directions are the hardest case: no structure for the graph to follow."""
    embedding = random_vectors(12_000, 128)
    has = np.random.default_rng(1).random(12_000) < 0.9
    queries = embedding[:300].reshape(100, 3, 128).mean(1)
    index = VectorIndex(embedding, has)
    found, exact = index.search(queries, 100), top_k(index.scores(queries), 100)
    assert recall(found, exact) >= 0.99
    assert has[found.items].all()


def test_hnsw_finds_items_of_unequal_length():
    """The graph embedding's rows differ in length, which inner-product search must honor."""
    rng = np.random.default_rng(3)
    embedding = random_vectors(3000, 32, 3) * rng.lognormal(sigma=0.5, size=(3000, 1)).astype(np.float32)
    index = VectorIndex(embedding, np.ones(3000, bool))
    queries = random_vectors(100, 32, 4)
    assert recall(index.search(queries, 100), top_k(index.scores(queries), 100)) >= 0.99


def test_flat_is_exact_and_scores_agree():
    embedding = random_vectors(500, 16)
    has = np.arange(500) % 3 > 0
    queries = random_vectors(20, 16, 5)
    index = VectorIndex(embedding, has, kind="flat")
    found, exact = index.search(queries, 40), top_k(index.scores(queries), 40)
    np.testing.assert_array_equal(found.items, exact.items)
    np.testing.assert_allclose(found.scores, exact.scores, atol=1e-6)
    products = np.einsum("qd,id->qi", queries.astype(np.float64), embedding)
    np.testing.assert_allclose(index.scores(queries)[:, has], products[:, has], atol=1e-6)
    assert np.isneginf(index.scores(queries)[:, ~has]).all()


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_too_few_items_leave_holes(kind):
    has = np.array([False, True, False, True])
    found = VectorIndex(np.eye(4, dtype=np.float32), has, kind).search(np.array([[0, 2, 1, 1]], np.float32), 3)
    np.testing.assert_array_equal(found.items, [[1, 3, -1]])
    np.testing.assert_array_equal(found.scores, [[2, 1, -np.inf]])
    nothing = VectorIndex(np.eye(4, dtype=np.float32), np.zeros(4, bool), kind).search(np.ones((2, 4)), 2)
    assert (nothing.items == -1).all()


def test_equal_input_gives_an_equal_index():
    embedding, queries = random_vectors(2000, 64), random_vectors(50, 64, 2)
    first, again = (VectorIndex(embedding, np.ones(2000, bool)).search(queries, 50) for _ in range(2))
    np.testing.assert_array_equal(first.items, again.items)


def test_unknown_kind():
    with pytest.raises(InputError, match="choose flat or hnsw"):
        VectorIndex(np.eye(2, dtype=np.float32), np.ones(2, bool), kind="tree")


@pytest.mark.parametrize("decay", [1.0, 0.8])
def test_history_queries_against_a_loop(decay):
    rng = np.random.default_rng(0)
    embedding = random_vectors(30, 8)
    has = rng.random(30) < 0.6
    histories = [rng.integers(30, size=n).astype(np.int32) for n in (0, 1, 5, 40)]
    histories.append(np.flatnonzero(~has)[:2].astype(np.int32))
    queries, usable = history_queries(embedding, has, histories, decay)
    assert queries.dtype == np.float32
    for query, ok, history in zip(queries, usable, histories, strict=True):
        total, weight = np.zeros(8), 0.0
        for age, item in enumerate(history[::-1]):
            if has[item]:
                total, weight = total + decay**age * embedding[item], weight + decay**age
        assert ok == (weight > 0)
        np.testing.assert_allclose(query, total / weight if ok else total, atol=1e-6)


def test_history_queries_of_nobody():
    queries, usable = history_queries(np.eye(3, dtype=np.float32), np.ones(3, bool), [])
    assert queries.shape == (0, 3) and usable.shape == (0,)


def test_a_very_old_item_still_counts():
    """decay ** age underflows after long histories of missing items, and must not divide by zero."""
    has = np.array([True, False])
    history = np.array([0] + [1] * 3000, np.int32)
    queries, usable = history_queries(np.eye(2, dtype=np.float32), has, [history], decay=0.5)
    assert np.isfinite(queries).all() and usable.tolist() == [bool(queries[0].any())]
