"""BM25 against rank_bm25, and against the formula written out where the statistics come from a part only."""

import math

import numpy as np
import pytest
from rank_bm25 import BM25Okapi

from mma_jax.retrieval.bm25 import BM25

WORDS = [f"w{i}" for i in range(30)]


def random_documents(seed, n=50, longest=25):
    rng = np.random.default_rng(seed)
    weights = 1 / np.arange(1, 31)
    return [list(rng.choice(WORDS, rng.integers(0, longest), p=weights / weights.sum())) for _ in range(n)]


def random_queries(seed, n=300):
    rng = np.random.default_rng(seed)
    return [list(rng.choice([*WORDS, "unheard"], rng.integers(0, 12))) for _ in range(n)]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("options", [{}, {"k1": 0.9, "b": 0.4, "epsilon": 0.1}])
def test_equals_rank_bm25(seed, options):
    documents, queries = random_documents(seed), random_queries(seed + 10)
    reference = BM25Okapi(documents, **options)
    expected = np.stack([reference.get_scores(query) for query in queries])
    ours = BM25(documents, np.ones(len(documents), bool), **options)
    np.testing.assert_allclose(ours.scores(queries, dtype=np.float64), expected, rtol=0, atol=1e-9)
    single = ours.scores(queries)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_statistics_come_from_training_documents_only(seed):
    documents, queries = random_documents(seed), random_queries(seed + 10, n=40)
    train = np.random.default_rng(seed).random(len(documents)) < 0.5
    k1, b, epsilon = 1.5, 0.75, 0.25
    training = [document for document, kept in zip(documents, train, strict=True) if kept]
    n, average = len(training), np.mean([len(document) for document in training])
    df = {w: sum(w in document for document in training) for w in WORDS}
    idf = {w: math.log(n - f + 0.5) - math.log(f + 0.5) for w, f in df.items() if f}
    floor = epsilon * np.mean(list(idf.values()))
    idf = {w: floor if value < 0 else value for w, value in idf.items()}
    expected = np.zeros((len(queries), len(documents)))
    for q, query in enumerate(queries):
        for i, document in enumerate(documents):
            for word in query:
                f = document.count(word)
                expected[q, i] += idf.get(word, 0) * f * (k1 + 1) / (f + k1 * (1 - b + b * len(document) / average))
    np.testing.assert_allclose(BM25(documents, train).scores(queries, dtype=np.float64), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("documents", [[[], []], [["word"], []]])
def test_nothing_to_learn_from_scores_zero(documents):
    index = BM25(documents, np.array([False, True]))
    np.testing.assert_array_equal(index.scores([["word"], []]), np.zeros((2, 2)))
