"""MMGCN: a user-item graph for each modality (Wei et al., "MMGCN: Multi-modal Graph Convolution Network for
Personalized Recommendation of Micro-video", ACM MM 2019).

    h_m   = LeakyReLU(1/|N_u| sum_{j in N_u} W1 j_m)        (Eq. 2 there: mean aggregation, for Eq. 1)
    û_m   = LeakyReLU(W2 u_m) + u_id                        (Eq. 5)
    u_m'  = LeakyReLU(W3 h_m + û_m)                         (Eq. 7: element-wise combination, for Eq. 4)
    `layers` times (Eq. 8), W1, W2, W3 of each layer and modality its own; items alike
    u*    = sum_m u_m,  i* = sum_m i_m,  score = <u*, i*>,  BPR with L2 on IDs and preferences

u_m starts as the user's own preference vector for the modality, i_m as the item's projected content, both at unit
length, as in the authors' code. Decided here:

 - The authors' settings combine element-wise and aggregate by mean with two layers; so does this. No biases: what is
   missing is a zero vector, and stays one.
 - An item without text or image of its own starts from zero in that graph. A modality that a query hides has zeros for
   all items (the graph of interactions, IDs and preferences are behavior, and remain): both graphs are computed, and
   each row of a query takes the one it may see. A dataset without content has one such graph of zeros.
 - Without behavior there are neither edges nor IDs: h_m = 0, u_id = 0; a user starts from the projected profile instead
   of a preference vector, an item from its content. An item without training interactions is such a node too. A user
   without training interactions has the history as neighbours, if behavior survives.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from mma_jax.baselines.batches import Choices, masked
from mma_jax.baselines.corpus import Catalog, Corpus, Query, catalog, embed, look
from mma_jax.baselines.layers import unit_rows
from mma_jax.baselines.lightgcn import graph, mean_of_items, mean_of_users
from mma_jax.baselines.losses import bpr, squares
from mma_jax.baselines.recommender import Given, Model, Recommender
from mma_jax.types import MODALITIES


def get_config() -> ConfigDict:
    """Of MMGCN."""
    config = ConfigDict()
    config.dim = 64
    config.layers = 2
    config.reg = 1e-4  # of the batch's IDs and preferences, mean over its rows
    config.negatives = 1
    config.history = 50  # items that make a profile
    config.batch = 4096  # the graphs are computed once a batch
    config.lr = 1e-3
    config.epochs = 100
    config.validate_every = 5  # epochs
    config.patience = 5  # validations without a better one, then training ends
    config.grid = ""  # settings to choose from on validation: "lr=1e-3,5e-4;reg=1e-4,1e-2"
    return config


class Tables(NamedTuple):
    """Vectors of M modalities; of the two graphs of each, the first sees its content."""

    users: jax.Array  # float32 [M, 2, U, D], after the last layer
    items: tuple[jax.Array, ...]  # float32 [M, 2, I, D] each, before the first layer and after every one
    catalog: Catalog  # its content: items without edges and ID, after the last layer, float32 [I, D]


class MMGCN(Model):
    """One graph convolution network a modality, all of them computed together."""

    def __init__(self, config, corpus: Corpus, rngs: nnx.Rngs):
        self.names = tuple(sorted(corpus.content)) or ("",)
        init, layer = nnx.initializers.glorot_normal(), nnx.initializers.glorot_normal(batch_axis=(0, 1))
        self.users = nnx.Param(init(rngs.params(), (corpus.n_users, config.dim)))
        self.items = nnx.Param(init(rngs.params(), (corpus.n_items, config.dim)))
        wanted = len(self.names), corpus.n_users, config.dim
        self.preferences = nnx.Param(nnx.initializers.glorot_normal(batch_axis=0)(rngs.params(), wanted))
        self.kernels = nnx.Dict(
            {
                name: nnx.Param(init(rngs.params(), (table.shape[1], config.dim)))
                for name, table in sorted(corpus.content.items())
            }
        )
        weights = config.layers, len(self.names), config.dim, config.dim
        self.w1 = nnx.Param(layer(rngs.params(), weights))
        self.w2 = nnx.Param(layer(rngs.params(), weights))
        self.w3 = nnx.Param(layer(rngs.params(), weights))
        self.catalog, self.graph = Given(catalog(corpus)), Given(graph(corpus))
        self.reg = config.reg

    def encode(self) -> Tables:
        given, taken = self.catalog.get_value(), self.graph.get_value()
        own = self._start(given.content, len(self.items))  # [M, I, D]
        items = jnp.stack([own, jnp.zeros_like(own)], axis=1)
        users = jnp.repeat(unit_rows(self.preferences[...])[:, None], 2, axis=1)
        layers = [items]
        for weights in self._layers():
            to_users, to_items = mean_of_items(taken, items), mean_of_users(taken, users)
            users = combine(weights, to_users, users, self.users[...])
            items = combine(weights, to_items, items, self.items[...])
            own = combine(weights, None, own, 0.0)
            layers.append(items)
        alone = {name: own[place] for place, name in enumerate(self.names) if name}
        return Tables(users, tuple(layers), given._replace(content=alone))

    def score(self, tables: Tables, query: Query, items: jax.Array) -> jax.Array:
        return self._score(tables, query, items, self._newcomers(query, tables.items))

    def loss(self, batch: Choices, key: jax.Array) -> jax.Array:
        query = batch.query
        newcomers = self._newcomers(query, None)  # in training nobody without an ID has a history that shows
        scores = self._score(self.encode(), query, batch.items, newcomers)
        own = jnp.concatenate([self.users[...], *self.preferences[...]], axis=1)
        return bpr(scores) + self.reg * (squares(embed(own, query.user)) + squares(embed(self.items[...], batch.items)))

    def _score(self, tables: Tables, query: Query, items: jax.Array, newcomers: jax.Array) -> jax.Array:
        shown, seen = self._shown(query.mask), look(tables.catalog, items, query.mask)
        known = of_graph(tables.users, query.user[:, None], shown)[:, 0].sum(axis=1)
        user = jnp.where(query.user[:, None] >= 0, known, newcomers)
        alone = sum(seen.content.values(), jnp.zeros(()))
        linked = of_graph(tables.items[-1], seen.row, shown).sum(axis=2)
        return jnp.einsum("qd,qbd->qb", user, jnp.where((seen.row >= 0)[..., None], linked, alone))

    def _newcomers(self, query: Query, items: tuple[jax.Array, ...] | None) -> jax.Array:
        """float32 [Q, D]: users without an ID, from profile and history.

        Args:
            query: Q rows.
            items: of `Tables`; None: nobody shows a history.
        """
        vectors, shown = self._start(query.profile, len(query.user)), self._shown(query.mask)
        for number, weights in enumerate(self._layers()):
            messages = None
            if items is not None:
                count = jnp.maximum((query.history >= 0).sum(axis=1), 1)[:, None, None]
                messages = of_graph(items[number], query.history, shown).sum(axis=1) / count  # [Q, M, D]
                messages = messages.swapaxes(0, 1)
            vectors = combine(weights, messages, vectors, 0.0)
        return vectors.sum(axis=0)

    def _start(self, content: dict[str, jax.Array], count: int) -> jax.Array:
        """float32 [M, N, D]: content [N, D_m] of N = count nodes projected, at unit length."""
        if not content:
            return jnp.zeros((1, count, self.items.shape[-1]))
        return unit_rows(jnp.stack([content[name] @ self.kernels[name][...] for name in self.names]))

    def _layers(self) -> list[tuple[jax.Array, jax.Array, jax.Array]]:
        return list(zip(self.w1[...], self.w2[...], self.w3[...], strict=True))

    def _shown(self, mask: jax.Array) -> jax.Array:
        """bool [Q, M]: which content a query may see."""
        columns = [mask[:, MODALITIES.index(name)] if name else jnp.zeros(len(mask), bool) for name in self.names]
        return jnp.stack(columns, axis=1)


def combine(weights: tuple[jax.Array, ...], mean: jax.Array | None, vectors: jax.Array, ids) -> jax.Array:
    """float32 [M, ..., N, D]: one layer, Eqs. 2, 5 and 7.

    Args:
        weights: W1, W2 and W3, [M, D, D] each.
        mean: [M, ..., N, D], of the neighbours (W1 is linear: it may come after the mean). None: there are none.
        vectors: [M, ..., N, D], of the nodes themselves.
        ids: [N, D], or 0.
    """
    w1, w2, w3 = weights
    own = nnx.leaky_relu(times(vectors, w2)) + ids
    return nnx.leaky_relu(own if mean is None else times(nnx.leaky_relu(times(mean, w1)), w3) + own)


def times(vectors: jax.Array, weights: jax.Array) -> jax.Array:
    """[M, ..., D] by [M, D, E], modality by modality."""
    return jnp.einsum("m...d,mde->m...e", vectors, weights)


def of_graph(tables: jax.Array, rows: jax.Array, shown: jax.Array) -> jax.Array:
    """float32 [Q, B, M, D]: rows int32 [Q, B] of tables [M, 2, N, D], each modality from the graph that a query may
    see (shown: bool [Q, M]); zero where a row is -1."""
    graph = jnp.where(shown, 0, 1)[:, None]  # [Q, 1, M]
    found = jnp.moveaxis(tables, 2, 0)[jnp.maximum(rows, 0)[..., None], jnp.arange(len(tables)), graph]
    return jnp.where((rows >= 0)[..., None, None], found, 0.0)


def make(config, corpus: Corpus) -> Recommender:
    """The graphs of a corpus."""
    return Recommender(
        module=functools.partial(MMGCN, config, corpus),
        batches=masked(config, corpus, config.negatives),
    )
