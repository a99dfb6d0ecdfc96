"""Which items an item retrieves: the subgraphs of GRE-MC, made once before training, and its positional encodings.

What is searched, and how a subgraph grows, is told in `gre_mc`.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import scipy.sparse.csgraph
import scipy.sparse.linalg

from mma_jax.baselines.corpus import CONTENT, Corpus
from mma_jax.baselines.views import MASKS

DENSE = 4000
"""Items up to which all eigenvectors are computed: exact also where eigenvalues coincide."""


def shared(corpus: Corpus) -> sp.csr_array:
    """float32 [I, I]: 1 where a user took both items, nothing on the diagonal."""
    both = sp.coo_array(corpus.taken.T @ corpus.taken)
    apart = both.row != both.col
    return sp.csr_array((np.ones(apart.sum(), np.float32), (both.row[apart], both.col[apart])), shape=both.shape)


def eigenvectors(edges: sp.csr_array, count: int) -> np.ndarray:
    """float32 [I, count]: of the normalised Laplacian's smallest eigenvalues but the first; rows of length about 1.

    They are those of D^-1/2 A D^-1/2 with the largest ones. Zero where a graph has too few, and for items without edge.
    """
    degree = np.asarray(edges.sum(axis=1)).ravel()
    linked = np.flatnonzero(degree > 0)
    out = np.zeros((edges.shape[0], count), np.float32)
    if len(linked) < 3:
        return out
    scale = sp.diags_array(degree[linked] ** -0.5)
    matrix = (scale @ edges[linked][:, linked] @ scale).astype(np.float64)
    if len(linked) <= DENSE:
        vectors = np.linalg.eigh(matrix.toarray())[1][:, ::-1]
    else:
        start = np.random.default_rng(0).normal(size=len(linked))  # fixed: the same vectors every time
        values, vectors = scipy.sparse.linalg.eigsh(matrix, count + 1, which="LA", v0=start, ncv=4 * (count + 1))
        vectors = vectors[:, np.argsort(-values)]
    vectors = vectors[:, 1 : count + 1]
    signs = np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(vectors.shape[1])])
    out[linked, : vectors.shape[1]] = vectors * signs * np.sqrt(len(linked) / max(vectors.shape[1], 1))
    return out


def retrieve(config, corpus: Corpus) -> np.ndarray:
    """int32 [8, I, nodes]: the subgraph of each item for what is seen of it (views.MASKS), -1: fewer, or no need."""
    out = np.full((len(MASKS), corpus.n_items, config.nodes), -1, np.int32)
    known, edges = corpus.degree > 0, shared(corpus)
    for number, (*shown, behavior) in enumerate(MASKS):
        seen = [name for name, there in zip(CONTENT, shown, strict=True) if there]
        missing = [name for name in corpus.content if name not in seen]
        if not missing or not set(seen) <= set(corpus.content) or not (seen or behavior):
            continue
        wanted = known & np.any([corpus.has[name] for name in missing], axis=0)
        rows = np.flatnonzero(np.all([corpus.has[name] for name in seen] + [known | ~behavior], axis=0))
        for chunk in np.array_split(rows, max(1, len(rows) // 256)):
            for item, relevance, near in zip(chunk, *similar(corpus, seen, chunk), strict=True):
                anchors = nearest(near, wanted & (np.arange(corpus.n_items) != item), config.anchors)
                nodes = grown(edges, anchors, relevance, item, config) if behavior else anchors
                nodes = anchors + sorted(set(nodes) - set(anchors), key=lambda node: -relevance[node])
                out[number, item, : len(nodes)] = nodes[: config.nodes]
    return out


def similar(corpus: Corpus, seen: list[str], rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(r, what anchors are near by): float32 [R, I] each, of items int [R]; -inf: no anchor.

    Content is of unit rows, so products are cosines. One modality of content is seen, or none (else nothing would be
    missing): then the cosine of who took the items stands for both.
    """
    if seen:
        near = np.mean([corpus.content[name][rows] @ corpus.content[name].T for name in seen], axis=0)
        there = np.all([corpus.has[name] for name in seen], axis=0)
        return np.where(there, near, 0.0), np.where(there, near, -np.inf)
    matrix = corpus.taken @ sp.diags_array(np.maximum(corpus.degree, 1) ** -0.5)
    near = (matrix[:, rows].T @ matrix).toarray()
    return near, np.where(near > 0, near, -np.inf)


def nearest(near: np.ndarray, allowed: np.ndarray, count: int) -> list[int]:
    """The items with the largest of `near` (float [I]) that are allowed (bool [I]), best first."""
    near = np.where(allowed, near, -np.inf)
    best = np.argpartition(-near, min(count, len(near) - 1))[:count]
    best = best[np.lexsort((best, -near[best]))]
    return [int(item) for item in best if np.isfinite(near[item])]


def grown(edges: sp.csr_array, anchors: list[int], relevance: np.ndarray, query: int, config) -> list[int]:
    """The subgraph of an item (`query`) from its anchors: connected, then expanded."""
    nodes = {*anchors, *connected(edges, anchors, relevance, query, config.hops)}
    return expanded(edges, nodes, set(anchors), relevance, query, config.steps)


def around(edges: sp.csr_array, nodes) -> np.ndarray:
    """int [.]: the neighbors of nodes, with repetitions."""
    ends = [edges.indices[edges.indptr[node] : edges.indptr[node + 1]] for node in nodes]
    return np.concatenate(ends) if ends else np.zeros(0, np.int32)


def connected(edges: sp.csr_array, anchors: list[int], relevance: np.ndarray, query: int, hops: int) -> list[int]:
    """The items on shortest paths from all anchors to the first item that all of them reach, without passing `query`.

    Args:
        edges: [I, I], symmetric.
        anchors: where the paths begin.
        relevance: float [I]; of several such items, and of several paths, the more relevant is taken.
        query: the item that is not to be passed.
        hops: the longest path; [] if that does not do.
    """
    distance = np.full((len(anchors), edges.shape[0]), -1)
    distance[:, query] = -2
    distance[np.arange(len(anchors)), anchors] = 0
    for hop in range(hops + 1):
        if len(met := np.flatnonzero((distance >= 0).all(axis=0))):
            root = int(met[np.argmax(relevance[met])])
            return [node for one in distance for node in path(edges, one, relevance, root)]
        for one in distance:
            reached = around(edges, np.flatnonzero(one == hop))
            one[reached[one[reached] == -1]] = hop + 1
    return []


def path(edges: sp.csr_array, distance: np.ndarray, relevance: np.ndarray, node: int) -> list[int]:
    """From a node to where the distance (int [I], negative: not reached) is 0, both included."""
    out = [node]
    while distance[node] > 0:
        ends = around(edges, [node])
        ends = ends[distance[ends] == distance[node] - 1]
        node = int(ends[np.argmax(relevance[ends])])
        out.append(node)
    return out


def expanded(
    edges: sp.csr_array, nodes: set[int], anchors: set[int], relevance: np.ndarray, query: int, steps: int
) -> list[int]:
    """Adds border nodes and drops others than anchors, one a step, while the mean relevance grows."""
    nodes = set(nodes)
    for _ in range(steps):
        if not nodes:
            break
        total, size = sum(relevance[node] for node in nodes), len(nodes)
        border = np.setdiff1d(around(edges, nodes), [*nodes, query])
        changes = []
        if len(border):
            best = int(border[np.argmax(relevance[border])])
            changes.append(((total + relevance[best]) / (size + 1), nodes | {best}))
        for node in sorted(nodes - anchors):
            without = nodes - {node}
            if without and (total - relevance[node]) / (size - 1) > total / size and whole(edges, nodes, without):
                changes.append(((total - relevance[node]) / (size - 1), without))
        value, changed = max(changes, key=lambda change: change[0], default=(-np.inf, nodes))
        if value <= total / size:
            break
        nodes = changed
    return sorted(nodes)


def whole(edges: sp.csr_array, before: set[int], after: set[int]) -> bool:
    """Whether nodes fall into no more pieces than before."""
    counts = [
        scipy.sparse.csgraph.connected_components(edges[rows][:, rows])[0] for rows in (sorted(before), sorted(after))
    ]
    return counts[1] <= counts[0]
