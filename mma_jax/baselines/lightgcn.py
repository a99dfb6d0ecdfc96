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
from ml_collections import ConfigDict

from mma_jax.baselines.batches import Choices, choices
from mma_jax.baselines.corpus import Corpus, Query, catalog, embed, look
from mma_jax.baselines.losses import bpr, squares
from mma_jax.baselines.recommender import Given, Model, Recommender
from mma_jax.baselines.sparse import Sparse, sparse


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


class Graph(NamedTuple):
    """Who took what, of U users and I items."""

    user_degree: jax.Array  # float32 [U, 1], at least 1
    item_degree: jax.Array  # float32 [I, 1], at least 1
    edges: Sparse  # float32 [U, I], normalised by both ends' degrees; who has no edge receives nothing


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
        graph = self.graph.get_value()
        users, items, lower = layers(self.layers, graph, self.users[...], self.items[...])
        return Propagated(users, items, lower / jnp.sqrt(graph.item_degree))

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


def propagate(count: int, graph: Graph, users: jax.Array, items: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Eq. 8, (users, items); as `layers`."""
    return layers(count, graph, users, items)[:2]


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
        users, items = first[0] + graph.edges @ items, first[1] + graph.edges.T @ users
    return users, items, lower


def graph(corpus: Corpus) -> Graph:
    """The training interactions, normalised."""
    degrees = np.bincount(corpus.users, minlength=corpus.n_users), corpus.degree
    weights = 1 / np.sqrt(degrees[0][corpus.users] * degrees[1][corpus.items])
    edges = sparse(corpus.users, corpus.items, weights, (corpus.n_users, corpus.n_items))
    return Graph(*(jnp.asarray(np.maximum(degree, 1)[:, None], jnp.float32) for degree in degrees), edges)


def mean_of_items(graph: Graph, items: jax.Array) -> jax.Array:
    """float32 [..., U, D]: the mean of each user's items [..., I, D]; zero without any."""
    return _passed(graph.edges, items * jnp.sqrt(graph.item_degree)) / jnp.sqrt(graph.user_degree)


def mean_of_users(graph: Graph, users: jax.Array) -> jax.Array:
    """float32 [..., I, D]: the mean of each item's users [..., U, D]; zero without any."""
    return _passed(graph.edges.T, users * jnp.sqrt(graph.user_degree)) / jnp.sqrt(graph.item_degree)


def _passed(matrix: Sparse, vectors: jax.Array) -> jax.Array:
    """[..., R, D] of [..., N, D], all of them in one product."""
    rows = jnp.moveaxis(vectors, -2, 0)
    sums = matrix @ rows.reshape(len(rows), -1)
    return jnp.moveaxis(sums.reshape(-1, *rows.shape[1:]), 0, -2)


def make(config, corpus: Corpus) -> Recommender:
    """LightGCN of a corpus; it sees interactions alone."""
    return Recommender(
        module=functools.partial(LightGCN, config, corpus),
        batches=functools.partial(choices, corpus, size=config.batch),
    )
