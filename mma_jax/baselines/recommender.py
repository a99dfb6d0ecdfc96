"""The contract of a baseline: a module that knows its loss and its scores, and the batches it learns from.

A file of this folder has, in this order: a docstring (paper, equations, what had to be decided), `get_config()`, one
module, and `make(config, corpus) -> Recommender`. `fit.fit` trains them all.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from flax import nnx
from ml_collections import FrozenConfigDict

from mma_jax.baselines.corpus import Query

Batch = Any
Tables = Any

LOOP = ("lr", "epochs", "batch", "validate_every", "patience", "grid")
"""Settings that `fit.fit` reads; every `get_config()` has them."""


class Given(nnx.Variable):
    """Evidence: arrays of the data as it is when scores are asked for, seen through `corpus.look` and its masks."""


class Kept(nnx.Variable):
    """What was learned from the training part without a gradient; part of a trained model as its parameters are."""


class Model(nnx.Module):
    """Arrays are nnx.Param (trained by gradient), Kept, or Given; all three methods are traced."""

    @abc.abstractmethod
    def loss(self, batch: Batch, key: jax.Array) -> jax.Array:
        """float32 []: of one batch. key: for dropout and the like."""

    @abc.abstractmethod
    def encode(self) -> Tables:
        """What every score needs, computed once: a pytree."""

    @abc.abstractmethod
    def score(self, tables: Tables, query: Query, items: jax.Array | None) -> jax.Array:
        """float32 [Q, B], higher is better; equal where the model has nothing to say.

        Args:
            tables: from `encode`.
            query: Q rows.
            items: int32 [Q, B]. None, for models of identity alone: the whole catalog, with nothing hidden.
        """


@dataclasses.dataclass(frozen=True)
class Recommender:
    """A baseline of one corpus, not trained yet."""

    module: Callable[[nnx.Rngs], Model]
    batches: Callable[[np.random.Generator], Iterator[Batch]]
    """One epoch: pytrees of numpy arrays, all of the same shapes."""


def of_model(config) -> FrozenConfigDict:
    """Settings without those of the loop, for a module to keep: models that differ in these alone are compiled once."""
    return FrozenConfigDict({key: value for key, value in config.items() if key not in LOOP})
