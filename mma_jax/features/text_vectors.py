"""Text as vectors, for models that want a vector of each item: latent semantic analysis (Deerwester et al., 1990).

Rows of tf-idf (a word counts once per field, weighted by that field's idf, which knows training items alone), shortened
to length 1, then the leading right singular vectors of the training items' rows; all items are projected on them.
I = items, V = words.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import svds

from mma_jax.features.images import unit
from mma_jax.features.text import FIELDS, TextStore


def vectors(store: TextStore, in_training: np.ndarray, dim: int) -> np.ndarray:
    """float32 [I, D], rows of length 1, zero for items without a word that counts; D <= dim.

    Args:
        store: text of I items.
        in_training: bool [I], items whose text the directions are learned from.
        dim: directions, at most.
    """
    rows = _tf_idf(store)
    known = rows[np.flatnonzero(in_training)]
    dim = min(dim, min(known.shape) - 1)
    if dim < 1 or not known.data.any():
        return np.zeros((rows.shape[0], 1), np.float32)
    start = np.random.default_rng(0).standard_normal(min(known.shape))
    _, _, directions = svds(known, k=dim, v0=start, rng=0)
    # A direction and its negative are one: equal input must give equal output.
    peaks = np.abs(directions).argmax(axis=1)
    directions *= np.sign(directions[np.arange(dim), peaks])[:, None]
    return unit((rows @ directions.T).astype(np.float32))


def _tf_idf(store: TextStore) -> sp.csr_array:
    """float64 [I, V], rows of length 1 or zero."""
    slots = np.repeat(np.arange(len(store.distinct_starts) - 1), np.diff(store.distinct_starts))
    items, fields = np.divmod(slots, len(FIELDS))
    weights = store.idf[fields, store.distinct_words]
    matrix = sp.csr_array((weights, (items, store.distinct_words)), shape=(len(store.has), len(store.vocabulary)))
    lengths = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
    return sp.csr_array(sp.diags_array(1 / np.where(lengths > 0, lengths, 1.0)) @ matrix)
