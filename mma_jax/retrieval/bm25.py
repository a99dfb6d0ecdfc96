"""BM25 over item text (MMA §3.1, the text-present first stage), a whole batch of queries as one product.

The weights are those of rank_bm25's BM25Okapi: Trotman, Puurula, Burgess, "Improvements to BM25 and Language Models
Examined" (2014), ATIRE variant with the idf of too frequent words floored at epsilon times the mean idf.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from rank_bm25 import BM25Okapi

QUERIES_PER_BLOCK = 256


class BM25:
    """Scores every item for every query: score[q, i] = sum over words w of q of weight[w, i].

    The idf and the mean length come from the training documents alone (DESIGN: no leak in evidence); words that
    none of them contains weigh nothing. With an all-True mask this is BM25Okapi.
    """

    def __init__(
        self,
        documents: list[list[str]],
        idf_mask: np.ndarray,  # bool [I]: documents that may inform idf and mean length
        k1: float = 1.5,
        b: float = 0.75,
        epsilon: float = 0.25,
    ):
        training = [documents[i] for i in np.flatnonzero(idf_mask)]
        # BM25Okapi divides by the number of words; without any there is nothing to match.
        reference = BM25Okapi(training, epsilon=epsilon) if any(training) else None
        idf = reference.idf if reference else {}
        self._columns = {word: column for column, word in enumerate(idf)}
        counts = self._count(documents)
        lengths = np.array([len(document) for document in documents], np.float64)
        norm = k1 * (1 - b + b * lengths / reference.avgdl) if reference else lengths
        item_of_entry = np.repeat(np.arange(len(documents)), np.diff(counts.indptr))
        saturation = counts.data * (k1 + 1) / (counts.data + norm[item_of_entry])
        weights = saturation * np.array(list(idf.values()), np.float64)[counts.indices]
        self._weights = sp.csr_array((weights, counts.indices, counts.indptr), shape=counts.shape)  # [I, V]

    def scores(self, queries: list[list[str]], dtype: type = np.float32) -> np.ndarray:
        """dtype [Q, I]; a word that a query repeats counts as often; an empty query scores 0 everywhere."""
        scores = np.empty((len(queries), self._weights.shape[0]), dtype)
        counts = self._count(queries)
        for start in range(0, len(queries), QUERIES_PER_BLOCK):
            # Sparse times dense: the inner loop runs over queries, contiguous in memory.
            block = counts[start : start + QUERIES_PER_BLOCK].toarray()
            scores[start : start + QUERIES_PER_BLOCK] = (self._weights @ np.ascontiguousarray(block.T)).T
        return scores

    def _count(self, documents: list[list[str]]) -> sp.csr_array:
        """float64 [len(documents), V] occurrences of the known words."""
        known = [[self._columns[word] for word in document if word in self._columns] for document in documents]
        starts = np.concatenate([[0], np.cumsum([len(columns) for columns in known])]).astype(np.int64)
        columns = np.array([column for document in known for column in document], np.int64)
        counts = sp.csr_array((np.ones(len(columns)), columns, starts), shape=(len(documents), len(self._columns)))
        counts.sum_duplicates()
        return counts
