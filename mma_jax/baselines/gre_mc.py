"""GRE-MC: missing modalities completed from retrieved subgraphs of items (Li, Hu, Jiang, Hooi & He 2026, "Robust
Multimodal Recommendation via Graph Retrieval-Enhanced Modality Completion", arXiv 2605.00670).

At hand were the abstract and notes of others on the paper's equations, neither the paper nor code of its authors. From
these (names are ours), for item i whose modality m is missing, with features x and E_im = 1 where x_im is there:

    graph       items that a user shares
    anchors     for each modality that i has, the nearest items by cosine among those that have m
    connect     the first item that paths from all anchors reach, and these paths (breadth first)
    expand      up to `steps` times: add the item at the border, or drop one that is no anchor and holds nothing
                together, which makes the mean of r(i, v) over the subgraph largest, as long as it grows
    r(i, v)   = sum_m E_im E_vm cos(x_im, x_vm) / sum_m E_im E_vm
    h_v       = MLP([E_v1 x_v1; ...; p_v])                    p: eigenvectors of the graph's normalised Laplacian
    z_i       = attention of i over all h after a transformer over i and its subgraph
    g_i       = softmax((W z_i + noise) / tau)                noise: Gumbel, in training alone
    q_i       = sum over the P largest of g_ie c_e            c: a codebook; ^g: g of these alone, summing to 1
    x^_im     = MLP_m(q_i)
    loss      = mean |x^_im - x_im|^2 + usage * KL(mean of g || uniform) + load * C sum_e (mean of ^g)_e^2

and on the completed features a recommender, here LightGCN's vectors of identity beside linear maps of content, with
biases:

    score     = <p~_u + sum_m A_m x_um, p~_i + sum_m B_m x_im>, trained by BPR

Decided here.
 - Masks. Where behavior is hidden i has no edges: its subgraph is the anchors by text or image, and p_i = 0. Where it
   is seen the graph is used, and if neither text nor image is, anchors and r come from the cosine of who took the
   items. Where both are missing, anchors have at least one of the two, and both are completed from one subgraph.
 - What is retrieved from is a bank of the training part: features, Laplacian eigenvectors and edges of items with a
   training interaction, kept as a part of the trained model. An item is never in its own subgraph, nor on a path of
   it. What it retrieves by a modality it does with its own features of that, and only where that is seen.
 - Subgraphs are cut to `nodes` items: anchors first, then the most relevant. Anchors that do not meet within `hops`
   stay unconnected. Among several items that all paths reach at once the most relevant is taken.
 - Completion and recommendation learn at once, in two gradients that do not meet: BPR sees completed features as
   given, as if they had been computed before. What a row's mask hides of the chosen item, and the bank knows, is what
   completion learns to find (the paper hides 40% at random; six of seven families hide something).
 - Users are not completed: x_um is the mean content of the history as far as it is seen. A user without a row is the
   mean of p~ of the history's items.
 - Layer norm stands before attention and network of each layer; the networks are 2 `dim` wide; no dropout. p is scaled
   to rows of length about 1.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from mma_jax.baselines.batches import Choices, masked
from mma_jax.baselines.bpr import user_vectors
from mma_jax.baselines.corpus import CONTENT, Corpus, Items, Query, catalog, embed, look
from mma_jax.baselines.layers import check_heads, network
from mma_jax.baselines.lightgcn import graph, propagate
from mma_jax.baselines.losses import bpr, squares
from mma_jax.baselines.recommender import Given, Kept, Model, Recommender, of_model
from mma_jax.baselines.subgraphs import eigenvectors, retrieve, shared
from mma_jax.baselines.views import MASKS, pick, which


def get_config() -> ConfigDict:
    """Of GRE-MC."""
    config = ConfigDict()
    config.dim = 64
    config.anchors = 5  # for each modality by which to retrieve
    config.hops = 3  # of the paths that connect anchors
    config.steps = 10  # of the expansion
    config.nodes = 8  # of a subgraph, at most
    config.eigenvectors = 20
    config.layers = 2  # of the transformer
    config.heads = 4
    config.codes = 100  # C
    config.top = 4  # P
    config.temperature = 0.5  # tau
    config.usage = 0.5
    config.load = 0.5
    config.propagations = 2  # layers of LightGCN
    config.reg = 1e-5  # of the batch's vectors of identity
    config.history = 50  # items of a history that count in training
    config.batch = 2048
    config.lr = 5e-3
    config.epochs = 100
    config.validate_every = 2  # epochs
    config.patience = 5  # validations without a better one, then training ends
    config.grid = ""  # settings to choose from on validation: "codes=50,100;anchors=5,10"
    return config


class Bank(NamedTuple):
    """What the training part knows of its items, and where to look for whom."""

    features: jax.Array  # float32 [I, F]: content of all modalities side by side, then p; zero where missing
    has: dict[str, jax.Array]  # modality -> bool [I]
    subgraphs: jax.Array  # int32 [8, I, nodes] by what is seen of an item (views.MASKS), -1: fewer


class Tables(NamedTuple):
    """What scores need."""

    users: jax.Array  # float32 [U, D]: p~
    items: jax.Array  # float32 [I, D]: p~
    content: jax.Array  # float32 [8, I, D]: sum_m B_m x_im under every mask


class GREMC(Model):
    """A bank to retrieve from, a module that completes, a recommender."""

    def __init__(self, config, corpus: Corpus, found: np.ndarray, rngs: nnx.Rngs):
        init, dim = nnx.initializers.normal(0.1), config.dim
        self.sizes = tuple((name, table.shape[1]) for name, table in corpus.content.items())
        self.users = nnx.Param(init(rngs.params(), (corpus.n_users, dim)))
        self.items = nnx.Param(init(rngs.params(), (corpus.n_items, dim)))
        self.of_users = nnx.Dict({name: nnx.Linear(size, dim, rngs=rngs) for name, size in self.sizes})
        self.of_items = nnx.Dict({name: nnx.Linear(size, dim, rngs=rngs) for name, size in self.sizes})
        self.complete = Completion(config, self.sizes, rngs)
        self.catalog, self.graph = Given(catalog(corpus)), Given(graph(corpus))
        self.bank = Kept(bank(config, corpus, found))
        self.config = of_model(config)

    def encode(self) -> Tables:
        users, items = self.propagated()
        tokens, rows = self.complete.embed(self.bank.get_value().features), jnp.arange(len(items))

        def under(mask: jax.Array) -> jax.Array:
            seen = jax.tree.map(lambda x: x[0], look(self.catalog.get_value(), rows[None], mask[None]))
            return self.content(seen, self.completed(seen, rows, tokens, None)[0])

        return Tables(users, items, jax.lax.map(under, jnp.asarray(MASKS)))

    def score(self, tables: Tables, query: Query, items: jax.Array | None) -> jax.Array:
        row = look(self.catalog.get_value(), items, query.mask).row
        vectors = embed(tables.items, row) + pick(tables.content, query.mask, items)
        return jnp.einsum("qd,qbd->qb", self.asked(tables.users, tables.items, query), vectors)

    def loss(self, batch: Choices, key: jax.Array) -> jax.Array:
        query, bank = batch.query, self.bank.get_value()
        users, items = self.propagated()
        seen = look(self.catalog.get_value(), batch.items, query.mask)
        tokens = self.complete.embed(bank.features)
        chosen = jax.tree.map(lambda x: x[:, 0], seen)
        others = jax.tree.map(lambda x: x[:, 1:].reshape(-1, *x.shape[2:]), seen)
        first, routed = self.completed(chosen, batch.items[:, 0], tokens, key)
        rest, _ = self.completed(others, batch.items[:, 1:].ravel(), tokens, jax.random.fold_in(key, 1))
        content = [
            self.content(part, jax.lax.stop_gradient(made)).reshape(len(query.user), -1, self.config.dim)
            for part, made in ((chosen, first), (others, rest))
        ]
        vectors = embed(items, seen.row) + jnp.concatenate(content, axis=1)
        scores = jnp.einsum("qd,qbd->qb", self.asked(users, items, query), vectors)
        size = squares(embed(self.users[...], query.user)) + squares(embed(self.items[...], seen.row))
        hidden = {name: bank.has[name][batch.items[:, 0]] & ~chosen.has[name] for name, _ in self.sizes}
        completion = self.found(first, batch.items[:, 0], hidden) + self.spread(routed)
        return bpr(scores) + self.config.reg * size + completion

    def propagated(self) -> tuple[jax.Array, jax.Array]:
        """p~ of users [U, D] and items [I, D]."""
        return propagate(self.config.propagations, self.graph.get_value(), self.users[...], self.items[...])

    def asked(self, users: jax.Array, items: jax.Array, query: Query) -> jax.Array:
        """float32 [Q, D]: p~_u + sum_m A_m x_um."""
        return user_vectors(users, items, query) + sum(
            self.of_users[name](query.profile[name]) for name, _ in self.sizes
        )

    def completed(
        self, seen: Items, items: jax.Array, tokens: jax.Array, key: jax.Array | None
    ) -> tuple[jax.Array, Routed]:
        """x^ float32 [N, F'], modalities side by side, and the routing, of N items.

        Args:
            seen: Items of [N].
            items: int32 [N].
            tokens: float32 [I, D], h of the bank.
            key: of the Gumbel noise; None: without.
        """
        bank = self.bank.get_value()
        content = sum(size for _, size in self.sizes)
        place = jnp.where((seen.row >= 0)[:, None], bank.features[items, content:], 0.0)
        own = jnp.concatenate([*(seen.content[name] for name, _ in self.sizes), place], axis=-1)
        pattern = jnp.stack([*(seen.has.get(name, jnp.zeros(len(items), bool)) for name in CONTENT), seen.row >= 0], -1)
        context = bank.subgraphs[which(pattern), items]
        return self.complete(self.complete.embed(own), embed(tokens, context), context >= 0, key)

    def content(self, seen: Items, made: jax.Array) -> jax.Array:
        """float32 [N, D]: sum_m B_m x_im, of what is there or x^ [N, F']."""
        start, total = 0, jnp.zeros((len(seen.row), self.config.dim))
        for name, size in self.sizes:
            features = jnp.where(seen.has[name][:, None], seen.content[name], made[:, start : start + size])
            total, start = total + self.of_items[name](features), start + size
        return total

    def found(self, made: jax.Array, items: jax.Array, hidden: dict[str, jax.Array]) -> jax.Array:
        """float32 []: mean squared distance of x^ (float32 [N, F']) to what is hidden (bool [N]) of items."""
        missed = jnp.square(made - self.bank.get_value().features[items, : made.shape[1]])
        start = total = count = 0
        for name, size in self.sizes:
            total += (hidden[name][:, None] * missed[:, start : start + size]).sum()
            count, start = count + hidden[name].sum(), start + size
        return total / jnp.maximum(count, 1)

    def spread(self, routed: Routed) -> jax.Array:
        """float32 []: the two losses of the codebook."""
        return self.config.usage * usage(routed.weights) + self.config.load * load(routed.kept)


class Routed(NamedTuple):
    """How N items use the codebook."""

    weights: jax.Array  # float32 [N, C]: g
    kept: jax.Array  # float32 [N, C]: ^g


class Completion(nnx.Module):
    """A transformer over an item and its subgraph, a codebook, a decoder for each modality."""

    def __init__(self, config, sizes: tuple[tuple[str, int], ...], rngs: nnx.Rngs):
        content = sum(size for _, size in sizes)
        self.embed = network(content + config.eigenvectors, config.dim, config.dim, rngs)
        self.layers = nnx.List([Layer(config.dim, config.heads, rngs) for _ in range(config.layers)])
        self.norm = nnx.LayerNorm(config.dim, rngs=rngs)
        self.route = nnx.Linear(config.dim, config.codes, use_bias=False, rngs=rngs)
        self.codes = nnx.Param(nnx.initializers.normal(1.0)(rngs.params(), (config.codes, config.dim)))
        self.decoders = nnx.List([network(config.dim, config.dim, size, rngs) for _, size in sizes])
        self.top, self.temperature = config.top, config.temperature

    def __call__(
        self, own: jax.Array, context: jax.Array, there: jax.Array, key: jax.Array | None
    ) -> tuple[jax.Array, Routed]:
        """x^ float32 [N, F'], modalities side by side, and the routing.

        Args:
            own: float32 [N, D], h of the items.
            context: float32 [N, S, D], h of their subgraphs.
            there: bool [N, S], which of these are there.
            key: of the Gumbel noise; None: without.
        """
        x = jnp.concatenate([own[:, None], context], axis=1)
        there = jnp.concatenate([jnp.ones_like(there[:, :1]), there], axis=1)
        for layer in self.layers:
            x = layer(x, there)
        routed = self.routed(self.gathered(self.norm(x), there), key)
        latent = routed.kept @ self.codes[...]
        made = [decoder(latent) for decoder in self.decoders]
        return jnp.concatenate(made, axis=-1) if made else jnp.zeros((len(own), 0)), routed

    @staticmethod
    def gathered(x: jax.Array, there: jax.Array) -> jax.Array:
        """float32 [N, D]: z, attention of the first of x (float32 [N, 1 + S, D]) over all."""
        logits = jnp.einsum("nd,nsd->ns", x[:, 0], x) * x.shape[-1] ** -0.5
        return jnp.einsum("ns,nsd->nd", jax.nn.softmax(jnp.where(there, logits, -1e30), axis=1), x)

    def routed(self, z: jax.Array, key: jax.Array | None) -> Routed:
        """g of z float32 [N, D], and ^g."""
        logits = self.route(z)
        noise = 0.0 if key is None else jax.random.gumbel(key, logits.shape)
        weights = jax.nn.softmax((logits + noise) / self.temperature, axis=1)
        least = jax.lax.top_k(weights, min(self.top, weights.shape[1]))[0][:, -1:]
        kept = jnp.where(weights >= least, weights, 0.0)
        return Routed(weights, kept / kept.sum(axis=1, keepdims=True))


class Layer(nnx.Module):
    """Attention of all over all, and a network for each."""

    def __init__(self, dim: int, heads: int, rngs: nnx.Rngs):
        self.inward, self.outward = (nnx.Linear(dim, width, rngs=rngs) for width in (3 * dim, dim))
        self.network = network(dim, 2 * dim, dim, rngs)
        self.norms = nnx.List([nnx.LayerNorm(dim, rngs=rngs) for _ in range(2)])
        self.heads = heads

    def __call__(self, x: jax.Array, there: jax.Array) -> jax.Array:
        """float32 [N, T, D] from the same; there: bool [N, T], who can be attended to."""
        parts = self.inward(self.norms[0](x)).reshape(*x.shape[:2], 3, self.heads, -1)
        queries, keys, values = (parts[:, :, number] for number in range(3))
        logits = jnp.einsum("nihd,njhd->nhij", queries, keys) * queries.shape[-1] ** -0.5
        weights = jax.nn.softmax(jnp.where(there[:, None, None], logits, -1e30), axis=-1)
        x = x + self.outward(jnp.einsum("nhij,njhd->nihd", weights, values).reshape(x.shape))
        return x + self.network(self.norms[1](x))


def usage(weights: jax.Array) -> jax.Array:
    """float32 []: KL(mean of g || uniform) of g float32 [N, C]."""
    shares = weights.mean(axis=0)
    return (shares * jnp.log(jnp.maximum(shares * len(shares), 1e-30))).sum()


def load(kept: jax.Array) -> jax.Array:
    """float32 []: C times the sum of squared shares of the codes, by ^g float32 [N, C]; 1 if they are equal."""
    return kept.shape[1] * jnp.square(kept.mean(axis=0)).sum()


def bank(config, corpus: Corpus, subgraphs: np.ndarray) -> Bank:
    """Of the items with a training interaction."""
    known = corpus.degree > 0
    tables = [table * known[:, None] for table in corpus.content.values()]
    return Bank(
        jnp.asarray(np.concatenate([*tables, eigenvectors(shared(corpus), config.eigenvectors)], axis=1), jnp.float32),
        {name: jnp.asarray(there & known) for name, there in corpus.has.items()},
        jnp.asarray(subgraphs),
    )


def make(config, corpus: Corpus) -> Recommender:
    """GRE-MC of a corpus; whatever it has of behavior, text and images.

    Raises:
        InputError: heads that do not divide dim.
    """
    check_heads("gre_mc", config)
    return Recommender(
        module=functools.partial(GREMC, config, corpus, retrieve(config, corpus)),
        batches=masked(config, corpus),
    )
