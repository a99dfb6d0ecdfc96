"""Nearest neighbors in an embedding: the visual and the graph first stage (MMA §3.1, §3.2 Retrieve_Graph).

Q = queries, I = items, D = dimensions. Similarity is the inner product throughout.
"""

from __future__ import annotations

from collections.abc import Sequence

import faiss
import numpy as np
import scipy.sparse as sp

from mma_jax.types import Candidates, InputError

HNSW_LINKS = 48
HNSW_BUILD_BREADTH = 300
HNSW_SEARCH_BREADTH = 512
"""Recall@100 against brute force is at least .99 on the graph embeddings of Amazon Beauty and Sports and on random
vectors (benchmarks/retrieval.py); with 32 links it was .98 on Sports."""


class VectorIndex:
    """The items that have a vector, searchable by inner product.

    kind="hnsw" is approximate (Malkov & Yashunin 2018, FAISS), kind="flat" exact. Building is single-threaded,
    because HNSW's links depend on the order of insertion: equal input gives an equal index.
    """

    def __init__(self, embedding: np.ndarray, has: np.ndarray, kind: str = "hnsw"):
        """`embedding` float32 [I, D]; `has` bool [I]."""
        self._embedding = np.asarray(embedding, np.float32)
        self._has = np.asarray(has, bool)
        self._items = np.flatnonzero(self._has).astype(np.int32)
        self._index = _make_index(kind, self._embedding.shape[1])
        threads = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(1)
        try:
            self._index.add(np.ascontiguousarray(self._embedding[self._items]))
        finally:
            faiss.omp_set_num_threads(threads)

    def search(self, queries: np.ndarray, k: int) -> Candidates:
        """The k items nearest to each row of `queries` (float32 [Q, D]), among those with a vector."""
        scores, rows = self._index.search(np.ascontiguousarray(queries, np.float32), k)
        found = rows >= 0
        items = np.full(rows.shape, -1, np.int32)
        items[found] = self._items[rows[found]]
        return Candidates(items, np.where(found, scores, -np.inf).astype(np.float32))

    def scores(self, queries: np.ndarray) -> np.ndarray:
        """Exact float32 [Q, I]; items without a vector are at -inf, so that no ranking can retrieve them."""
        scores = np.asarray(queries, np.float32) @ self._embedding.T
        scores[:, ~self._has] = -np.inf
        return scores


def history_queries(
    embedding: np.ndarray, has: np.ndarray, histories: Sequence[np.ndarray], decay: float = 0.9
) -> tuple[np.ndarray, np.ndarray]:
    """The centroid of each history: float32 [Q, D] queries and bool [Q] usable.

    `histories` holds Q arrays int32 [H], oldest first. The n-th item before the last one weighs decay ** n: 1 is the
    plain mean; 0.9 retrieves best from the graph of ml-100k and well from that of Amazon Beauty. Items without a
    vector are left out of the mean; a history without any gives a zero row and usable=False.
    """
    lengths = np.array([len(history) for history in histories], np.int64)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    items = np.concatenate([np.zeros(0, np.int64), *histories]).astype(np.int64)
    age = np.repeat(starts[1:], lengths) - 1 - np.arange(len(items))
    weights = np.power(float(decay), age) * np.asarray(has, bool)[items]
    pooling = sp.csr_array((weights, items, starts), shape=(len(histories), len(embedding)))
    total = pooling.sum(axis=1)
    usable = total > 0
    mean = (pooling @ np.asarray(embedding, np.float32)) / np.where(usable, total, 1.0)[:, None]
    return mean.astype(np.float32), usable


def _make_index(kind: str, dimensions: int) -> faiss.Index:
    if kind == "flat":
        return faiss.IndexFlatIP(dimensions)
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(dimensions, HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = HNSW_BUILD_BREADTH
        index.hnsw.efSearch = HNSW_SEARCH_BREADTH
        return index
    raise InputError(f"vector index kind {kind!r} is unknown; choose flat or hnsw")
