"""A plain multimodal recommender whose missing text and images are completed: Complete-Zeros, Complete-Mean,
Complete-NeighborMean and Complete-Propagation (Malitesta et al., CIKM 2024; `fills` has the fills and their formulas).

    u = e_u + sum_m W_m p_um        e_u: own vector, or the mean of the history's e_i; p_um: mean content of the history
    i = e_i + sum_m W_m x_im        x_im: content, completed where it is masked or absent
    score = <u, i>,  loss = BPR + reg (|e_u|^2 + |e_i|^2)

The paper puts its fills before VBPR and graph models; decided here is the simplest scorer that uses IDs and content
both, so that the four differ in nothing but the fill. One W_m for users and items: a profile is a mean of items.

What is filled by what. An item by its neighbours in behavior where that survives; by those in the other content
otherwise; by the training items' mean if neither helps. A user's missing profile by the mean of the fills of the
history's items where behavior survives, else by the mean of all. An identity is never filled: e is zero where hidden.
Masks hide content at test time while the training items' content has been learned: fills are computed once from the
training part and kept with the parameters. No item meets its own hidden vector there (see `fills`); it may be among
what completes another item, or a user's history.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from mma_jax.baselines.batches import Choices, masked
from mma_jax.baselines.bpr import user_vectors
from mma_jax.baselines.corpus import Catalog, Corpus, Query, catalog, embed, look, present
from mma_jax.baselines.fills import Fill, complete, fills, projected
from mma_jax.baselines.losses import bpr, squares
from mma_jax.baselines.recommender import Given, Kept, Model, Recommender
from mma_jax.baselines.views import mean


def get_config() -> ConfigDict:
    """Of all four completions, so that they are compared with the same scorer."""
    config = ConfigDict()
    config.dim = 64
    config.neighbors = 20  # of an item, in either graph
    config.steps = 3  # of Complete-Propagation
    config.reg = 1e-5  # of the batch's ID vectors, mean over its rows
    config.negatives = 4
    config.history = 50  # items that make a profile
    config.batch = 2048
    config.lr = 1e-3
    config.epochs = 100
    config.validate_every = 5  # epochs
    config.patience = 5  # validations without a better one, then training ends
    config.grid = ""  # settings to choose from on validation: "lr=1e-3,5e-4;neighbors=10,50"
    return config


class Tables(NamedTuple):
    """All items in the space of scores."""

    users: jax.Array  # float32 [U, D]
    items: jax.Array  # float32 [I, D]
    catalog: Catalog  # its content projected
    fills: dict[str, Fill]  # modality -> projected


class Completion(Model):
    """Vectors of users and items, one projection a modality, and the kept fills."""

    def __init__(self, config, fill: str, corpus: Corpus, rngs: nnx.Rngs):
        init = nnx.initializers.normal(0.1)
        self.users = nnx.Param(init(rngs.params(), (corpus.n_users, config.dim)))
        self.items = nnx.Param(init(rngs.params(), (corpus.n_items, config.dim)))
        start = nnx.initializers.lecun_normal()
        self.kernels = nnx.Dict(
            {
                name: nnx.Param(start(rngs.params(), (table.shape[1], config.dim)))
                for name, table in sorted(corpus.content.items())
            }
        )
        self.catalog = Given(catalog(corpus))
        self.fills = Kept(fills(corpus, fill, config.neighbors, config.steps))
        self.reg = config.reg

    def encode(self) -> Tables:
        given, kept = self.catalog.get_value(), self.fills.get_value()
        content = {name: table @ self.kernels[name][...] for name, table in given.content.items()}
        done = {name: projected(fill, self.kernels[name][...]) for name, fill in kept.items()}
        return Tables(self.users[...], self.items[...], given._replace(content=content), done)

    def score(self, tables: Tables, query: Query, items: jax.Array) -> jax.Array:
        own = user_vectors(tables.users, tables.items, query)
        return self._score(tables, own, query, items)

    def loss(self, batch: Choices, key: jax.Array) -> jax.Array:
        tables = self.encode()
        own = embed(tables.users, batch.query.user)  # in training nobody without one has a history that shows
        scores = self._score(tables, own, batch.query, batch.items)
        return bpr(scores) + self.reg * (squares(own) + squares(embed(tables.items, batch.items)))

    def _score(self, tables: Tables, own: jax.Array, query: Query, items: jax.Array) -> jax.Array:
        seen = look(tables.catalog, items, query.mask)
        user, candidates = own, embed(tables.items, seen.row)
        for name, fill in tables.fills.items():
            user += self._profile(fill, name, query)
            candidates += complete(fill, seen, name, items)
        return jnp.einsum("qd,qbd->qb", user, candidates)

    def _profile(self, fill: Fill, name: str, query: Query) -> jax.Array:
        """float32 [Q, D]: projected profiles, completed where there is none."""
        profile, other = query.profile[name] @ self.kernels[name][...], fill.mean
        if "behavior" in fill.tables:
            found = (query.history >= 0) & fill.found["behavior"][query.history]
            filled = mean(fill.tables["behavior"][query.history], found, axis=1)
            other = jnp.where(found.any(axis=1, keepdims=True), filled, other)
        return jnp.where(present(query, name)[:, None], profile, other)


def make(config, corpus: Corpus, fill: str) -> Recommender:
    """The scorer with one of `fills.KINDS`."""
    return Recommender(
        module=functools.partial(Completion, config, fill, corpus),
        batches=masked(config, corpus, config.negatives),
    )
