"""Epochs: what baselines learn from, in batches of equal shapes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
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


def masked(config, corpus: Corpus, negatives: int = 1) -> Callable[[np.random.Generator], Iterator[Choices]]:
    """`choices` under the masks of all families, of config.batch rows and histories of config.history items."""
    return functools.partial(
        choices, corpus, size=config.batch, negatives=negatives, history=config.history, families=corpus.families
    )


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


class Sequences(NamedTuple):
    """Rows of L steps, each full of several users' sequences, one behind the other. -1: a step that is nobody's."""

    items: np.ndarray  # int32 [R, L], what was taken
    following: np.ndarray  # int32 [R, L], what the same user took next
    others: np.ndarray  # int32 [R, L, negatives], what that user has not taken
    places: np.ndarray  # int32 [R, L], 0 .. L - 1: where the step would stand in a row of its user's own, -1 in front
    owners: np.ndarray  # int32 [R, L], users


def sequences(
    corpus: Corpus, rng: np.random.Generator, size: int, length: int, negatives: int = 1
) -> Iterator[Sequences]:
    """Every user's training items in order, cut to the last `length` steps from one to the next.

    Users come in random order. Without an order of time theirs is the corpus's.

    Args:
        corpus: to learn from.
        rng: of order and negatives.
        size: users a batch, on average; the last batch is filled from the beginning.
        length: L.
        negatives: uniform over the items that the user has not in training, for each step.
    """
    steps = np.minimum(np.diff(corpus.starts) - 1, length)
    users = rng.permutation(np.flatnonzero(steps > 0))
    steps = steps[users]
    places = np.concatenate([np.arange(length - count, length) for count in steps])  # the last one at length - 1
    owners = np.repeat(users, steps)
    taken = corpus.starts[owners + 1] - 1 - length + places  # rows of the corpus
    spots = np.repeat(best_fit(steps, length), steps) + places - length + np.repeat(steps, steps)
    rows = -(-int(spots.max() + 1) // length)

    def spread(values: np.ndarray, free: int) -> np.ndarray:
        out = np.full((rows * length, *values.shape[1:]), free, np.int32)
        out[spots] = values
        return out.reshape(rows, length, *values.shape[1:])

    whole = Sequences(
        items=spread(corpus.items[taken], -1),
        following=spread(corpus.items[taken + 1], -1),
        others=spread(not_taken(corpus, rng, owners, negatives), -1),
        places=spread(places, 0),
        owners=spread(owners, -1),
    )
    each = -(-size * len(places) // (len(users) * length))  # rows a batch: the same in every epoch
    for start in range(0, rows, each):
        chosen = np.arange(start, start + each) % rows
        yield Sequences(*(array[chosen] for array in whole))


def best_fit(sizes: np.ndarray, length: int) -> np.ndarray:
    """int64 [N]: where to begin each of N sequences, of sizes up to `length`, end to end in rows of `length` steps.

    Each goes into the row that it leaves the least free, or into a new one.
    """
    begins, rows = [], 0
    free = [[] for _ in range(length + 1)]  # the ends of rows with so many free steps
    for size in sizes.tolist():
        left = next((left for left in range(size, length) if free[left]), length)
        begin = free[left].pop() if left < length else rows * length
        rows += left == length
        begins.append(begin)
        free[left - size].append(begin + size)
    return np.array(begins, np.int64)
