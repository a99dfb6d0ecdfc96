"""What stands in for an item's missing text or image (Malitesta et al., "Do We Really Need to Drop Items with Missing
Modalities in Multimodal Recommendation?", CIKM 2024; feature propagation after Rossi et al., LoG 2022).

    zeros           x_i = 0
    mean            x_i = mean of x_j over the training items j that have the modality
    neighbor_mean   x_i = mean of x_j over those of i's nearest training items that have it
    propagation     X <- A X, what is known put back after every step

Nearest are, by behavior, the items that most users share with i (top-k rows of R^T R, edges of weight 1, as in the
paper), ties to the item with fewer users; by content, those of the largest positive cosine. Only training items (with
an interaction in the training part) are anybody's neighbour; any item may ask.

Decided here. A is the row-normalised graph, so that a fill is a weighted mean of real vectors; the paper's symmetric
normalisation would shrink or stretch it by degree. Propagation is written as weights: x_i is the mean of the vectors at
which walks from i end, a walk ending at the first item that has the modality (what is put back is never passed on).
Where no walk of `steps` steps ends, there is no fill by this source.

No item's own vector is in its own fill: walks that come back to i are dropped and the other weights made to sum to one,
which in the limit of many steps is what propagation gives with x_i unknown. The mean is one and the same for all items:
a mean without x_i would differ from item to item by -x_i / (n - 1), and so give the hidden vector away.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse

from mma_jax.baselines.corpus import Corpus, Items

KINDS = ("zeros", "mean", "neighbor_mean", "propagation")
CHUNK = 512  # rows of a similarity matrix at a time


class Fill(NamedTuple):
    """Of one modality. A source is what surviving evidence the neighbours come from: "behavior" or a content."""

    mean: jax.Array  # float32 [D], where no source helps
    tables: dict[str, jax.Array]  # source -> float32 [I, D]
    found: dict[str, jax.Array]  # source -> bool [I]: the table has something for this item


def fills(corpus: Corpus, kind: str, neighbors: int, steps: int) -> dict[str, Fill]:
    """modality -> Fill, from the training items' content alone.

    Args:
        corpus: of I items.
        kind: one of KINDS.
        neighbors: edges from each item.
        steps: of propagation.
    """
    if kind not in KINDS:
        raise ValueError(f"fill {kind!r}: one of {', '.join(KINDS)}")
    graphs = {}
    if kind in ("neighbor_mean", "propagation"):
        graphs["behavior"] = near_by_behavior(corpus, neighbors)
        graphs |= {name: near_by_content(corpus, name, neighbors) for name in corpus.content}
    steps = steps if kind == "propagation" else 1
    return {name: _fill(corpus, name, kind, graphs, steps) for name in corpus.content}


def _fill(corpus: Corpus, name: str, kind: str, graphs: dict[str, sparse.csr_array], steps: int) -> Fill:
    bank, ends = corpus.content[name], corpus.has[name] & (corpus.degree > 0)
    mean = bank[ends].mean(axis=0) if ends.any() and kind != "zeros" else np.zeros(bank.shape[1])
    tables, found = {}, {}
    for source, graph in graphs.items():
        if source != name:
            weights = walks(graph, ends, steps)
            tables[source] = jnp.asarray(weights @ bank, jnp.float32)
            found[source] = jnp.asarray(weights.sum(axis=1) > 0)
    return Fill(jnp.asarray(mean, jnp.float32), tables, found)


def walks(graph: sparse.csr_array, ends: np.ndarray, steps: int) -> sparse.csr_array:
    """float [I, I]: how often a random walk from i ends at j, i itself left out; rows sum to 1, or to 0.

    Args:
        graph: [I, I], edges i -> j.
        ends: bool [I], where walks end.
        steps: the longest walk.
    """
    step = _rows_to_one(graph)
    end, through = sparse.diags_array(ends.astype(float)), sparse.diags_array((~ends).astype(float))
    onward = end
    for _ in range(steps - 1):
        onward = end + through @ (step @ onward)
    return _rows_to_one(_without_diagonal(step @ onward))


def near_by_behavior(corpus: Corpus, count: int) -> sparse.csr_array:
    """float [I, I] of zeros and ones: the items that most users share with an item."""
    shared = sparse.csr_array(corpus.taken.T @ corpus.taken)
    rarer = 1 - corpus.degree / (corpus.degree.max(initial=0) + 1)  # in (0, 1]: among equals, and never more than one
    known = corpus.degree > 0

    def score(rows: np.ndarray) -> np.ndarray:
        users = shared[rows].toarray()
        return np.where(users > 0, users + rarer, 0)

    return _nearest(score, known, known, count)


def near_by_content(corpus: Corpus, name: str, count: int) -> sparse.csr_array:
    """float [I, I] of zeros and ones: the training items of the largest positive cosine in one modality."""
    table, has = corpus.content[name], corpus.has[name]  # unit rows
    return _nearest(lambda rows: table[rows] @ table.T, has, has & (corpus.degree > 0), count)


def complete(fill: Fill, seen: Items, name: str, items: jax.Array) -> jax.Array:
    """float32 [Q, B, D]: items' vectors of a modality, or what stands in for them: by behavior, by the other content,
    the mean, whichever is there first.

    Args:
        fill: of the modality, in the space of `seen.content`.
        seen: what survives the masks.
        name: of the modality.
        items: int32 [Q, B].
    """
    survives = {source: seen.row >= 0 if source == "behavior" else seen.has[source] for source in fill.tables}
    vectors = fill.mean
    for source in sorted(fill.tables, reverse=True):  # "behavior" comes last and so has the last word
        there = survives[source] & fill.found[source][items]
        vectors = jnp.where(there[..., None], fill.tables[source][items], vectors)
    return jnp.where(seen.has[name][..., None], seen.content[name], vectors)


def projected(fill: Fill, kernel: jax.Array) -> Fill:
    """The fill of vectors that a kernel [D, d] has projected."""
    return fill._replace(
        mean=fill.mean @ kernel, tables={source: table @ kernel for source, table in fill.tables.items()}
    )


def _nearest(
    score: Callable[[np.ndarray], np.ndarray], asking: np.ndarray, allowed: np.ndarray, count: int
) -> sparse.csr_array:
    """float [I, I]: ones at each asking item's `count` allowed others of the highest positive score.

    Args:
        score: rows int [C] -> float [C, I].
        asking: bool [I].
        allowed: bool [I].
        count: at most.
    """
    total, pairs = len(asking), [np.zeros((2, 0), int)]
    asking = np.flatnonzero(asking)
    for start in range(0, len(asking), CHUNK):
        rows = asking[start : start + CHUNK]
        scores = np.where(allowed, score(rows), 0)
        scores[np.arange(len(rows)), rows] = 0
        best = np.argpartition(-scores, min(count, total) - 1, axis=1)[:, :count]
        row, place = np.nonzero(np.take_along_axis(scores, best, axis=1) > 0)
        pairs.append(np.stack([rows[row], best[row, place]]))
    rows, columns = np.concatenate(pairs, axis=1)
    return sparse.csr_array((np.ones(len(rows)), (rows, columns)), shape=(total, total))


def _rows_to_one(graph: sparse.csr_array) -> sparse.csr_array:
    total = np.asarray(graph.sum(axis=1)).ravel()
    return sparse.csr_array(sparse.diags_array(1 / np.where(total > 0, total, 1)) @ graph)


def _without_diagonal(graph: sparse.csr_array) -> sparse.csr_array:
    """The entries are removed, not set to zero: 0 * x would still pass on a nan."""
    graph = sparse.coo_array(graph)
    off = graph.row != graph.col
    return sparse.csr_array((graph.data[off], (graph.row[off], graph.col[off])), shape=graph.shape)
