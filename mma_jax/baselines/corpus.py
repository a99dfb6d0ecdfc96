"""What a baseline learns from and is asked, and the one place where masks hide things from it (DESIGN §5.2).

    behavior hidden   the user's row, the history's items and every candidate's row are -1: no embedding of an identity
                      and no edge can be looked up. The content of what was consumed stays, in `Query.profile`.
    text, image       the profile and the candidates' vectors of that modality are zero, `Items.has` says so.
    nothing hidden    an item without text or image of its own is zero there; a user or an item without a training
                      interaction has no row (-1): a vector that was never trained would be noise.

`ask` does it for users, `look` for candidates, in training and in test alike.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse

from mma_jax.types import MODALITIES, Mask

CONTENT = ("text", "image")
ALL: Mask = (True, True, True)


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus:
    """Training interactions, each (user, item) pair once, by user and then by time; content of all items."""

    n_users: int
    n_items: int
    users: np.ndarray  # int32 [N]
    items: np.ndarray  # int32 [N]
    before: np.ndarray  # int32 [N] of the user's rows, how many came before this one; -1: without an order, all others
    content: dict[str, np.ndarray]  # "text", "image", as far as there: float32 [I, D], unit rows, zero where not has
    has: dict[str, np.ndarray]  # the same names: bool [I]
    families: tuple[Mask, ...]  # masks of the missingness families to train for

    @functools.cached_property
    def starts(self) -> np.ndarray:
        """int64 [U + 1]: the rows of user u are starts[u] : starts[u + 1]."""
        return np.searchsorted(self.users, np.arange(self.n_users + 1))

    @functools.cached_property
    def known_user(self) -> np.ndarray:
        """bool [U]: has a training interaction."""
        return np.bincount(self.users, minlength=self.n_users) > 0

    @functools.cached_property
    def degree(self) -> np.ndarray:
        """int64 [I]: training interactions of each item."""
        return np.bincount(self.items, minlength=self.n_items)

    @functools.cached_property
    def pairs(self) -> np.ndarray:
        """int64 [N] sorted: user * I + item, to look pairs up in."""
        return np.sort(self.users.astype(np.int64) * self.n_items + self.items)

    @functools.cached_property
    def taken(self) -> sparse.csr_array:
        """float32 [U, I]: 1 where a user took an item in training."""
        ones = np.ones(len(self.users), np.float32)
        return sparse.csr_array((ones, (self.users, self.items)), shape=(self.n_users, self.n_items))

    def histories(self, rows: np.ndarray, length: int) -> np.ndarray:
        """int32 [Q, length]: what the users of training rows had liked before, oldest first, -1 in front.

        Without an order: their other items.
        """
        first, before = self.starts[self.users[rows]], self.before[rows]
        end = np.where(before < 0, self.starts[self.users[rows] + 1], first + before)
        places = end[:, None] - length + np.arange(length)
        found = np.where(places >= first[:, None], self.items[np.maximum(places, 0)], -1)
        return np.where(found == self.items[rows, None], -1, found).astype(np.int32)


class Query(NamedTuple):
    """Q users as a model sees them."""

    user: np.ndarray  # int32 [Q], -1: hidden, or without training interactions
    history: np.ndarray  # int32 [Q, H] items, oldest first; -1: hidden, padding, or without training interactions
    profile: dict[str, np.ndarray]  # modality -> float32 [Q, D], mean content of the history; zero: hidden, or none
    mask: np.ndarray  # bool [Q, 3], in the order of types.MODALITIES


class Items(NamedTuple):
    """Candidates as a model sees them."""

    row: jax.Array  # int32 [Q, B], -1: hidden, or without training interactions
    content: dict[str, jax.Array]  # modality -> float32 [Q, B, D], zero: hidden, or none
    has: dict[str, jax.Array]  # modality -> bool [Q, B]


def ask(corpus: Corpus, users: np.ndarray, histories: np.ndarray, masks: np.ndarray) -> Query:
    """Hides from users what their masks hide.

    Args:
        corpus: of I items.
        users: int [Q].
        histories: int32 [Q, H] items, oldest first, -1 in front.
        masks: bool [Q, 3].
    """
    behavior = masks[:, MODALITIES.index("behavior")]
    there = histories >= 0
    seen = there & (corpus.degree[histories] > 0) & behavior[:, None]
    profile = {}
    for name, table in corpus.content.items():
        counted = there & corpus.has[name][histories] & masks[:, MODALITIES.index(name), None]
        total = np.einsum("qh,qhd->qd", counted.astype(np.float32), table[histories])
        profile[name] = total / np.maximum(counted.sum(axis=1, keepdims=True), 1).astype(np.float32)
    return Query(
        user=np.where(behavior & corpus.known_user[users], users, -1).astype(np.int32),
        history=np.where(seen, histories, -1).astype(np.int32),
        profile=profile,
        mask=np.asarray(masks, bool),
    )


def present(query: Query, name: str) -> jax.Array:
    """bool [Q]: has a profile of that modality; one that is hidden or missing is zero."""
    return (query.profile[name] != 0).any(axis=-1)


def look(catalog: Catalog, items: jax.Array, mask: jax.Array) -> Items:
    """Hides from candidates what their query's mask hides.

    Args:
        catalog: of I items.
        items: int32 [Q, B].
        mask: bool [Q, 3].
    """
    behavior = mask[:, MODALITIES.index("behavior"), None]
    has = {name: catalog.has[name][items] & mask[:, MODALITIES.index(name), None] for name in catalog.content}
    return Items(
        row=jnp.where(behavior & catalog.known[items], items, -1),
        content={name: jnp.where(has[name][..., None], table[items], 0.0) for name, table in catalog.content.items()},
        has=has,
    )


class Catalog(NamedTuple):
    """The items of a corpus on the device."""

    content: dict[str, jax.Array]  # float32 [I, D]
    has: dict[str, jax.Array]  # bool [I]
    known: jax.Array  # bool [I]: has a training interaction


def catalog(corpus: Corpus) -> Catalog:
    """What `look` looks at."""
    content = {name: jnp.asarray(table) for name, table in corpus.content.items()}
    has = {name: jnp.asarray(there) for name, there in corpus.has.items()}
    return Catalog(content, has, jnp.asarray(corpus.degree > 0))


def padded(histories: Sequence[np.ndarray], length: int) -> np.ndarray:
    """int32 [Q, length]: the last `length` items of each history, -1 in front; one -1 where length is 0."""
    rows = np.full((len(histories), max(length, 1)), -1, np.int32)
    for row, history in zip(rows, histories, strict=True):
        if kept := min(len(history), length):
            row[-kept:] = history[-kept:]
    return rows


def embed(table: jax.Array, rows: jax.Array) -> jax.Array:
    """Rows of a table [N, D] by int32 [...], zero where a row is -1: [..., D]."""
    return jnp.where((rows >= 0)[..., None], table[jnp.maximum(rows, 0)], 0.0)
