"""MACL: contrast between the modalities of one thing, as far as they are there (Dixon, Yao & Davidson, CCPE 36, 2024).

The original learns from unlabelled signals of a person's sensors: each kind of sensor is a view of the same moment, an
encoder per kind and a projection head learn by making the views of a moment similar and those of different moments
not, and a classifier of activities stands on the encoders. Only its abstract was at hand, so the loss is NT-Xent
(Chen et al., ICML 2020, Eq. 1), the one that such views are used with, here for more than two views:

    z_nm = p_m(f_m(x_nm))                                        f_m, p_m: encoder and projection of modality m
    l_nmm' = - ln e(z_nm, z_nm') / (e(z_nm, z_nm') + sum_{k != n} sum_m'' e(z_nm, z_km''))     e = exp(cosine / tau)
    loss   = mean of l_nmm' over all n, m, m' != m

with everything that is not there left out of all sums, as positive, as anchor and among the others.

Carried over: a moment is an item or a user; the kinds of sensors are text, image and behavior, whose "signal" is the
identity, so that its encoder is a table (of users; of items). Content of users is the mean content of their history,
and goes through the encoders of the items. In place of the classifier: what is there is averaged, one linear head for
users and one for items, their product is the score, trained by BPR:

    x_ui = <A mean_m f_m(x_um), B mean_m f_m(x_im)>

Decided here: both losses at once, not one after the other; two layers for an encoder of content; items contrast all
that they have, users what their mask leaves them (their mask is drawn from the families, as in scoring); contrast is
drawn among the first `contrast` rows of a batch, where the same item or user is no other. A user without a row is the
mean of the rows of the history's items, as in BPR-MF.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from mma_jax.baselines.batches import Choices, masked
from mma_jax.baselines.bpr import user_vectors
from mma_jax.baselines.corpus import ALL, Corpus, Items, Query, catalog, embed, look, present
from mma_jax.baselines.layers import network, unit_rows
from mma_jax.baselines.losses import bpr, squares
from mma_jax.baselines.recommender import Given, Model, Recommender
from mma_jax.baselines.views import everything, mean, pick


def get_config() -> ConfigDict:
    """Of MACL."""
    config = ConfigDict()
    config.dim = 64
    config.hidden = 128  # of the encoders of content
    config.projected = 32  # of the projection heads
    config.temperature = 0.1
    config.weight = 0.1  # of the contrast
    config.contrast = 256  # rows of a batch to draw it among
    config.reg = 1e-5  # of the batch's rows of users and items
    config.history = 50  # items of a history that count in training
    config.batch = 1024
    config.lr = 1e-3
    config.epochs = 100
    config.validate_every = 2  # epochs
    config.patience = 5  # validations without a better one, then training ends
    config.grid = ""  # settings to choose from on validation: "weight=0.01,0.1;temperature=0.1,0.2"
    return config


class MACL(Model):
    """Encoders of modalities, projections for the contrast, heads for the score."""

    def __init__(self, config, corpus: Corpus, rngs: nnx.Rngs):
        init = nnx.initializers.normal(0.1)
        self.users = nnx.Param(init(rngs.params(), (corpus.n_users, config.dim)))
        self.items = nnx.Param(init(rngs.params(), (corpus.n_items, config.dim)))
        self.encoders = nnx.Dict(
            {name: network(table.shape[1], config.hidden, config.dim, rngs) for name, table in corpus.content.items()}
        )
        self.projections = nnx.Dict(
            {name: nnx.Linear(config.dim, config.projected, rngs=rngs) for name in ("behavior", *corpus.content)}
        )
        self.user_head = nnx.Linear(config.dim, config.dim, rngs=rngs)
        self.item_head = nnx.Linear(config.dim, config.dim, rngs=rngs)
        self.catalog = Given(catalog(corpus))
        self.temperature, self.weight, self.contrast, self.reg = [
            config[name] for name in ("temperature", "weight", "contrast", "reg")
        ]

    def encode(self) -> jax.Array:
        """float32 [8, I, D]: all items as every mask shows them."""
        seen = everything(self.catalog.get_value())
        return self.item_head(fused(self.item_views(seen)))

    def score(self, tables: jax.Array, query: Query, items: jax.Array | None) -> jax.Array:
        own = self.user_head(fused(self.user_views(query)))
        return jnp.einsum("qd,qbd->qb", own, pick(tables, query.mask, items))

    def loss(self, batch: Choices, key: jax.Array) -> jax.Array:
        query, rows = batch.query, slice(self.contrast)
        seen = look(self.catalog.get_value(), batch.items, query.mask)
        users, items = self.user_views(query), self.item_views(seen)
        own, vectors = self.user_head(fused(users)), self.item_head(fused(items))
        whole = look(self.catalog.get_value(), batch.items[rows, :1], jnp.array([ALL]))
        contrast = self.contrasted(self.item_views(whole), batch.items[rows, 0])
        ids = jnp.where(query.user >= 0, query.user, -1 - jnp.arange(len(query.user)))
        contrast += self.contrasted({name: (x[rows], there[rows]) for name, (x, there) in users.items()}, ids[rows])
        size = squares(embed(self.users[...], query.user)) + squares(embed(self.items[...], seen.row))
        return bpr(jnp.einsum("qd,qbd->qb", own, vectors)) + self.weight * contrast + self.reg * size

    def item_views(self, seen: Items) -> Views:
        """f_m of items of [Q, B]."""
        views = {name: (self.encoders[name](seen.content[name]), seen.has[name]) for name in self.encoders}
        return views | {"behavior": (embed(self.items[...], seen.row), seen.row >= 0)}

    def user_views(self, query: Query) -> Views:
        """f_m of users of [Q]."""
        own = user_vectors(self.users[...], self.items[...], query)
        views = {name: (self.encoders[name](query.profile[name]), present(query, name)) for name in self.encoders}
        return views | {"behavior": (own, (query.user >= 0) | (query.history >= 0).any(axis=1))}

    def contrasted(self, views: Views, ids: jax.Array) -> jax.Array:
        """The loss among N things whose vectors have N * D elements. ids: int32 [N]."""
        projected = jnp.stack([self.projections[name](x).reshape(len(ids), -1) for name, (x, _) in views.items()])
        there = jnp.stack([there.ravel() for _, there in views.values()])
        return nt_xent(projected, there, ids, self.temperature)


Views = dict[str, tuple[jax.Array, jax.Array]]
"""Modality -> (float32 [..., D], whether it is there: bool [...])."""


def fused(views: Views) -> jax.Array:
    """float32 [..., D]: the mean of what is there."""
    vectors, there = (jnp.stack(parts) for parts in zip(*views.values(), strict=True))
    return mean(vectors, there, axis=0)


def nt_xent(vectors: jax.Array, there: jax.Array, ids: jax.Array, temperature: float) -> jax.Array:
    """float32 []: NT-Xent over the views that are there, mean over pairs of views of one thing; 0 without a pair.

    Args:
        vectors: float32 [V, N, D], V views of N things.
        there: bool [V, N].
        ids: int32 [N]; rows with the same id are the same thing and push nothing apart.
        temperature: tau.
    """
    views, count = there.shape
    unit = unit_rows(vectors.reshape(views * count, -1))
    logits = unit @ unit.T / temperature
    flat, same = there.ravel(), jnp.tile(ids[:, None] == ids[None, :], (views, views))
    others = jax.nn.logsumexp(
        jnp.where(~same & flat[None, :], logits, -1e30), axis=1
    )  # finite, for the gradient's sake
    others = others.reshape(views, 1, count)
    paired = jnp.einsum("vnwn->vwn", logits.reshape(views, count, views, count))  # [anchor's view, positive's, N]
    counted = there[:, None] & there[None] & ~jnp.eye(views, dtype=bool)[..., None]
    losses = jnp.logaddexp(paired, others) - paired
    return jnp.where(counted, losses, 0.0).sum() / jnp.maximum(counted.sum(), 1)


def make(config, corpus: Corpus) -> Recommender:
    """MACL of a corpus; whatever it has of behavior, text and images."""
    return Recommender(
        module=functools.partial(MACL, config, corpus),
        batches=masked(config, corpus),
    )
