"""The baselines of an experiment, trained when first asked for: `Baselines.player(method, seed)`.

DIR/baselines/METHOD/SEED holds checkpoints. One model serves all protocols, as one agent does: it is trained on the
training part for all families that the data can realise, drawn uniformly (§3.4), and validated by NDCG@10 of its own
scores on validation episodes of "ooma". With a grid, every combination is trained with the first seed, in
DIR/baselines/METHOD/grid, and the best on validation is what all seeds use.
"""

from __future__ import annotations

import functools
import itertools
import json
from pathlib import Path

import numpy as np

from mma_jax.agents.registry import Play
from mma_jax.agents.rollout import judged
from mma_jax.baselines import fit
from mma_jax.baselines.corpus import Corpus, ask, padded
from mma_jax.baselines.layers import check_heads
from mma_jax.baselines.registry import BASELINES
from mma_jax.data.disk import write_atomically
from mma_jax.data.missing import realizable
from mma_jax.evaluation.checks import CHOICES, RANGES, check_range, listed, one_of, seeds
from mma_jax.evaluation.experiment import Experiment
from mma_jax.features.text_vectors import vectors
from mma_jax.metrics import ranking
from mma_jax.types import FAMILIES, Episode, InputError

CHUNK = 256  # episodes scored at once


def corpus(made: Experiment) -> Corpus:
    """What baselines of an experiment learn from: the training part, and the content of all items."""
    view, log = made.view("test"), made.dataset.interactions
    rows = np.flatnonzero(made.view_rows("test"))
    rows = rows[np.lexsort((log.time[rows], log.user[rows]))]
    _, first = np.unique(np.stack([log.user[rows], log.item[rows]]), axis=1, return_index=True)
    rows = rows[np.sort(first)]
    content, has = {}, {}
    if view.text is not None:
        content["text"] = vectors(view.text, view.in_training, made.config.text.dim)
    if view.image is not None:
        content["image"] = np.asarray(view.image.embedding, np.float32)
    for name, table in content.items():
        has[name] = np.abs(table).sum(axis=1) > 0
    return Corpus(
        n_users=len(made.dataset.users),
        n_items=len(made.dataset.catalog),
        users=log.user[rows].astype(np.int32),
        items=log.item[rows].astype(np.int32),
        before=_before(log.user[rows], log.time[rows], log.order != "none"),
        content=content,
        has=has,
        families=tuple(FAMILIES[name] for name in realizable(view.presence)),
    )


def _before(users: np.ndarray, times: np.ndarray, ordered: bool) -> np.ndarray:
    """int32 [N]: of each user's rows, sorted by time, how many are strictly earlier; -1 without an order."""
    if not ordered:
        return np.full(len(users), -1, np.int32)
    row = np.arange(len(users))
    new = np.r_[True, (users[1:] != users[:-1])]
    later = new | np.r_[True, times[1:] != times[:-1]]
    # The first row of the user, and the first row of the same user at the same time.
    start, tied = (np.maximum.accumulate(np.where(flags, row, 0)) for flags in (new, later))
    return (tied - start).astype(np.int32)


class Baselines:
    """The trained baselines of an experiment."""

    def __init__(self, made: Experiment):
        self.made, self.config = made, made.config
        self.scorer = functools.cache(self._scorer)

    @functools.cached_property
    def corpus(self) -> Corpus:
        return corpus(self.made)

    def player(self, name: str, seed: int) -> Play:
        """A method that scores pools without a turn."""
        scorer = self.scorer(name, seed)
        return lambda env, episodes: [
            judged(episode, scores) for episode, scores in zip(episodes, self.scores(scorer, episodes), strict=True)
        ]

    def scores(self, scorer: fit.Scorer, episodes: list[Episode]) -> np.ndarray:
        """float32 [E, B]"""
        found = []
        for start in range(0, len(episodes), CHUNK):
            chunk = [episodes[n % len(episodes)] for n in range(start, start + CHUNK)]  # one shape, so compiled once
            query = ask(
                self.corpus,
                np.array([e.user for e in chunk]),
                padded([e.case.history for e in chunk], self.config.data.max_history),
                np.array([e.case.mask for e in chunk]),
            )
            found.append(scorer(query, np.stack([e.case.pool for e in chunk])))
        return np.concatenate(found)[: len(episodes)]

    def _scorer(self, name: str, seed: int) -> fit.Scorer:
        return self._fit(name, self._chosen(name), seed, self.directory(name) / str(seed))[0]

    def directory(self, name: str) -> Path:
        return self.made.directory / "baselines" / name

    def _fit(self, name: str, settings, seed: int, directory: Path) -> tuple[fit.Scorer, float]:
        made = BASELINES[name].make(settings, self.corpus)
        return fit.fit(made, settings, seed, directory, self._validate, f"train {name}, seed {seed}")

    @functools.cached_property
    def _validation(self) -> list[Episode]:
        return self.made.episodes("valid", "ooma")

    def _validate(self, scorer: fit.Scorer) -> float:
        targets = np.array([e.target_position for e in self._validation])
        return float(ranking.ndcg(self.scores(scorer, self._validation), targets, 10).mean())

    def _chosen(self, name: str):
        """The settings of a baseline: those of the config, with the best values of its grid if it has one."""
        settings = self.config.baselines[BASELINES[name].settings]
        if not settings.grid:
            return settings
        record = self.directory(name) / "grid.json"
        if not record.exists():
            figures = []
            for number, values in enumerate(combinations(settings.grid, settings)):
                folder, tried = self.directory(name) / "grid" / str(number), _with(settings, values)
                figures.append({"settings": values, "valid": self._fit(name, tried, seeds(self.config)[0], folder)[1]})
            write_atomically(record, json.dumps(figures, indent=2))
        best = max(json.loads(record.read_text()), key=lambda one: one["valid"])
        return _with(settings, best["settings"])


def check(config, names: list[str]) -> None:
    """Raises InputError if a baseline among the methods has settings, or a grid of them, that cannot be."""
    for key in [BASELINES[name].settings for name in names if name in BASELINES]:
        settings = config.baselines[key]
        for values in combinations(settings.grid, settings):
            for setting, value in values.items():
                name, said = f"baselines.{key}.{setting}", f"baselines.{key}.grid: {setting}"
                if bounds := RANGES.get(name):
                    check_range(f"{said}={value}", value, bounds)
                if known := CHOICES.get(name):
                    one_of(said, value, known)
            if "heads" in settings:
                check_heads(key, _with(settings, values))


def _with(settings, values: dict):
    """A copy of settings with other values."""
    changed = settings.copy_and_resolve_references()
    changed.update(values)
    return changed


def combinations(grid: str, settings) -> list[dict]:
    """Every combination of "key=value,value;key=value": dicts of settings, in the types that the settings have.

    Raises:
        InputError: a key that is not there, one without values, or a value that is not of its type.
    """
    axes = []
    for axis in filter(None, (part.strip() for part in grid.split(";"))):
        key, _, values = axis.partition("=")
        if key not in settings or key == "grid":
            raise InputError(f"a baseline's grid {grid!r} names {key!r}: known are {', '.join(settings)}")
        try:
            axes.append([(key, type(settings[key])(value)) for value in listed(values)])
        except ValueError:
            kind = type(settings[key]).__name__
            raise InputError(f"a baseline's grid {grid!r}: {key} wants values of type {kind}") from None
        if not axes[-1]:
            raise InputError(f"a baseline's grid {grid!r} has no value of {key}: give key=value,value or leave it out")
    return [dict(chosen) for chosen in itertools.product(*axes)]
