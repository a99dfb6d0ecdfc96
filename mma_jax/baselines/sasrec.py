"""SASRec: causal self-attention over what a user took, in order (Kang & McAuley, ICDM 2018).

    x_t = m_{s_t} + p_t                                         m: items, p: learned positions (Eq. 1 there)
    x_t <- attention over x_1 .. x_t, then a position-wise network, `layers` times            (Eq. 2-5)
    r_ti = <x_t, m_i>                                           output vectors are the input vectors (Eq. 6)
    bce  = - ln sigma(r_t,s_{t+1}) - ln(1 - sigma(r_tj))        one j that the user has not, a step (Eq. 7)
    ce   = - ln softmax(r_t)_{s_{t+1}}                          over all items

Decided here: the network is the widely used variant of S3-Rec's code and of RecBole, whose figures papers quote, not
the paper's own: layer norm behind each residual sum and behind the embeddings (the paper: in front of each block),
GELU with a hidden layer of 4 `dim` (ReLU, `dim`), biases everywhere, weights from N(0, .02). Of a longer sequence the
last `length` steps count. The last item always stands at the last position, as with the paper's padding in front; the
training packs several users into one row instead of padding (`batches.sequences`), which changes no figure and spares
most of the work where sequences are short. Items of a history that are hidden or unknown are left out of it.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from mma_jax.baselines.batches import Sequences, sequences
from mma_jax.baselines.corpus import Corpus, Query, catalog, embed, look
from mma_jax.baselines.layers import check_heads
from mma_jax.baselines.recommender import Given, Model, Recommender
from mma_jax.types import InputError

LOSSES = ("bce", "ce")
CHUNK = 2**22  # scores that the softmax over all items holds at once: 16 MiB


def get_config() -> ConfigDict:
    """Of SASRec."""
    config = ConfigDict()
    config.dim = 64
    config.layers = 2
    config.heads = 2
    config.dropout = 0.5  # of embeddings, attention weights and what each half of a layer adds
    config.length = 50  # steps of a sequence that count
    config.loss = "bce"  # bce: the paper's; ce: softmax over all items
    config.batch = 256  # users, on average
    config.lr = 1e-3
    config.epochs = 200
    config.validate_every = 5  # epochs
    config.patience = 5  # validations without a better one, then training ends
    config.grid = ""  # settings to choose from on validation: "loss=bce,ce;dropout=0.2,0.5"
    return config


class SASRec(Model):
    """A causal transformer over item vectors."""

    def __init__(self, config, corpus: Corpus, rngs: nnx.Rngs):
        init = nnx.initializers.normal(0.02)
        self.items = nnx.Param(init(rngs.params(), (corpus.n_items, config.dim)))
        self.places = nnx.Param(init(rngs.params(), (config.length, config.dim)))
        self.norm = nnx.LayerNorm(config.dim, rngs=rngs)
        self.layers = nnx.List([Layer(config.dim, config.heads, config.dropout, rngs) for _ in range(config.layers)])
        self.catalog = Given(catalog(corpus))
        self.dropout, self.softmax = config.dropout, config.loss == "ce"

    def encode(self) -> jax.Array:
        return self.items[...]

    def score(self, tables: jax.Array, query: Query, items: jax.Array | None) -> jax.Array:
        own = self.last(tables, query.history)
        if items is None:
            return own @ tables.T
        seen = look(self.catalog.get_value(), items, query.mask)
        return jnp.einsum("qd,qbd->qb", own, embed(tables, seen.row))

    def last(self, vectors: jax.Array, history: jax.Array) -> jax.Array:
        """float32 [Q, D]: what follows each history (int32 [Q, H], -1: nothing); zero if all of it is -1."""
        order = jnp.argsort(history >= 0, axis=1, stable=True)  # gaps to the front
        history = jnp.take_along_axis(history, order, axis=1)[:, -len(self.places) :]
        known, width = history >= 0, history.shape[1]
        places = jnp.arange(width) + len(self.places) - width
        out = self.states(embed(vectors, history), places, visible(known.astype(jnp.int32)), None, last=True)
        return jnp.where(known[:, -1:], out[:, 0], 0.0)

    def states(
        self, vectors: jax.Array, places: jax.Array, seen: jax.Array, key: jax.Array | None, last: bool = False
    ) -> jax.Array:
        """float32 [R, L, D]: x_t after all layers; with `last` [R, 1, D], that of the last step alone.

        Args:
            vectors: float32 [R, L, D], m_{s_t}.
            places: int32 [L] or [R, L], positions.
            seen: bool [R, L, L], which steps (the last axis) a step sees.
            key: of dropout; None: without.
        """
        keys = [None] * (len(self.layers) + 1) if key is None else jax.random.split(key, len(self.layers) + 1)
        x = drop(self.norm(vectors + self.places[...][places]), self.dropout, keys[0])
        for number, (layer, own) in enumerate(zip(self.layers, keys[1:], strict=True)):
            x = layer(x, seen, own, last and number == len(self.layers) - 1)
        return x

    def loss(self, batch: Sequences, key: jax.Array) -> jax.Array:
        # One look-up of all items: its gradient is one scatter, the slow part of it on a CPU.
        rows = jnp.concatenate([batch.items[..., None], batch.following[..., None], batch.others], axis=-1)
        vectors = embed(self.items[...], rows[..., :1] if self.softmax else rows)
        x = self.states(vectors[..., 0, :], batch.places, visible(batch.owners), key)
        there = batch.following >= 0
        if self.softmax:
            return softmax_loss(x.reshape(-1, x.shape[-1]), batch.following.ravel(), self.items[...])
        scores = jnp.einsum("rld,rlnd->rln", x, vectors[..., 1:, :])
        losses = jax.nn.softplus(-scores[..., 0]) + jax.nn.softplus(scores[..., 1:]).mean(axis=-1)
        return jnp.where(there, losses, 0.0).sum() / jnp.maximum(there.sum(), 1)


class Layer(nnx.Module):
    """Self-attention and a position-wise network, each added to its input, then normed (Eq. 2-5)."""

    def __init__(self, dim: int, heads: int, dropout: float, rngs: nnx.Rngs):
        linear = functools.partial(nnx.Linear, kernel_init=nnx.initializers.normal(0.02), rngs=rngs)
        self.inward, self.outward = linear(dim, 3 * dim), linear(dim, dim)
        self.up, self.down = linear(dim, 4 * dim), linear(4 * dim, dim)
        self.norms = nnx.List([nnx.LayerNorm(dim, rngs=rngs) for _ in range(2)])
        self.heads, self.dropout = heads, dropout

    def __call__(self, x: jax.Array, seen: jax.Array, key: jax.Array | None, last: bool) -> jax.Array:
        """float32 [R, L, D] from the same; with `last` [R, 1, D]: the last step alone. seen: bool [R, L, L]."""
        keys = [None] * 3 if key is None else jax.random.split(key, 3)
        queries, own, values = jnp.split(self.inward(x).reshape(*x.shape[:2], self.heads, -1), 3, axis=-1)
        if last:
            x, queries, seen = x[:, -1:], queries[:, -1:], seen[:, -1:]
        weights = jnp.einsum("rihd,rjhd->rhij", queries, own) * queries.shape[-1] ** -0.5
        weights = jax.nn.softmax(jnp.where(seen[:, None], weights, -1e30), axis=-1)
        found = jnp.einsum("rhij,rjhd->rihd", drop(weights, self.dropout, keys[0]), values)
        x = self.norms[0](x + drop(self.outward(found.reshape(x.shape)), self.dropout, keys[1]))
        return self.norms[1](x + drop(self.down(jax.nn.gelu(self.up(x))), self.dropout, keys[2]))


def visible(owners: jax.Array) -> jax.Array:
    """bool [R, L, L]: step i sees step j if that is no later and of the same owner (int32 [R, L]); always itself."""
    length = owners.shape[1]
    return (owners[:, :, None] == owners[:, None, :]) & jnp.tri(length, dtype=bool)


def drop(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Dropout; the rate in 256ths, for a byte of randomness an element: making it is what dropout costs."""
    cut = round(256 * rate)
    if key is None or not cut:
        return x
    return jnp.where(jax.random.bits(key, x.shape, jnp.uint8) >= cut, x * (256 / (256 - cut)), 0.0)


@jax.custom_vjp
def softmax_loss(x: jax.Array, targets: jax.Array, table: jax.Array) -> jax.Array:
    """float32 []: mean of - ln softmax(table @ x_n)_{targets_n} over the rows with a target.

    The gradient is made along with the value, chunk by chunk of rows, so that the scores [N, I] are computed once and
    never stand in memory together.

    Args:
        x: float32 [N, D].
        targets: int32 [N], -1: none.
        table: float32 [I, D].
    """
    return _softmax_loss(x, targets, table)[0]


def _softmax_loss(x: jax.Array, targets: jax.Array, table: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """The loss, and its gradients by x and table."""
    chunks = -(-len(x) * len(table) // CHUNK)
    size = -(-len(x) // chunks)
    spare = chunks * size - len(x)
    weight = (targets >= 0) / jnp.maximum((targets >= 0).sum(), 1)
    chunked = [
        jnp.pad(array, [(0, spare)] + [(0, 0)] * (array.ndim - 1)).reshape(-1, size, *array.shape[1:])
        for array in (x, jnp.maximum(targets, 0), weight.astype(x.dtype))
    ]

    def chunk(carry: tuple[jax.Array, jax.Array], rows: tuple) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        total, by_table = carry
        x, target, weight = rows
        scores = x @ table.T
        top = scores.max(axis=1, keepdims=True)
        masses = jnp.exp(scores - top)
        mass = masses.sum(axis=1, keepdims=True)
        wanted = table[target]
        losses = jnp.log(mass[:, 0]) + top[:, 0] - (x * wanted).sum(axis=1)
        share = weight[:, None] / mass  # scales rows of x, not the [size, I] of masses
        by_x = (masses @ table) * share - wanted * weight[:, None]
        by_table = (by_table + (x * share).T @ masses).at[:, target].add(-(x * weight[:, None]).T)
        return (total + weight @ losses, by_table), by_x

    (total, by_table), by_x = jax.lax.scan(chunk, (jnp.zeros(()), jnp.zeros_like(table.T)), tuple(chunked))
    return total, (by_x.reshape(-1, x.shape[1])[: len(x)], by_table.T)


def _backward(gradients: tuple[jax.Array, jax.Array], scale: jax.Array) -> tuple[jax.Array, None, jax.Array]:
    by_x, by_table = gradients
    return by_x * scale, None, by_table * scale


softmax_loss.defvjp(_softmax_loss, _backward)


def make(config, corpus: Corpus) -> Recommender:
    """SASRec of a corpus; it sees interactions alone.

    Raises:
        InputError: an unknown loss, heads that do not divide dim, or a corpus in which nothing follows anything.
    """
    if config.loss not in LOSSES:
        raise InputError(f"sasrec.loss is {config.loss!r}; one of {', '.join(LOSSES)} is meant")
    check_heads("sasrec", config)
    if np.diff(corpus.starts).max(initial=0) < 2:
        raise InputError("SASRec learns what follows what, and no user has two training interactions; leave it out")
    negatives = 0 if config.loss == "ce" else 1
    return Recommender(
        module=functools.partial(SASRec, config, corpus),
        batches=functools.partial(sequences, corpus, size=config.batch, length=config.length, negatives=negatives),
    )
