"""top_k against a full sort."""

import numpy as np
import pytest

from mma_jax.retrieval.topk import top_k


@pytest.mark.parametrize("k", [1, 5, 20, 30])
def test_agrees_with_a_stable_sort(k):
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 6, size=(50, 20)).astype(np.float32)  # many ties
    scores[rng.random(scores.shape) < 0.2] = -np.inf
    scores[0] = -np.inf
    found = top_k(scores, k)
    assert found.items.shape == found.scores.shape == (50, k)
    assert found.items.dtype == np.int32 and found.scores.dtype == np.float32
    for row, items, values in zip(scores, found.items, found.scores, strict=True):
        expected = [i for i in np.argsort(-row, kind="stable") if np.isfinite(row[i])][:k]
        assert items.tolist() == expected + [-1] * (k - len(expected))
        np.testing.assert_array_equal(values[: len(expected)], row[expected])
        assert np.isneginf(values[len(expected) :]).all()


def test_no_queries():
    assert top_k(np.zeros((0, 5), np.float32), 3).items.shape == (0, 3)
