"""From a score matrix to the best items of each row."""

from __future__ import annotations

import numpy as np

from mma_jax.types import Candidates


def top_k(scores: np.ndarray, k: int) -> Candidates:
    """The k best items of each row, best first; equal scores go to the lower item index.

    `scores` is float32 [Q, I]; -inf marks an item that cannot be retrieved. Where fewer than k can be,
    the row ends in item -1 with score -inf.
    """
    scores = np.asarray(scores, np.float32)
    n_queries, n_items = scores.shape
    found = min(k, n_items)
    items = np.full((n_queries, k), -1, np.int32)
    values = np.full((n_queries, k), -np.inf, np.float32)
    if found:
        columns = _largest(scores, found)
        kept = np.take_along_axis(scores, columns, axis=1)
        order = np.argsort(-kept, axis=1, kind="stable")
        items[:, :found] = np.take_along_axis(columns, order, axis=1)
        values[:, :found] = np.take_along_axis(kept, order, axis=1)
    items[np.isneginf(values)] = -1
    return Candidates(items, values)


def _largest(scores: np.ndarray, k: int) -> np.ndarray:
    """int64 [Q, k] columns of each row's k largest scores, ascending; of equal scores the first columns."""
    threshold = np.partition(scores, scores.shape[1] - k, axis=1)[:, -k, None]
    chosen = scores >= threshold
    surplus = chosen.sum(axis=1) - k
    for row in np.flatnonzero(surplus):
        tied = np.flatnonzero(scores[row] == threshold[row])
        chosen[row, tied[-surplus[row] :]] = False
    return np.nonzero(chosen)[1].reshape(len(scores), k)
