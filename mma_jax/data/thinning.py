"""Missing evidence in the data itself: a share of the items loses its text, its pictures or both.

A mask hides a modality for a whole episode (`data.missing`); here single items lack it, in every episode and for every
method, as a shop's catalogue does. `drop_kind` says which items (the three mechanisms of Rubin, 1976):

mcar         completely at random: every item alike
popularity   at random given what is observed (MAR): the fewer users have taken an item, the sooner it loses. Counted
             over FIT alone, the slice that builds all evidence of training episodes: with later interactions in it, who
             still has a text would tell something of who is taken in TRAIN, VALID or TEST
value        not at random (MNAR): the chance depends on the very thing that goes missing. Text: the shorter, the
             sooner. Pictures: the darker, the sooner (mean brightness of the first one; one that cannot be read is
             darkest)

Exactly round(rate * items that have it) lose it. An item's turn to lose is one seeded draw, tilted by the kind, so the
items missing at a rate of .3 are missing at .6 too: curves over the rate are paired. With "both", text and pictures
have draws of their own, and each modality loses the items that it loses alone. Interactions stay.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import ImageStat
from scipy.stats import rankdata
from tqdm import tqdm

from mma_jax.data.images import open_image
from mma_jax.data.records import TEXT_FIELDS
from mma_jax.data.splits import positives, split
from mma_jax.types import FIT, Catalog, Dataset

MODALITIES = {"none": (), "text": ("text",), "image": ("image",), "both": ("text", "image")}
"""What config.data.drop_modality may say."""

STREAMS = {"text": 0, "image": 1}

KINDS = ("mcar", "popularity", "value")

TILT = 4.0
"""Of the two tilted kinds: the first item of the order is e^4 = 55 times as likely to go next as the last one."""


def thin(dataset: Dataset, config) -> Dataset:
    """The dataset without what config.data.drop_modality, drop_rate and drop_kind take away; tells so in `problems`.

    Args:
      dataset: as loaded.
      config: the experiment's; beside config.data.drop_*, its seed draws and its split says what FIT is.
    """
    data, catalog, notes = config.data, dataset.catalog, []
    for modality in MODALITIES[data.drop_modality] if data.drop_rate else ():
        has = holders(catalog, modality)
        lean = _lean(dataset, modality, config)
        lost = losers(has, lean, data.drop_rate, np.random.default_rng([config.seed, STREAMS[modality]]))
        catalog = without(catalog, modality, lost)
        notes.append(
            f"data.drop_rate={data.drop_rate:g} ({data.drop_kind}) takes the {modality} of {len(lost):,} of "
            f"{has.sum():,} items that have it"
        )
    return dataclasses.replace(dataset, catalog=catalog, problems=(*dataset.problems, *notes))


def losers(has: np.ndarray, lean: np.ndarray, rate: float, rng: np.random.Generator) -> np.ndarray:
    """int64 [round(rate * sum(has))] items, sorted: the first to lose what `has`, bool [I], says they have.

    Args:
      lean: float [I], the larger the sooner; only its order among those that have it counts. All equal: at random.

    Draws without replacement with weights exp(TILT * u), u in [0, 1] the item's place in the order: the items with the
    largest log weight + Gumbel noise (Efraimidis and Spirakis, 2006), so a higher rate only adds to a lower one's.
    """
    noise = rng.gumbel(size=len(has))  # for all items, so that an item's draw is its own
    items = np.flatnonzero(has)
    place = (rankdata(lean[items]) - 0.5) / max(len(items), 1)
    keys = TILT * place + noise[items]
    return np.sort(items[np.argsort(-keys, kind="stable")[: round(rate * len(items))]])


def holders(catalog: Catalog, modality: str) -> np.ndarray:
    """bool [I]: the item has any text, or lists a picture."""
    if modality == "image":
        return np.array([bool(paths) for paths in catalog.images], bool)
    return text_length(catalog) > 0


def without(catalog: Catalog, modality: str, items: np.ndarray) -> Catalog:
    """The catalog with that modality gone from the items, int [n]; other rows keep the very same objects."""
    lost = set(items.tolist())

    def blank(column: Sequence, nothing) -> tuple:
        return tuple(nothing if item in lost else value for item, value in enumerate(column))

    if modality == "image":
        return dataclasses.replace(catalog, images=blank(catalog.images, ()))
    return dataclasses.replace(catalog, **{name: blank(getattr(catalog, name), "") for name in TEXT_FIELDS})


def text_length(catalog: Catalog) -> np.ndarray:
    """int64 [I]: characters of an item's text fields together."""
    return sum(np.array([len(value.strip()) for value in getattr(catalog, name)], np.int64) for name in TEXT_FIELDS)


def brightness(images: Sequence[Sequence[str]]) -> np.ndarray:
    """float64 [I]: mean luminance, 0 to 255, of each item's first picture; 0 without a readable one."""
    with ThreadPoolExecutor() as pool:
        found = tqdm(pool.map(_luminance, images), "brightness of images", len(images), leave=False, mininterval=1.0)
        return np.array(list(found))


def _luminance(paths: Sequence[str]) -> float:
    picture, _ = open_image(paths[0]) if paths else (None, "")
    return ImageStat.Stat(picture.convert("L")).mean[0] if picture is not None else 0.0


def _lean(dataset: Dataset, modality: str, config) -> np.ndarray:
    """float64 [I]: who loses sooner under config.data.drop_kind."""
    if config.data.drop_kind == "mcar":
        return np.zeros(len(dataset.catalog))
    if config.data.drop_kind == "popularity":
        return -_popularity(dataset, config).astype(float)
    if modality == "image":
        return -brightness(dataset.catalog.images)
    return -text_length(dataset.catalog).astype(float)


def _popularity(dataset: Dataset, config) -> np.ndarray:
    """int64 [I]: positives in FIT, of distinct users."""
    log = dataset.interactions
    positive = positives(log, config.data.positive_rating)
    rows = positive & (split(log, positive, config.data.split, config.seed) == FIT)
    pairs = np.unique(np.stack([log.user[rows], log.item[rows]]), axis=1)
    return np.bincount(pairs[1], minlength=len(dataset.catalog))
