"""All items under all masks at once: tables in which a model that sees an item's content looks candidates up.

There are 2^3 masks, and what a model makes of an item depends on the item and the mask alone. So [8, I] results are
computed once for all questions, where pools of B candidates would have each item computed again in every one of them.
"""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from mma_jax.baselines.corpus import Catalog, Items, look
from mma_jax.types import MODALITIES

MASKS = np.array(list(itertools.product((False, True), repeat=len(MODALITIES))))  # bool [8, 3]


def which(mask: jax.Array) -> jax.Array:
    """int32 [...]: the row of MASKS that each mask (bool [..., 3]) is."""
    return (mask * 2 ** np.arange(len(MODALITIES))[::-1]).sum(axis=-1).astype(jnp.int32)


def everything(catalog: Catalog) -> Items:
    """All I items as each of MASKS shows them: Items of [8, I]."""
    count = len(catalog.known)
    return look(catalog, jnp.broadcast_to(jnp.arange(count), (len(MASKS), count)), jnp.asarray(MASKS))


def pick(table: jax.Array, mask: jax.Array, items: jax.Array) -> jax.Array:
    """float32 [Q, B, D]: rows of a table [8, I, D] by masks (bool [Q, 3]) and items (int32 [Q, B]); zero for -1."""
    found = table[which(mask)[:, None], jnp.maximum(items, 0)]
    return jnp.where((items >= 0)[..., None], found, 0.0)


def mean(vectors: jax.Array, there: jax.Array, axis: int) -> jax.Array:
    """Mean over an axis of vectors [..., D] as far as there (bool [...]); zero where none is."""
    total = jnp.where(there[..., None], vectors, 0.0).sum(axis)
    return total / jnp.maximum(there.sum(axis), 1)[..., None]
