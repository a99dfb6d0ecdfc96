"""DGMRec: modalities disentangled into a general and a specific part, and generated where missing (Kim et al., SIGIR
2025, "Disentangling and Generating Modalities for Recommendation in Missing Modality Scenarios").

The equations are those of the authors' public code (the paper itself was not at hand; all names are ours). For item i
and modality m of M, with features x, sigma the logistic function:

    g_im = sigma(S tanh(G_m x_im)),  s_im = sigma(E_m x_im)             general (S is shared), specific
    f_im = mean over the users u of i of tanh(P_m p_u)                  preference for m, p: vectors of identity
    gen_m(f_im) ~ s_im,  trans_m(g_im') ~ g_im                          what generates the parts of a missing m
    c_i  = ((1 / M) sum_m f_im g_im + sum_m f_im s_im) / (1 + M)        content, products by element
    c_u  = mean of c_i over what u took
    score = <p~_u + c_u, p~_i + c_i>                                    p~: propagated over the graph as in LightGCN

    loss = BPR + reg |p|^2
         + disentangle * (InfoNCE(g_im, g_im') + InfoNCE(f g of u in m, in m') + sum_m CLUB(s_im; g_im))
         + align * (InfoNCE(p~_u, p~_i) + InfoNCE(sum_m f g of u, of i) + sum_m InfoNCE(f s of u, of i)
                    + InfoNCE(p~_i, sum_m f g of i) + InfoNCE(p~_u, sum_m f g of u))
         + generate * (sum_m |gen_m(f_im) - s_im|^2 + |trans_m(g_im') - g_im|^2)

InfoNCE keeps what the modalities share in g; CLUB (Cheng et al., ICML 2020) bounds the mutual information of s and g
from above by a network q(g | s), which learns by its own likelihood alone:

    CLUB = mean over n of ln q(g_n | s_n) - mean over n, k of ln q(g_k | s_n)

Decided here.
 - Masks: where m is hidden or an item has none, g_im is translated from the other modality if that is there (else zero)
   and s_im generated. Where behavior is hidden there is no p~ and nobody's preference is known: f is then one learned
   vector for each modality, and c_u is c of the mean content of the history (scaled to length 1), as if that were an
   item. A user without a row, or without a history, has the mean p~ of the history's items, or no c_u.
 - c_u is taken over the history that a question shows, not over all training items, the one to predict among them.
 - Generated parts are used as they are. The code decodes them to features, which are encoded again before use; the
   decoder and its loss are left out with that detour.
 - No item-item graph of nearest neighbors by content, over which the code smooths g and s by one layer.
 - CLUB takes all pairs of a batch, in closed form, where the code draws one k for each n; q learns at every step with
   the model's own rate. What a generator is to meet is held fixed, so that generation cannot make features easy.
 - Auxiliary losses are over the chosen items and the users of a batch; the same item or user is no negative, and what
   a modality lacks counts nowhere. Of items all that the training part has is used, masks or not.
 - The regularisation of item contents is left out (its weight in the code is about 1e-5 of the loss).
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
from mma_jax.baselines.corpus import Corpus, Query, catalog, embed, look, present
from mma_jax.baselines.layers import network, unit_rows
from mma_jax.baselines.lightgcn import graph, mean_of_users, propagate
from mma_jax.baselines.losses import bpr, squares
from mma_jax.baselines.recommender import Given, Model, Recommender, of_model
from mma_jax.baselines.views import everything, mean, pick


def get_config() -> ConfigDict:
    """Of DGMRec."""
    config = ConfigDict()
    config.dim = 64
    config.layers = 2  # of the propagation of p
    config.disentangle = 0.01
    config.align = 0.01
    config.generate = 1.0
    config.general_temperature = 0.4  # of InfoNCE between general parts
    config.align_temperature = 0.2  # of the other InfoNCE
    config.contrast = 512  # rows of a batch that auxiliary losses are over
    config.noise = 0.1  # length of what is added to the inputs of generators in training
    config.reg = 1e-5  # of the batch's p
    config.history = 20  # items of a history that count in training
    config.batch = 2048
    config.lr = 5e-3
    config.epochs = 100
    config.validate_every = 2  # epochs
    config.patience = 5  # validations without a better one, then training ends
    config.grid = ""  # settings to choose from on validation: "align=0.01,0.1;disentangle=0.01,0.1"
    return config


class Part(NamedTuple):
    """What there is of one modality for N things, whether it is there or not: float32 [N, D] each."""

    general: jax.Array  # g
    specific: jax.Array  # s
    preference: jax.Array  # f
    translated: jax.Array  # stands for g: from the other modality's g; zero if the data has no other
    generated: jax.Array  # stands for s: from f


class Tables(NamedTuple):
    """What scores need."""

    users: jax.Array  # float32 [U, D]: p~
    items: jax.Array  # float32 [I, D]: p~
    content: jax.Array  # float32 [8, I, D]: c_i under every mask


class DGMRec(Model):
    """Identity, two parts of each modality, and generators of both."""

    def __init__(self, config, corpus: Corpus, rngs: nnx.Rngs):
        init, sizes = nnx.initializers.normal(0.1), {name: x.shape[1] for name, x in corpus.content.items()}
        square = functools.partial(nnx.Linear, config.dim, config.dim, rngs=rngs)
        self.users = nnx.Param(init(rngs.params(), (corpus.n_users, config.dim)))
        self.items = nnx.Param(init(rngs.params(), (corpus.n_items, config.dim)))
        self.general = nnx.Dict({name: nnx.Linear(size, config.dim, rngs=rngs) for name, size in sizes.items()})
        self.specific = nnx.Dict({name: nnx.Linear(size, config.dim, rngs=rngs) for name, size in sizes.items()})
        self.shared = square()
        self.preference = nnx.Dict({name: square(use_bias=False) for name in sizes})
        self.nobody = nnx.Dict({name: nnx.Param(jnp.ones(config.dim)) for name in sizes})
        self.generate = nnx.Dict({name: Generator(config.dim, rngs) for name in sizes})
        self.translate = nnx.Dict({name: Generator(config.dim, rngs) for name in sizes})
        self.clubs = nnx.Dict({name: Club(config.dim, rngs) for name in sizes})
        self.catalog, self.graph = Given(catalog(corpus)), Given(graph(corpus))
        self.config = of_model(config)

    def encode(self) -> Tables:
        users, items = self.propagated()
        return Tables(users, items, self.under_masks(self.parts()))

    def score(self, tables: Tables, query: Query, items: jax.Array | None) -> jax.Array:
        return jnp.einsum("qd,qbd->qb", self.asked(tables, query), self.candidates(tables, query.mask, items))

    def asked(self, tables: Tables, query: Query) -> jax.Array:
        """float32 [Q, D]: p~_u + c_u."""
        known = query.history >= 0
        taken = mean(pick(tables.content, query.mask, query.history), known, axis=1)
        content = jnp.where(known.any(axis=1)[:, None], taken, self.content_of_profiles(query))
        return user_vectors(tables.users, tables.items, query) + content

    def candidates(self, tables: Tables, mask: jax.Array, items: jax.Array) -> jax.Array:
        """float32 [Q, B, D]: p~_i + c_i."""
        row = look(self.catalog.get_value(), items, mask).row
        return pick(tables.content, mask, items) + embed(tables.items, row)

    def propagated(self) -> tuple[jax.Array, jax.Array]:
        """p~ of users [U, D] and items [I, D]."""
        return propagate(self.config.layers, self.graph.get_value(), self.users[...], self.items[...])

    def parts(self) -> dict[str, Part]:
        """Of all items, as if nothing were hidden."""
        names, content = list(self.preference), self.catalog.get_value().content
        liked = [jnp.tanh(self.preference[name](self.users[...])) for name in names]
        means = mean_of_users(self.graph.get_value(), jnp.concatenate(liked, axis=1)) if names else None
        preference = dict(zip(names, jnp.split(means, len(names), axis=1), strict=True)) if names else {}
        return self._parts(content, preference)

    def _parts(self, content: dict[str, jax.Array], preference: dict[str, jax.Array]) -> dict[str, Part]:
        """Of N things: content float32 [N, features] and preference [N, D] or [D] by modality."""
        split = {name: self.split(name, content[name]) for name in preference}
        parts = {}
        for name, (general, specific) in split.items():
            other = [g for another, (g, _) in split.items() if another != name]
            translated = self.translate[name](other[0]) if other else jnp.zeros_like(general)
            generated = jnp.broadcast_to(self.generate[name](preference[name]), specific.shape)
            preferred = jnp.broadcast_to(preference[name], specific.shape)
            parts[name] = Part(general, specific, preferred, translated, generated)
        return parts

    def split(self, name: str, features: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(g, s): float32 [N, D] each, of features [N, F]."""
        general = nnx.sigmoid(self.shared(jnp.tanh(self.general[name](features))))
        return general, nnx.sigmoid(self.specific[name](features))

    def under_masks(self, parts: dict[str, Part]) -> jax.Array:
        """float32 [8, I, D]: c_i."""
        seen = everything(self.catalog.get_value())
        return self.content(parts, seen.has, seen.row >= 0)

    def content(self, parts: dict[str, Part], has: dict[str, jax.Array], known: jax.Array) -> jax.Array:
        """float32 [..., N, D]: c, with what is missing generated.

        Args:
            parts: of N things.
            has: modality -> bool [..., N], whether its content is seen.
            known: bool [..., N], whether its behavior is seen.
        """
        total = jnp.zeros((*known.shape, self.users.shape[1]))
        for name, part in parts.items():
            other = sum(there for another, there in has.items() if another != name) if len(has) > 1 else False
            nobody = self.nobody[name][...]
            preference = jnp.where(known[..., None], part.preference, nobody)
            generated = jnp.where(known[..., None], part.generated, self.generate[name](nobody))
            translated = jnp.where(jnp.asarray(other)[..., None], part.translated, 0.0)
            general = jnp.where(has[name][..., None], part.general, translated)
            specific = jnp.where(has[name][..., None], part.specific, generated)
            total += preference * (general / len(parts) + specific)
        return total / (1 + len(parts))

    def content_of_profiles(self, query: Query) -> jax.Array:
        """float32 [Q, D]: c of the mean content of histories, as of an item that nobody took."""
        profiles = {name: unit_rows(query.profile[name]) for name in self.preference}
        parts = self._parts(profiles, {name: self.nobody[name][...] for name in self.preference})
        has = {name: present(query, name) for name in parts}
        return self.content(parts, has, jnp.zeros(len(query.user), bool))

    def loss(self, batch: Choices, key: jax.Array) -> jax.Array:
        query, parts = batch.query, self.parts()
        users, items = self.propagated()
        tables = Tables(users, items, self.under_masks(parts))
        vectors = self.candidates(tables, query.mask, batch.items)
        scores = jnp.einsum("qd,qbd->qb", self.asked(tables, query), vectors)
        seen = look(self.catalog.get_value(), batch.items, query.mask)
        size = squares(embed(self.users[...], query.user)) + squares(embed(self.items[...], seen.row))
        return bpr(scores) + self.config.reg * size + self.auxiliary(tables, parts, batch, key)

    def auxiliary(self, tables: Tables, parts: dict[str, Part], batch: Choices, key: jax.Array) -> jax.Array:
        """float32 []: disentanglement, alignment, generation."""
        query, item = jax.tree.map(lambda x: x[: self.config.contrast], (batch.query, batch.items[:, 0]))
        has = self.catalog.get_value().has
        there = {name: has[name][item] for name in parts}
        taken = {name: has[name][query.history] & (query.history >= 0) for name in parts}
        own = {name: Part(*(table[item] for table in part)) for name, part in parts.items()}
        ends = {name: self.filtered(part, item, there[name]) for name, part in parts.items()}
        begins = {name: self.filtered(part, query.history, taken[name]) for name, part in parts.items()}
        of_items = Aligned(embed(tables.items, item), item, {n: (*ends[n], there[n]) for n in parts})
        means = {n: (*(mean(x, taken[n], axis=1) for x in begins[n]), taken[n].any(axis=1)) for n in parts}
        ids = jnp.where(query.user >= 0, query.user, -1 - jnp.arange(len(item)))
        of_users = Aligned(embed(tables.users, query.user), ids, means)
        total = self.config.disentangle * self.disentanglement(own, there, of_users, item)
        total += self.config.align * self.alignment(of_users, of_items)
        total += self.config.generate * self.generation(own, there, key)
        return total + sum(
            self.clubs[name].surprise(*fixed((own[name].specific, own[name].general)), there[name]) for name in parts
        )

    @staticmethod
    def filtered(part: Part, items: jax.Array, there: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(f g, f s) of items int32 [...]: float32 [..., D] each, zero where not there."""
        return tuple(
            jnp.where(there[..., None], (part.preference * x)[items], 0.0) for x in (part.general, part.specific)
        )

    def disentanglement(
        self, own: dict[str, Part], there: dict[str, jax.Array], users: Aligned, item: jax.Array
    ) -> jax.Array:
        """CLUB of each modality; InfoNCE between two."""
        total = jnp.zeros(())
        for name, part in own.items():
            graph, state = nnx.split(self.clubs[name])
            total += nnx.merge(graph, fixed(state)).bound(part.specific, part.general, there[name])
        if len(own) == 2:
            (a, b), (first, second) = own.values(), users.parts.values()
            both = functools.reduce(jnp.logical_and, there.values())
            temperature = self.config.general_temperature
            total += info_nce(a.general, b.general, both, item, temperature)
            total += info_nce(first[0], second[0], first[2] & second[2], users.ids, temperature)
        return total

    def alignment(self, users: Aligned, items: Aligned) -> jax.Array:
        """InfoNCE of users with what they chose, and of identity with general content."""
        general, align = self.config.general_temperature, self.config.align_temperature
        known = users.ids >= 0
        total = info_nce(users.identity, items.identity, known, items.ids, align)
        for (_, own, has), (_, chosen, there) in zip(users.parts.values(), items.parts.values(), strict=True):
            total += info_nce(own, chosen, has & there, items.ids, align)
        if users.parts:
            (own, has), (chosen, there) = users.general(), items.general()
            total += info_nce(own, chosen, has & there, items.ids, general)
            total += info_nce(items.identity, chosen, there, items.ids, align)
            total += info_nce(users.identity, own, has & known, users.ids, align)
        return total

    def generation(self, own: dict[str, Part], there: dict[str, jax.Array], key: jax.Array) -> jax.Array:
        """Mean squared errors of what is generated, with noise on what it is generated from."""
        total = jnp.zeros(())
        for number, (name, part) in enumerate(own.items()):
            keys = jax.random.split(jax.random.fold_in(key, number))
            made = self.generate[name](perturbed(part.preference, keys[0], self.config.noise))
            total += squared_error(made, fixed(part.specific), there[name])
            for another in own.keys() - {name}:
                made = self.translate[name](perturbed(own[another].general, keys[1], self.config.noise))
                total += squared_error(made, fixed(part.general), there[name] & there[another])
        return total


class Aligned(NamedTuple):
    """N users or items in the losses between them."""

    identity: jax.Array  # float32 [N, D]: p~
    ids: jax.Array  # int32 [N]
    parts: dict[str, tuple[jax.Array, jax.Array, jax.Array]]  # modality -> f g, f s: [N, D], there: bool [N]

    def general(self) -> tuple[jax.Array, jax.Array]:
        """(sum of f g: [N, D], whether there is any: bool [N])."""
        return sum(part[0] for part in self.parts.values()), functools.reduce(
            jnp.logical_or, [part[2] for part in self.parts.values()]
        )


class Generator(nnx.Module):
    """Two layers, tanh between them."""

    def __init__(self, dim: int, rngs: nnx.Rngs):
        self.inward, self.outward = (nnx.Linear(dim, dim, rngs=rngs) for _ in range(2))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.outward(jnp.tanh(self.inward(x)))


class Club(nnx.Module):
    """q(g | s): a normal distribution for each element of g, its mean and log-variance networks of s."""

    def __init__(self, dim: int, rngs: nnx.Rngs):
        self.mean, self.spread = (network(dim, dim // 2, dim, rngs) for _ in range(2))

    def bound(self, s: jax.Array, g: jax.Array, there: jax.Array) -> jax.Array:
        """float32 []: CLUB over the rows of [N, D] that are there (bool [N]), all pairs."""
        weight = there[:, None] / jnp.maximum(there.sum(), 1)
        center, precision = self.mean(s), jnp.exp(-jnp.tanh(self.spread(s)))
        own = jnp.square(center - g)
        # The mean over k of (center - g_k)^2, by the first two moments of g.
        all_pairs = jnp.square(center) - 2 * center * (weight * g).sum(axis=0) + (weight * g**2).sum(axis=0)
        return 0.5 * (weight * precision * (all_pairs - own)).sum()

    def surprise(self, s: jax.Array, g: jax.Array, there: jax.Array) -> jax.Array:
        """float32 []: mean of - ln q(g_n | s_n) an element, without its constant."""
        log_variance = jnp.tanh(self.spread(s))
        losses = 0.5 * (jnp.square(self.mean(s) - g) * jnp.exp(-log_variance) + log_variance).mean(axis=1)
        return (there * losses).sum() / jnp.maximum(there.sum(), 1)


def info_nce(a: jax.Array, b: jax.Array, there: jax.Array, ids: jax.Array, temperature: float) -> jax.Array:
    """float32 []: mean over n of - ln e(a_n, b_n) / sum_k e(a_n, b_k), e = exp(cosine / temperature).

    Args:
        a: float32 [N, D].
        b: float32 [N, D].
        there: bool [N], rows that count, as n and as k.
        ids: int32 [N]; another row with the id of n is left out of its sum.
        temperature: of the softmax.
    """
    logits = unit_rows(a) @ unit_rows(b).T / temperature
    double = (ids[:, None] == ids[None, :]) & ~jnp.eye(len(ids), dtype=bool)
    total = jax.nn.logsumexp(jnp.where(there[None, :] & ~double, logits, -1e30), axis=1)
    return jnp.where(there, total - jnp.diagonal(logits), 0.0).sum() / jnp.maximum(there.sum(), 1)


def squared_error(made: jax.Array, wanted: jax.Array, there: jax.Array) -> jax.Array:
    """float32 []: mean over elements of the rows [N, D] that are there (bool [N])."""
    return (there * jnp.square(made - wanted).mean(axis=1)).sum() / jnp.maximum(there.sum(), 1)


def perturbed(x: jax.Array, key: jax.Array, length: float) -> jax.Array:
    """Rows of x moved by `length` into a random direction of their own orthant (SimGCL's noise)."""
    return x + jnp.sign(x) * length * unit_rows(jax.random.uniform(key, x.shape))


def fixed(tree):
    """The same values, for which no gradient is asked."""
    return jax.tree.map(jax.lax.stop_gradient, tree)


def make(config, corpus: Corpus) -> Recommender:
    """DGMRec of a corpus; whatever it has of behavior, text and images."""
    return Recommender(
        module=functools.partial(DGMRec, config, corpus),
        batches=masked(config, corpus),
    )
