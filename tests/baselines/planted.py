"""A small corpus with planted structure: four kinds of items, and users who like one kind."""

import dataclasses

import numpy as np

from mma_jax.baselines.corpus import Corpus, ask, padded
from mma_jax.types import FAMILIES

KINDS, EACH, USERS, LIKED, HELD_OUT = 4, 25, 160, 10, 2
ITEMS = KINDS * EACH
HISTORY = LIKED - HELD_OUT


def content(seed: int, dim: int) -> np.ndarray:
    """float32 [I, dim], unit rows: an item's kind, and noise."""
    rng = np.random.default_rng(seed)
    rows = np.repeat(rng.normal(size=(KINDS, dim)), EACH, axis=0) + 0.7 * rng.normal(size=(ITEMS, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def liked() -> np.ndarray:
    """int32 [USERS, LIKED]: items in the order in which users took them."""
    rng = np.random.default_rng(0)
    return np.stack([user % KINDS * EACH + rng.permutation(EACH)[:LIKED] for user in range(USERS)]).astype(np.int32)


def corpus() -> Corpus:
    """All but each user's last two items; a tenth of the items lack text or image; all seven families."""
    rng = np.random.default_rng(1)
    has = {name: rng.random(ITEMS) > 0.1 for name in ("text", "image")}
    tables = {"text": content(2, 12), "image": content(3, 8)}
    return Corpus(
        n_users=USERS + 1,  # the last one has no interaction
        n_items=ITEMS,
        users=np.repeat(np.arange(USERS, dtype=np.int32), HISTORY),
        items=liked()[:, :HISTORY].ravel(),
        before=np.tile(np.arange(HISTORY, dtype=np.int32), USERS),
        content={name: tables[name] * has[name][:, None] for name in tables},
        has=has,
        families=tuple(FAMILIES.values()),
    )


def without(given: Corpus, modality: str) -> Corpus:
    """The corpus with other evidence of one modality: other content, or other interactions of the same users."""
    if modality == "behavior":
        rng = np.random.default_rng(9)
        other = np.concatenate([rng.permutation(ITEMS)[:HISTORY] for _ in range(USERS)]).astype(np.int32)
        return dataclasses.replace(given, items=other)
    rolled = {name: np.roll(table, 1, axis=0) for name, table in given.content.items()}
    has = {name: np.roll(there, 1) for name, there in given.has.items()}
    return dataclasses.replace(
        given, content=given.content | {modality: rolled[modality]}, has=given.has | {modality: has[modality]}
    )


def questions(given: Corpus, mask, users=range(USERS)):
    """(query, items int32 [Q, 20]): each user's next item first, then items of all kinds that the user has not."""
    users = np.asarray(users)
    rng = np.random.default_rng(4)
    histories = [liked()[user, :HISTORY] for user in users]
    query = ask(given, users, padded(histories, HISTORY), np.tile(mask, (len(users), 1)))
    others = [rng.permutation(np.setdiff1d(np.arange(ITEMS), liked()[user]))[:19] for user in users]
    items = np.concatenate([liked()[users, HISTORY, None], np.stack(others)], axis=1).astype(np.int32)
    return query, items
