"""Behavioral evidence: the item–item collaborative graph and its spectral embedding (MMA §3.2 Retrieve_Graph).

The graph counts how often two items share a basket: a user's training positives, or a pair that the source itself
lists as bought together. With R [baskets, I] binary, n a basket's size and d an item's degree,

    W = D^-b (R^T N^-1 R - diagonal) D^-b,    N = diag(n), D = diag(d)

so large baskets and popular items are discounted. The diagonal, an item's company with itself, is left out: it says
nothing about others. The embedding holds the leading eigenvectors of W, as in PureSVD (Cremonesi, Koren, Turrin,
RecSys 2010), with its eigenvalues damped. I = items, D = dimensions.

The constants were chosen by recall@100 of validation targets on ml-100k and Amazon Beauty. Beside them, changing one
choice at a time: diagonal kept .605 and .189 (with b = 1/2), left out .614 and .210; rows shortened as well .619 and
.230; b = .4 instead of 1/2 .619 and .254; 32, 64, 128, 256 dimensions .626 .627 .619 .611 and .208 .239 .254 .247.
"""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import LinearOperator, eigsh

from mma_jax.features import storage

POPULARITY_DISCOUNT = 0.4
"""The exponent b on the degrees; 1/2 would be the cosine."""

SPECTRUM_EXPONENT = 0.25
"""Coordinate j of the embedding is scaled by eigenvalue_j to this power."""

ITEMS_PER_DIMENSION = 32
LEAST_DIMENSIONS = 16
"""A small catalog cannot feed many dimensions: the rest would be noise, and cost a third of the precision on
generated graphs of 600 items."""

ITEMS_PER_BLOCK = 1024


@dataclasses.dataclass(frozen=True, eq=False)
class GraphStore:
    """All behavioral evidence about items. One that shares no basket with another has=False and a zero row, for there
    is nothing to compare it by; its popularity counts all the same."""

    embedding: np.ndarray  # float32 [I, D]
    has: np.ndarray  # bool [I] the item has a vector
    neighbors: np.ndarray  # int32 [I, n_neighbors] strongest first, -1 padded
    popularity: np.ndarray  # int32 [I] baskets the item is in: users, or listed pairs

    def save(self, directory: str | os.PathLike) -> None:
        """Writes the store to a folder, replacing what was there."""
        storage.save(directory, {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}, {})


def load(directory: str | os.PathLike) -> GraphStore:
    """Reads what `GraphStore.save` wrote; the arrays stay on disk until touched."""
    arrays, _ = storage.load(directory)
    return GraphStore(**arrays)


def build(
    users: np.ndarray,  # int32 [N] and
    items: np.ndarray,  # int32 [N]: training positives
    n_users: int,
    n_items: int,
    copurchases: np.ndarray | None = None,  # int32 [E, 2] item pairs; if given, they are the baskets
    dim: int = 128,
    n_neighbors: int = 20,
    seed: int = 0,
) -> GraphStore:
    """Builds the graph; repeated entries count once. Equal input gives equal output (`seed` starts the solver).

    D is `dim`, or less for small catalogs: one dimension for every 32 items, but at least 16. Dimensions beyond
    the number of positive eigenvalues are zero.
    """
    if copurchases is None:
        baskets = _incidence(users, items, n_users, n_items)
    else:
        pairs = np.unique(np.sort(np.asarray(copurchases, np.int64).reshape(-1, 2), axis=1), axis=0)
        pairs = pairs[pairs[:, 0] != pairs[:, 1]]
        baskets = _incidence(np.repeat(np.arange(len(pairs)), 2), pairs.ravel(), len(pairs), n_items)
    degree = np.bincount(baskets.indices, minlength=n_items)
    weighted = _discount(baskets, degree)
    embedding = _embed(weighted, min(dim, max(LEAST_DIMENSIONS, n_items // ITEMS_PER_DIMENSION)), seed)
    return GraphStore(
        embedding=embedding,
        has=embedding.any(axis=1),
        neighbors=_strongest(weighted, n_neighbors),
        popularity=degree.astype(np.int32),
    )


def _incidence(baskets: np.ndarray, items: np.ndarray, n_baskets: int, n_items: int) -> sp.csr_array:
    """float64 [baskets, I] of 0 and 1."""
    matrix = sp.csr_array((np.ones(len(items)), (baskets, items)), shape=(n_baskets, n_items))
    matrix.sum_duplicates()
    matrix.data[:] = 1.0
    return matrix


def _discount(baskets: sp.csr_array, degree: np.ndarray) -> sp.csr_array:
    """X = N^-1/2 R D^-b, so that W is X^T X without its diagonal."""
    size = np.diff(baskets.indptr)
    by_size = 1.0 / np.sqrt(np.maximum(size, 1))
    by_degree = np.maximum(degree, 1.0) ** -POPULARITY_DISCOUNT
    values = np.repeat(by_size, size) * by_degree[baskets.indices]
    return sp.csr_array((values, baskets.indices, baskets.indptr), shape=baskets.shape)


def _embed(weighted: sp.csr_array, dim: int, seed: int) -> np.ndarray:
    """float32 [I, dim]: eigenvectors of W scaled by their damped eigenvalues, long rows shortened.

    A row's length grows with the item's degree; dividing by its square root lets less popular items be retrieved.
    """
    shared = weighted[np.diff(weighted.indptr) > 1]  # a basket of one item links nothing
    linked = np.unique(shared.indices)
    rows = np.zeros((weighted.shape[1], dim))
    if len(linked):
        values, vectors = _leading_eigenpairs(shared[:, linked], dim, seed)
        rows[linked, : len(values)] = vectors * np.maximum(values, 0.0) ** SPECTRUM_EXPONENT
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, np.sqrt(lengths), out=np.zeros_like(rows), where=lengths > 0).astype(np.float32)


def _leading_eigenpairs(weighted: sp.csr_array, dim: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The at most `dim` largest eigenvalues of W, descending, and their eigenvectors [I, .] with a fixed sign."""
    n_items = weighted.shape[1]
    transposed = weighted.T.tocsr()
    diagonal = np.bincount(weighted.indices, weights=weighted.data**2, minlength=n_items)
    if dim >= n_items - 1:  # Lanczos needs room; so few items are solved densely.
        values, vectors = np.linalg.eigh((transposed @ weighted).toarray() - np.diag(diagonal))
    else:
        graph = LinearOperator(
            (n_items, n_items), matvec=lambda x: transposed @ (weighted @ x) - diagonal * x, dtype=np.float64
        )
        # Without rng, a restart on a degenerate spectrum would draw from the global state.
        start = np.random.default_rng(seed).standard_normal(n_items)
        values, vectors = eigsh(graph, k=dim, which="LA", v0=start, rng=seed)
    order = np.argsort(-values, kind="stable")[:dim]
    values, vectors = values[order], vectors[:, order]
    peaks = np.abs(vectors).argmax(axis=0)
    return values, vectors * np.where(vectors[peaks, np.arange(len(values))] < 0, -1.0, 1.0)


def _strongest(weighted: sp.csr_array, n_neighbors: int) -> np.ndarray:
    """int32 [I, n_neighbors] each item's largest entries of W, exact; equal ones by item index; -1 padded."""
    n_items = weighted.shape[1]
    transposed = weighted.T.tocsr()
    neighbors = np.full((n_items, n_neighbors), -1, np.int32)
    for start in range(0, n_items, ITEMS_PER_BLOCK):
        block = (transposed[start : start + ITEMS_PER_BLOCK] @ weighted).tocoo()
        row, item, strength = block.row + start, block.col, block.data
        other = row != item
        row, item, strength = row[other], item[other], strength[other]
        order = np.lexsort((item, -strength, row))
        row, item = row[order], item[order]
        place = np.arange(len(row)) - np.searchsorted(row, row)
        kept = place < n_neighbors
        neighbors[row[kept], place[kept]] = item[kept]
    return neighbors
