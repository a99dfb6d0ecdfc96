"""The one loop that trains every baseline: Adam, validation, the best parameters kept, resume by rerunning."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from tqdm import tqdm

from mma_jax.baselines.corpus import Query
from mma_jax.baselines.recommender import Given, Kept, Recommender, Tables
from mma_jax.learning.checkpoint import Checkpoints
from mma_jax.types import InputError


class Scorer:
    """A trained model, ready to be asked.

    Args:
        graph: of the module.
        learned: its nnx.Param and Kept.
        given: its Given.
    """

    def __init__(self, graph: nnx.GraphDef, learned: nnx.State, given: nnx.State):
        self._model = graph, learned, given

    @functools.cached_property
    def tables(self) -> Tables:
        return _encode(*self._model)

    def __call__(self, query: Query, items: np.ndarray | None) -> np.ndarray:
        """float32 [Q, B] for items int32 [Q, B]; None: the whole catalog, see `Model.score`."""
        return np.asarray(_score(*self._model, self.tables, query, items))


class Progress(NamedTuple):
    """All that training changes; a pytree."""

    learned: nnx.State
    moments: optax.OptState


Validate = Callable[[Scorer], float]
"""How good a model is on validation; larger is better."""


def fit(
    recommender: Recommender, config, seed: int, directory: Path, validate: Validate | None, label: str
) -> tuple[Scorer, float]:
    """Trains, or goes on with, or reads what is trained.

    Args:
        recommender: what to train.
        config: its own: lr, epochs, validate_every, patience.
        seed: of parameters and batches.
        directory: of its checkpoints.
        validate: every `validate_every` epochs; the best parameters are kept, and training ends after `patience`
            validations in a row that were no better. None: all epochs, the last parameters.
        label: of the progress bar.

    Returns:
        The trained model, and its figure on validation (nan without).

    Raises:
        InputError: the loss is not finite.
    """
    graph, learned, given = split(recommender, seed)
    optimizer, step = make_step(graph, config.lr)
    progress = Progress(learned, optimizer.init(nnx.filter_state(learned, nnx.Param)))
    checkpoints = Checkpoints(directory, keep=1)
    try:
        epoch, progress, figures = checkpoints.latest(progress) or (0, progress, {"figures": []})
        figures = figures["figures"]
        with tqdm(total=config.epochs, initial=epoch, desc=label, leave=False, unit="epoch") as bar:
            while epoch < config.epochs and not _finished(figures, config.patience):
                rng, key = np.random.default_rng([seed, epoch]), jax.random.fold_in(jax.random.key(seed), epoch)
                losses = []
                for number, batch in enumerate(ahead(recommender.batches(rng))):
                    progress, loss = step(progress, given, batch, jax.random.fold_in(key, number))
                    losses.append(loss)
                if not np.isfinite(mean := float(jnp.stack(losses).mean())):
                    raise InputError(f"{label}: the loss is {mean} in epoch {epoch + 1}; lower its lr ({config.lr})")
                epoch += 1
                bar.update()
                bar.set_postfix(loss=f"{mean:.4f}", best=f"{max(figures, default=np.nan):.4f}")
                if validate and (epoch % config.validate_every == 0 or epoch == config.epochs):
                    figures.append(validate(Scorer(graph, progress.learned, given)))
                    checkpoints.save(epoch, progress, {"figures": figures}, figures[-1])
        if validate is None:
            if epoch and checkpoints.latest(progress) is None:
                checkpoints.save(epoch, progress, {"figures": figures})
            return Scorer(graph, progress.learned, given), float("nan")
        _, best, _ = checkpoints.best(progress)
        return Scorer(graph, best.learned, given), max(figures)
    finally:
        checkpoints.close()


def split(recommender: Recommender, seed: int) -> tuple[nnx.GraphDef, nnx.State, nnx.State]:
    """(graph, what is learned, what is given) of a model before training."""
    return nnx.split(recommender.module(nnx.Rngs(seed)), (nnx.Param, Kept), Given)


@functools.cache
def make_step(graph: nnx.GraphDef, rate: float):
    """(Adam, step), where step(progress, given, batch, key) -> (progress, loss float32 []); progress is donated.

    Remembered, so that what differs in its seed alone is compiled once.
    """
    optimizer = optax.adam(rate)

    @functools.partial(jax.jit, donate_argnums=0)
    def step(progress: Progress, given: nnx.State, batch, key: jax.Array) -> tuple[Progress, jax.Array]:
        params, kept = nnx.split_state(progress.learned, nnx.Param, ...)

        def loss(params: nnx.State) -> jax.Array:
            return nnx.merge(graph, params, kept, given).loss(batch, key)

        value, gradient = jax.value_and_grad(loss)(params)
        update, moments = optimizer.update(gradient, progress.moments, params)
        return Progress(nnx.merge_state(optax.apply_updates(params, update), kept), moments), value

    return optimizer, step


def ahead(batches: Iterator) -> Iterator:
    """The same batches, on the device one step before they are needed: the next is made while a step computes."""
    batches = map(jax.device_put, batches)
    waiting = list(itertools.islice(batches, 1))
    for batch in batches:
        waiting.append(batch)
        yield waiting.pop(0)
    yield from waiting


def _finished(figures: list[float], patience: int) -> bool:
    return bool(figures) and len(figures) - 1 - int(np.argmax(figures)) >= patience


@functools.partial(jax.jit, static_argnums=0)
def _encode(graph: nnx.GraphDef, learned: nnx.State, given: nnx.State) -> Tables:
    return nnx.merge(graph, learned, given).encode()


@functools.partial(jax.jit, static_argnums=0)
def _score(
    graph: nnx.GraphDef, learned: nnx.State, given: nnx.State, tables: Tables, query: Query, items: jax.Array | None
) -> jax.Array:
    return nnx.merge(graph, learned, given).score(tables, query, items)
