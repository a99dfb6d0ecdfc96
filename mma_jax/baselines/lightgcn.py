"""LightGCN: vectors that are propagated over the graph of who took what, and nothing else (He et al., SIGIR 2020).

    e_u^(k+1) = sum over i in N_u of e_i^(k) / (sqrt|N_u| sqrt|N_i|), and e_i^(k+1) alike         (Eq. 3)
    e_u = sum over k <= K of alpha_k e_u^(k), alpha_k = 1 / (K + 1); e_i alike                    (Eq. 4)
    E = (E0 + A E0 + ... + A^K E0) / (K + 1),  A = D^-1/2 (0 R; R^T 0) D^-1/2                     (Eq. 8)
    loss = - ln sigma(<e_u, e_i> - <e_u, e_j>) + reg |E0|^2, j not taken                          (Eq. 15)

Decided here: of E0 the vectors of the batch are regularised, as in the authors' code. A user without training
interactions is folded in: a node with edges to the items of the history H, without a vector of its own (e_u^(0) = 0),
and without effect on the items' vectors, so that Eq. 3 and 4 give

    e_u = sum over i in H, k < K of e_i^(k) / (sqrt|H| sqrt|N_i|) / (K + 1)
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental.sparse import BCSR
from ml_collections import ConfigDict

from mma_jax.baselines.batches import Choices, choices
from mma_jax.baselines.corpus import Corpus, Query, catalog, embed, look
from mma_jax.baselines.losses import bpr, squares
from mma_jax.baselines.recommender import Given, Model, Recommender


def get_config() -> ConfigDict:
    """Of LightGCN."""
    config = ConfigDict()
    config.dim = 64
    config.layers = 2  # K
    config.reg = 1e-3  # of the batch's layer-0 vectors, mean over its rows
    config.batch = 2048
    config.lr = 1e-3
    config.epochs = 500
    config.validate_every = 5  # epochs
    config.patience = 5  # validations without a better one, then training ends
    config.grid = ""  # settings to choose from on validation: "layers=2,3;reg=1e-3,1e-4"
    return config


class Side(NamedTuple):
    """Users or items as one half of A, of R nodes and N on the other side."""

    degree: jax.Array  # float32 [R, 1], at least 1
    from_other: BCSR  # float32 [R, N]: rows are what a node receives; who has no edge receives nothing


class Graph(NamedTuple):
    """Who took what."""

    users: Side
    items: Side


class Propagated(NamedTuple):
    """What scores need."""

    users: jax.Array  # float32 [U, D]: e_u
    items: jax.Array  # float32 [I, D]: e_i
    shares: jax.Array  # float32 [I, D]: what i gives to a user who is folded in, but for 1 / sqrt|H|


class LightGCN(Model):
    """Layer-0 vectors of users and items; the graph is evidence."""

    def __init__(self, config, corpus: Corpus, rngs: nnx.Rngs):
        init = nnx.initializers.xavier_uniform()
        self.users = nnx.Param(init(rngs.params(), (corpus.n_users, config.dim)))
        self.items = nnx.Param(init(rngs.params(), (corpus.n_items, config.dim)))
        self.catalog = Given(catalog(corpus))
        self.graph = Given(graph(corpus))
        self.reg, self.layers = config.reg, config.layers

    def encode(self) -> Propagated:
        sides = self.graph.get_value()
        users, items, lower = layers(self.layers, sides, self.users[...], self.items[...])
        return Propagated(users, items, lower / jnp.sqrt(sides.items.degree))

    def score(self, tables: Propagated, query: Query, items: jax.Array | None) -> jax.Array:
        length = jnp.maximum((query.history >= 0).sum(axis=1, keepdims=True), 1)
        folded = embed(tables.shares, query.history).sum(axis=1) / jnp.sqrt(length)
        own = jnp.where((query.user >= 0)[:, None], embed(tables.users, query.user), folded)
        if items is None:
            return own @ tables.items.T
        seen = look(self.catalog.get_value(), items, query.mask)
        return jnp.einsum("qd,qbd->qb", own, embed(tables.items, seen.row))

    def loss(self, batch: Choices, key: jax.Array) -> jax.Array:
        first = self.users[...], self.items[...]
        users, items = propagate(self.layers, self.graph.get_value(), *first)
        scores = jnp.einsum("qd,qbd->qb", embed(users, batch.query.user), embed(items, batch.items))
        return bpr(scores) + self.reg * (
            squares(embed(first[0], batch.query.user)) + squares(embed(first[1], batch.items))
        )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def propagate(count: int, graph: Graph, users: jax.Array, items: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Eq. 8, (users, items); as `layers`. A is symmetric, so its gradient is Eq. 8 of the gradient: no scatter."""
    return layers(count, graph, users, items)[:2]


def _forward(count: int, graph: Graph, users: jax.Array, items: jax.Array):
    return propagate(count, graph, users, items), graph


def _backward(count: int, graph: Graph, gradient: tuple[jax.Array, jax.Array]):
    return None, *propagate(count, graph, *gradient)


propagate.defvjp(_forward, _backward)


def layers(count: int, graph: Graph, users: jax.Array, items: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Eq. 8 by Horner's rule, E0 + A (E0 + A (E0 + ...)): no sum of layers beside the layers.

    Args:
        count: K, at least 1.
        graph: of U users and I items.
        users: float32 [U, D], layer 0.
        items: float32 [I, D], layer 0.

    Returns:
        e_u [U, D], e_i [I, D], and the sum of the items' layers below K, over K + 1.
    """
    first = users, items = users / (count + 1), items / (count + 1)
    for _ in range(count):
        lower = items
        users, items = first[0] + graph.users.from_other @ items, first[1] + graph.items.from_other @ users
    return users, items, lower


def graph(corpus: Corpus) -> Graph:
    """The training interactions, normalised by both ends' degrees."""
    degrees = np.bincount(corpus.users, minlength=corpus.n_users), corpus.degree
    weights = 1 / np.sqrt(degrees[0][corpus.users] * degrees[1][corpus.items])
    ends, sides = (corpus.users, corpus.items), []
    for own, other in ((0, 1), (1, 0)):
        shape = len(degrees[own]), len(degrees[other])
        degree = np.maximum(degrees[own], 1).astype(np.float32)[:, None]
        sides.append(Side(jnp.asarray(degree), compressed(ends[own], ends[other], weights, shape)))
    return Graph(*sides)


def compressed(rows: np.ndarray, columns: np.ndarray, values: np.ndarray, shape: tuple[int, int]) -> BCSR:
    """float32 of that shape. On a CPU its product with a dense matrix took an eighth of what sums by row did."""
    order = np.lexsort((columns, rows))
    starts = np.searchsorted(rows[order], np.arange(shape[0] + 1))
    parts = values[order].astype(np.float32), columns[order].astype(np.int32), starts.astype(np.int32)
    return BCSR(tuple(map(jnp.asarray, parts)), shape=shape, indices_sorted=True, unique_indices=True)


def make(config, corpus: Corpus) -> Recommender:
    """LightGCN of a corpus; it sees interactions alone."""
    return Recommender(
        module=functools.partial(LightGCN, config, corpus),
        batches=functools.partial(choices, corpus, size=config.batch),
    )
