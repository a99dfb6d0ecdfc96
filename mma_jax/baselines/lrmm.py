"""LRMM: modality dropout and an autoencoder against missing modalities (Wang, Niepert and Li, "LRMM: Learning to
Recommend with Missing Modalities", EMNLP 2018).

    e_m  = tanh(W_m x_m + b_m)                       an embedding for each modality of a side; zero where missing
    m-drop: in training, present e_m are set to zero, each with probability `drop`
    m-auto: c = ReLU(W_c [e_1 .. e_k] + b_c),  ê_1 .. ê_k = W_d c + b_d
            reconstruction = mean over present m of |ê_m - e_m|^2, dropped ones included
    ẽ_m  = e_m where it is there, ê_m where it is missing
    side = W_s [ẽ_1 .. ẽ_k] + b_s,   score = <user side, item side>
    loss = BPR + weight * (reconstruction of users + of items) + reg |v_i|^2

LRMM's modalities are the reviews by the user, the reviews of the item, its metadata and its image, in front of them
LSTMs and a CNN; it has no IDs. Decided here:

 - A side has three modalities: behavior, text and image (users: the profile). Behavior stands where the paper has
   reviews, whose absence is its cold start: an item's is its ID vector v_i, a user's x_m is the mean of the history's
   v_i, and no user has an ID vector. Texts and images arrive as vectors, so their encoders are one layer, and of the
   "sequential" autoencoder there remains the autoencoder.
 - LRMM regresses ratings, one fully connected layer on all embeddings of user and item. Here there are no ratings but
   choices: BPR. And what is linear in user and item together ranks the same for everybody: each side has its layer, and
   the prediction is their inner product.
 - One autoencoder a side, not one over the pair: a user's missing profile would be reconstructed from the candidate,
   and agree with whichever is asked about.
 - What is reconstructed does not move towards its reconstruction (no gradient): else all could meet at zero. A modality
   that a query's mask hides is no target: it is not in the batch. m-drop is what teaches to reconstruct.
 - m-drop comes on top of the families' masks, drops the same for all candidates of a row, and never the last modality.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from mma_jax.baselines.batches import Choices, masked
from mma_jax.baselines.corpus import Catalog, Corpus, Query, catalog, embed, look, present
from mma_jax.baselines.losses import bpr, squares
from mma_jax.baselines.recommender import Given, Model, Recommender
from mma_jax.baselines.views import mean


def get_config() -> ConfigDict:
    """Of LRMM."""
    config = ConfigDict()
    config.dim = 64
    config.code = 64  # width of the autoencoders
    config.drop = 0.2  # of m-drop, each modality
    config.weight = 1.0  # of the reconstruction
    config.reg = 1e-5  # of the items' ID vectors, mean over a batch's rows
    config.negatives = 4
    config.history = 50  # items that make a profile
    config.batch = 2048
    config.lr = 1e-3
    config.epochs = 100
    config.validate_every = 5  # epochs
    config.patience = 5  # validations without a better one, then training ends
    config.grid = ""  # settings to choose from on validation: "lr=1e-3,5e-4;drop=0.1,0.3,0.5"
    return config


class Tables(NamedTuple):
    """All items."""

    vectors: jax.Array  # float32 [I, D], IDs
    catalog: Catalog  # its content encoded


class Side(nnx.Module):
    """Users or items: encoders, the autoencoder, and the layer in front of the prediction.

    Args:
        config: of LRMM.
        widths: modality -> of what its encoder reads.
        modalities: K.
        rngs: of parameters.
    """

    def __init__(self, config, widths: dict[str, int], modalities: int, rngs: nnx.Rngs):
        self.encoders = nnx.Dict({name: nnx.Linear(width, config.dim, rngs=rngs) for name, width in widths.items()})
        self.code = nnx.Linear(modalities * config.dim, config.code, rngs=rngs)
        self.decode = nnx.Linear(config.code, modalities * config.dim, rngs=rngs)
        self.last = nnx.Linear(modalities * config.dim, config.dim, rngs=rngs)

    def encoded(self, name: str, vectors: jax.Array) -> jax.Array:
        """float32 [..., D]: e_m of vectors [..., D_m]."""
        return nnx.tanh(self.encoders[name](vectors))

    def __call__(self, embedded: jax.Array, present: jax.Array, kept: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(the side float32 [..., D], error of the reconstruction float32 []).

        Args:
            embedded: float32 [..., K, D].
            present: bool [..., K], what there is.
            kept: bool [..., K], what m-drop has left of it.
        """
        rebuilt = self._rebuilt(jnp.where(kept[..., None], embedded, 0.0))
        error = jnp.square(rebuilt - jax.lax.stop_gradient(embedded)).sum(axis=-1)
        error = (error * present).sum() / jnp.maximum(present.sum(), 1)
        nothing = self.last(
            flat(self._rebuilt(jnp.zeros(embedded.shape[-2:])))
        )  # the same bits for all: a tie is a tie
        whole = self.last(flat(jnp.where(kept[..., None], embedded, rebuilt)))
        return jnp.where(kept.any(axis=-1, keepdims=True), whole, nothing), error

    def _rebuilt(self, embedded: jax.Array) -> jax.Array:
        return self.decode(nnx.relu(self.code(flat(embedded)))).reshape(embedded.shape)


class LRMM(Model):
    """ID vectors of items, and a side each for users and items."""

    def __init__(self, config, corpus: Corpus, rngs: nnx.Rngs):
        self.vectors = nnx.Param(nnx.initializers.normal(0.1)(rngs.params(), (corpus.n_items, config.dim)))
        widths = {name: table.shape[1] for name, table in sorted(corpus.content.items())}
        self.names = tuple(widths)
        self.user_side = Side(config, {"behavior": config.dim} | widths, 1 + len(widths), rngs)
        self.item_side = Side(config, widths, 1 + len(widths), rngs)  # an ID vector is an embedding as it is
        self.catalog = Given(catalog(corpus))
        self.drop, self.weight, self.reg = config.drop, config.weight, config.reg

    def encode(self) -> Tables:
        given = self.catalog.get_value()
        content = {name: self.item_side.encoded(name, table) for name, table in given.content.items()}
        return Tables(self.vectors[...], given._replace(content=content))

    def score(self, tables: Tables, query: Query, items: jax.Array) -> jax.Array:
        user, there = self._of_users(tables, query)
        candidates, has = self._of_items(tables, query, items)
        user, candidates = self.user_side(user, there, there)[0], self.item_side(candidates, has, has)[0]
        return jnp.einsum("qd,qbd->qb", user, candidates)

    def loss(self, batch: Choices, key: jax.Array) -> jax.Array:
        tables = self.encode()
        user, there = self._of_users(tables, batch.query)
        candidates, has = self._of_items(tables, batch.query, batch.items)
        keys = jax.random.split(key)
        user, of_users = self.user_side(user, there, modality_dropout(keys[0], there, self.drop))
        candidates, of_items = self.item_side(candidates, has, modality_dropout(keys[1], has, self.drop))
        ranking = bpr(jnp.einsum("qd,qbd->qb", user, candidates))
        return ranking + self.weight * (of_users + of_items) + self.reg * squares(embed(tables.vectors, batch.items))

    def _of_users(self, tables: Tables, query: Query) -> tuple[jax.Array, jax.Array]:
        """(embeddings float32 [Q, K, D], bool [Q, K]: there); a profile of zeros is none."""
        known = query.history >= 0
        inputs = {"behavior": mean(embed(tables.vectors, query.history), known, axis=1)} | query.profile
        there = {"behavior": known.any(axis=1)} | {name: present(query, name) for name in self.names}
        vectors = [self.user_side.encoded(name, inputs[name]) for name in ("behavior", *self.names)]
        return jnp.stack(vectors, axis=1), jnp.stack([there[name] for name in ("behavior", *self.names)], axis=1)

    def _of_items(self, tables: Tables, query: Query, items: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(embeddings float32 [Q, B, K, D], bool [Q, B, K]: there)."""
        seen = look(tables.catalog, items, query.mask)
        vectors = [embed(tables.vectors, seen.row)] + [seen.content[name] for name in self.names]
        return jnp.stack(vectors, axis=2), jnp.stack([seen.row >= 0, *(seen.has[name] for name in self.names)], axis=2)


def modality_dropout(key: jax.Array, present: jax.Array, rate: float) -> jax.Array:
    """bool [Q, ..., K]: what is left of present, each modality dropped with probability `rate`, for a whole row alike;
    where nothing would be left, all is."""
    shape = present.shape[0], *(1,) * (present.ndim - 2), present.shape[-1]
    left = present & jax.random.bernoulli(key, 1 - rate, shape)
    return jnp.where(left.any(axis=-1, keepdims=True), left, present)


def flat(vectors: jax.Array) -> jax.Array:
    """[..., K, D] -> [..., K * D]."""
    return vectors.reshape(*vectors.shape[:-2], -1)


def make(config, corpus: Corpus) -> Recommender:
    """Both sides of a corpus."""
    return Recommender(
        module=functools.partial(LRMM, config, corpus),
        batches=masked(config, corpus, config.negatives),
    )
