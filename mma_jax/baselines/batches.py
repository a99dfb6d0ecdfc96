"""Epochs: what baselines learn from, in batches of equal shapes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from mma_jax.baselines.corpus import ALL, Corpus, Query, ask
from mma_jax.types import Mask


class Choices(NamedTuple):
    """Users and what they chose, beside what they did not."""

    query: Query  # Q rows
    items: np.ndarray  # int32 [Q, 1 + negatives], the chosen one first


def choices(
    corpus: Corpus,
    rng: np.random.Generator,
    size: int,
    negatives: int = 1,
    history: int = 1,
    families: tuple[Mask, ...] = (ALL,),
) -> Iterator[Choices]:
    """Every training interaction once, in random order, `size` a batch (the last one is filled from the beginning).

    Args:
        corpus: to learn from.
        rng: of order, masks and negatives.
        size: Q.
        negatives: uniform over the items that the user has not in training.
        history: H, the items of a history that are kept.
        families: masks to draw from, one a row (§3.4: uniformly); (ALL,) hides nothing.
    """
    masks = np.array(families, bool)
    for rows in shuffled(len(corpus.users), rng, size):
        users, masked = corpus.users[rows], masks[rng.integers(len(masks), size=len(rows))]
        query = ask(corpus, users, corpus.histories(rows, history), masked)
        taken = corpus.items[rows, None]
        yield Choices(query, np.concatenate([taken, not_taken(corpus, rng, users, negatives)], axis=1))


def shuffled(count: int, rng: np.random.Generator, size: int) -> Iterator[np.ndarray]:
    """int64 [size] each: 0 .. count - 1 in random order; the last batch is filled from the beginning."""
    order = rng.permutation(count)
    for start in range(0, count, size):
        yield np.take(order, np.arange(start, start + size), mode="wrap")


def not_taken(corpus: Corpus, rng: np.random.Generator, users: np.ndarray, count: int) -> np.ndarray:
    """int32 [Q, count]: uniform over the items that users (int [Q]) have not in training."""
    found = rng.integers(corpus.n_items, size=(len(users), count))
    again = np.arange(found.size)
    for _ in range(100):  # a user who has nearly everything keeps what comes last
        pairs = users[again // count].astype(np.int64) * corpus.n_items + found.flat[again]
        places = np.minimum(np.searchsorted(corpus.pairs, pairs), len(corpus.pairs) - 1)
        again = again[corpus.pairs[places] == pairs]
        if not len(again):
            break
        found.flat[again] = rng.integers(corpus.n_items, size=len(again))
    return found.astype(np.int32)
