"""An experiment as one lazy object: config and folder in; dataset, views, episodes and environments out.

Everything expensive is written under DIR/prepared and read back when it is there, so every run (prepare, audit,
evaluate, report) begins where the last one ended. Episodes depend on (config, data) alone, never on the run.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mma_jax.data import generated
from mma_jax.data.disk import write_atomically
from mma_jax.data.histories import Histories
from mma_jax.data.missing import realizable
from mma_jax.data.records import TEXT_FIELDS
from mma_jax.data.sources import load
from mma_jax.data.splits import positives, split
from mma_jax.data.thinning import holders, thin
from mma_jax.data.world import World
from mma_jax.envs.budget import CountTokens, estimate_tokens
from mma_jax.envs.environment import Environment
from mma_jax.envs.unfaithful import UnfaithfulEnvironment
from mma_jax.evaluation import episodes as episode_builder
from mma_jax.evaluation.checks import asked_protocols, options
from mma_jax.evaluation.views import View, build_view, training_rows
from mma_jax.features.images import ImageStore
from mma_jax.features.text import tokenize
from mma_jax.models.convert import L0_TINY
from mma_jax.models.tokenizer import Chat, load_tokenizer
from mma_jax.retrieval import pools
from mma_jax.types import FAMILIES, Dataset, Episode, InputError, Mask

ImageBuilder = Callable[[object, Dataset, Path], ImageStore | None]


def fingerprint(dataset: Dataset) -> str:
    """A checksum of everything in a dataset but the content of its images, which the image store checks itself."""
    digest = hashlib.sha256()
    log, catalog = dataset.interactions, dataset.catalog
    for array in (log.user, log.item, log.rating, log.time, log.given_split, dataset.copurchases):
        digest.update(np.ascontiguousarray(array).tobytes() if array is not None else b"none")
    for strings in (dataset.users, catalog.ids, catalog.title, catalog.categories, catalog.description, catalog.brand):
        digest.update("\x1f".join(strings).encode())
    digest.update(np.array([len(paths) for paths in catalog.images], np.int64).tobytes())
    return digest.hexdigest()


class Experiment:
    """`images` builds the image store (it needs an encoder, so the caller passes it in)."""

    def __init__(self, config, directory: Path, images: ImageBuilder):
        self.config, self.directory, self._build_images = config, directory, images
        self.prepared = directory / "prepared"

    @functools.cached_property
    def complete(self) -> Dataset:
        """The data as loaded, before config.data.drop_* takes evidence away."""
        return load(self.config, self.prepared)

    @functools.cached_property
    def dataset(self) -> Dataset:
        """The data, which must be the data that the folder was begun with. Raises InputError if it is not."""
        dataset = thin(self.complete, self.config)
        record, checksum = self.directory / "data.sha256", fingerprint(dataset)
        if not record.exists():
            self.directory.mkdir(parents=True, exist_ok=True)
            write_atomically(record, checksum)  # half of one would look like other data
        if record.read_text() != checksum:
            raise InputError(f"the data has changed since {self.directory} was begun: choose another --workdir")
        return dataset

    @functools.cached_property
    def world(self) -> World | None:
        """The truth behind a generated dataset, for bounds alone; None where a bound would be none: parts of the
        dataset were taken away or histories cut short, which it would not know of, or negatives drawn by popularity,
        which it takes for even."""
        config = self.config
        if config.data.source != "generated" or config.data.drop_rate or config.pool.negatives != "all":
            return None
        known = generated.world_config(config.world)
        return World(known) if config.data.max_history >= known.history[1] else None

    @functools.cached_property
    def positive(self) -> np.ndarray:
        return positives(self.dataset.interactions, self.config.data.positive_rating)

    @functools.cached_property
    def parts(self) -> np.ndarray:
        return split(self.dataset.interactions, self.positive, self.config.data.split, self.config.seed)

    @functools.cached_property
    def histories(self) -> Histories:
        return Histories(self.dataset.interactions, self.positive, self.parts)

    @functools.cached_property
    def presence(self) -> Mask:
        """Which modalities the data has at all, known before any evidence is built."""
        catalog = self.dataset.catalog
        text = any(any(map(tokenize, getattr(catalog, name))) for name in TEXT_FIELDS)  # `TextStore.has` of any item
        return (text, self.config.images.encoder != "none" and any(catalog.images), bool(self.positive.any()))

    @functools.cached_property
    def images(self) -> ImageStore | None:
        """Pictures are encoded before any are taken away: the encoder stays the same one, and the store can be shared.

        Raises InputError if there are image files but none that can be read.
        """
        store = self._build_images(self.config.images, self.complete, self.prepared / "images")
        if store is not None:
            store = store.only(holders(self.dataset.catalog, "image"))
        if (store is None or not store.has.any()) and self.presence[1]:
            raise InputError(f"{self.dataset.name}: no image can be read; go without by --config.images.encoder=none")
        return store if store is not None and store.has.any() else None

    def view(self, part: str) -> View:
        """The evidence that episodes of "train", or of "valid" and "test", are judged with."""
        return self._view(part == "train")

    @functools.cache  # noqa: B019 - an experiment lives as long as the process
    def _view(self, training: bool) -> View:
        rows = self.view_rows("train" if training else "test")
        name = "view_train" if training else "view_heldout"
        return build_view(self.dataset, rows, self.images, self.config, self.prepared / name)

    def view_rows(self, part: str) -> np.ndarray:
        """bool [N]: interactions behind a view."""
        code = episode_builder.PARTS[part]
        return training_rows(self.parts, self.positive, code, self.config.evidence)

    @functools.cache  # noqa: B019
    def sampled(self, part: str) -> episode_builder.Sampled:
        eligible = self.targets(part)
        found = episode_builder.sample(self.dataset, self.histories, eligible, self.config, part)
        if self.config.pool.negatives == "all":
            return found
        weights = self._density[self._popularity_ranks(part)]
        size, seed = self.config.pool.size, self.config.seed
        queries = [pools.matched(query, weights, size, seed) for query in found.queries]
        return dataclasses.replace(found, queries=queries)

    @functools.cached_property
    def _density(self) -> np.ndarray:
        """How often an item of each popularity rank is a training target, float64 [I]."""
        items = self.dataset.interactions.item[self.targets("train")]
        return pools.target_density(self._popularity_ranks("train")[items], len(self.dataset.catalog))

    def _popularity_ranks(self, part: str) -> np.ndarray:
        """int64 [I], by what a part's evidence knows."""
        items = self.dataset.interactions.item[self.view_rows(part)]
        counts = np.bincount(items, minlength=len(self.dataset.catalog))
        return pools.popularity_ranks(counts, self.config.seed)

    def targets(self, part: str) -> np.ndarray:
        """int64: interactions that targets of a part may be sampled from."""
        first = episode_builder.first_occurrences(self.dataset.interactions, self.positive, self.parts)
        return np.flatnonzero(first & (self.parts == episode_builder.PARTS[part]))

    @functools.cache  # noqa: B019
    def distribution(self, family: str) -> np.ndarray:
        """How often the pool's rule puts an inserted target at each rank, float64 [B]: always last in the paper's
        pools, or as often as training targets stand there that are among the best B themselves."""
        if self.config.pool.kind == "paper":
            return np.eye(self.config.pool.size)[-1]
        ranks = episode_builder.first_stage_ranks(
            self.view("train"),
            FAMILIES[family],
            self.sampled("train"),
            self.config.seed,
            f"train ranks {family}",
            negatives_only=True,
        )
        return pools.rank_distribution(ranks, self.config.pool.size)

    def families(self, protocol: str) -> list[str]:
        """Families the data can realise; absent cells are left out, never averaged (DESIGN §5.2)."""
        possible = realizable(self.presence)
        return [family for family in episode_builder.PROTOCOLS[protocol] if family in possible]

    @functools.cache  # noqa: B019
    def episodes(self, part: str, protocol: str) -> list[Episode]:
        """Episodes of one part and protocol."""
        if protocol in episode_builder.SAME:
            return self.episodes(part, episode_builder.SAME[protocol])
        path = self.prepared / "episodes" / f"{part}_{protocol}.npz"
        if (found := episode_builder.load(path)) is not None:
            return found
        calibrated = self.config.pool.kind == "calibrated" and protocol != "full_catalog"
        families = self.families(protocol)
        distributions = {family: self.distribution(family) for family in families} if calibrated else {}
        built = episode_builder.build(
            self.dataset, self.view(part), self.sampled(part), part, protocol, families, distributions, self.config
        )
        if not built:
            raise InputError(
                f"{self.dataset.name} has no episodes for part {part}, protocol {protocol}: "
                "check data.split, data.positive_rating and that some modality is present"
            )
        episode_builder.save(path, built)
        return built

    def fit_episodes(self, protocol: str) -> list[Episode]:
        """Training episodes whose target is in the pool, evenly thinned to config.eval.fit_episodes.

        Raises InputError if a family has none: then nothing can be fitted or planned for it.
        """
        usable = [e for e in self.episodes("train", protocol) if e.target_position >= 0]
        if without := set(self.families(protocol)) - {e.family for e in usable}:
            raise InputError(
                f"{protocol}: no training target of {', '.join(sorted(without))} is in its pool; "
                "raise --config.episodes.train or --config.pool.size, or leave the protocol out"
            )
        return usable[:: math.ceil(len(usable) / self.config.eval.fit_episodes)]

    @functools.cache  # noqa: B019 - one for all methods: it remembers prompts and answers
    def environment(self, part: str, protocol: str, summaries: str = "") -> Environment:
        """The environment of a part's evidence; under stress its tools lie in the test part. summaries: overrides the
        config's."""
        evidence, settings = self.view(part).evidence, options(self.config, protocol, summaries)
        if part == "test" and protocol.startswith("stress_"):
            cases = [episode.case for episode in self.episodes(part, protocol)]
            lie = protocol.removeprefix("stress_")
            return UnfaithfulEnvironment(evidence, settings, lie, cases, self.config.seed, self.count_tokens)
        return Environment(evidence, settings, self.count_tokens)

    @functools.cached_property
    def count_tokens(self) -> CountTokens:
        """Tokens of a text, for the environment's budgets: estimated, or as the model's own tokenizer has it."""
        if self.config.env.count == "estimate":
            return estimate_tokens
        return Chat(load_tokenizer(self.config.model.path or L0_TINY)).count

    def check(self) -> None:
        """Raise InputError for what the settings and the data together make impossible (see `checks` for settings)."""
        pairs = self.dataset.copurchases
        if self.config.graph.source == "copurchases" and (pairs is None or not (pairs[:, 0] != pairs[:, 1]).any()):
            raise InputError(
                f"config.graph.source='copurchases', but {self.dataset.name} lists no pairs of items bought together: "
                "give --config.graph.source=interactions"
            )
        if not self.protocols:
            raise InputError(f"{self.dataset.name} can realise no family of protocols {self.config.protocols!r}")
        size, items = self.config.pool.size, len(self.dataset.catalog)
        longest = max((len(self.histories.known(user)) for user in range(len(self.dataset.users))), default=0)
        if size > items - longest:
            raise InputError(
                f"pool.size={size} does not fit {self.dataset.name}: of its {items} items a user's own, up to "
                f"{longest}, cannot be negatives"
            )

    @functools.cached_property
    def protocols(self) -> list[str]:
        """The protocols asked for of which the data can realise at least one family."""
        return [protocol for protocol in asked_protocols(self.config) if self.families(protocol)]
