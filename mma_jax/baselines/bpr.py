"""BPR-MF: matrix factorisation by Bayesian personalised ranking (Rendle et al., UAI 2009).

    x_ui = <w_u, h_i>                                       (Eq. 6 there)
    loss = - ln sigma(x_ui - x_uj) + reg (|w_u|^2 + |h_i|^2 + |h_j|^2)      (BPR-Opt, §4.1; j not taken)

Decided here: a user without training interactions has no w_u, and is the mean of the history's item vectors;
regularised are the vectors of the batch, as in LightGCN's code and in RecBole. No bias. Vectors start small (Glorot
and Bengio, 2010): with a standard deviation of .1 those of rare items keep their noise, and recall on Amazon Baby is
about half.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from mma_jax.baselines.batches import Choices, choices
from mma_jax.baselines.corpus import Corpus, Query, catalog, embed, look
from mma_jax.baselines.losses import bpr, squares
from mma_jax.baselines.recommender import Given, Model, Recommender
from mma_jax.baselines.views import mean


def get_config() -> ConfigDict:
    """Of BPR-MF."""
    config = ConfigDict()
    config.dim = 64
    config.reg = 3e-2  # of the batch's vectors, mean over its rows; on Amazon Baby 1e-1 is better still, 1e-3 far worse
    config.batch = 2048
    config.lr = 1e-3
    config.epochs = 200
    config.validate_every = 5  # epochs
    config.patience = 5  # validations without a better one, then training ends
    config.grid = ""  # settings to choose from on validation: "lr=1e-3,5e-4;reg=1e-5,1e-4"
    return config


class BPR(Model):
    """Vectors of users and items."""

    def __init__(self, config, corpus: Corpus, rngs: nnx.Rngs):
        init = nnx.initializers.xavier_uniform()
        self.users = nnx.Param(init(rngs.params(), (corpus.n_users, config.dim)))
        self.items = nnx.Param(init(rngs.params(), (corpus.n_items, config.dim)))
        self.catalog = Given(catalog(corpus))
        self.reg = config.reg

    def encode(self) -> tuple[jax.Array, jax.Array]:
        return self.users[...], self.items[...]

    def score(self, tables: tuple[jax.Array, jax.Array], query: Query, items: jax.Array | None) -> jax.Array:
        users, vectors = tables
        own = user_vectors(users, vectors, query)
        if items is None:
            return own @ vectors.T
        seen = look(self.catalog.get_value(), items, query.mask)
        return jnp.einsum("qd,qbd->qb", own, embed(vectors, seen.row))

    def loss(self, batch: Choices, key: jax.Array) -> jax.Array:
        users, vectors = embed(self.users[...], batch.query.user), embed(self.items[...], batch.items)
        scores = jnp.einsum("qd,qbd->qb", users, vectors)
        return bpr(scores) + self.reg * (squares(users) + squares(vectors))


def user_vectors(users: jax.Array, vectors: jax.Array, query: Query) -> jax.Array:
    """float32 [Q, D]: users' own vectors [U, D], or the mean of their history's [I, D] where they have none."""
    others = mean(embed(vectors, query.history), query.history >= 0, axis=1)
    return jnp.where((query.user >= 0)[:, None], embed(users, query.user), others)


def make(config, corpus: Corpus) -> Recommender:
    """Matrix factorisation of a corpus; it sees interactions alone."""
    return Recommender(
        module=functools.partial(BPR, config, corpus),
        batches=functools.partial(choices, corpus, size=config.batch),
    )
