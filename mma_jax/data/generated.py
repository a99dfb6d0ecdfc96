"""The generated dataset: a `World` told in words, pictures and co-purchases.

Nothing is read: everything follows from the configuration, its seed included. What each modality says:

* Text. Every value of a text attribute has a set of synonyms, one of which is written. The lighter an attribute
  weighs, the louder it is said: the lightest fills the title with several of its synonyms, the heaviest is one
  word of the category, those between are one word each among the description's fillers. So counting shared
  words is far from the best use of the text.
* Images. Image attributes set attributes of `render`; what is left of these is drawn at random.
* Behavior. `Dataset.copurchases` holds item pairs sampled by what behavior shows (its attributes and
  popularity) and by nothing else. The interactions follow the whole utility and would reveal every attribute;
  they are there to be targets and histories.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from mma_jax.data import render
from mma_jax.data.disk import write_atomically
from mma_jax.data.world import DEFAULT, Attribute, World, WorldConfig, stream
from mma_jax.types import Catalog, Dataset, InputError, Interactions

LEXICON: dict[str, tuple[str, ...]] = {
    "theme": (
        "nautical marine coastal seaside maritime oceanic",
        "woodland sylvan jungle rainforest grove thicket",
        "cosmic galactic stellar lunar orbital astral",
        "urban metropolitan downtown municipal civic skyline",
        "arid dune cactus sahara mirage nomad",
        "alpine summit ridge highland glacier peak",
        "floral botanical blossom orchard petal hedge",
        "barn tractor harvest pasture rural homestead",
    ),
    "style": (
        "elegant refined graceful polished chic classy",
        "rustic weathered rugged handmade earthy primitive",
        "playful whimsical funny cheerful quirky silly",
        "modern sleek contemporary minimal streamlined futuristic",
        "vintage retro antique nostalgic heirloom classic",
        "bold daring striking vivid loud fearless",
        "cozy snug plush comfy toasty soft",
        "luxurious opulent lavish premium royal deluxe",
    ),
    "audience": (
        "kids toddler nursery preschool children playground",
        "travel luggage voyage commuter passport backpack",
        "student campus classroom homework scholar dormitory",
        "fitness gym workout runner training marathon",
        "kitchen cooking chef baking culinary recipe",
        "music guitar concert melody orchestra piano",
        "gaming arcade console joystick puzzle dice",
        "pet dog cat puppy kitten leash",
    ),
    "material": (
        "oak walnut bamboo cedar maple birch",
        "steel iron brass copper aluminum titanium",
        "cotton linen wool velvet denim canvas",
        "glass crystal ceramic porcelain mosaic enamel",
        "leather suede nubuck calfskin buckskin sheepskin",
        "paper cardboard origami parchment notebook envelope",
        "marble granite slate limestone quartz basalt",
        "plastic vinyl acrylic silicone rubber nylon",
    ),
}
"""Attributes that text can show: the synonyms of each value. No word occurs twice in this file."""

# fmt: off
PRODUCTS = (
    "lamp", "mug", "poster", "cushion", "clock", "tray", "basket", "frame", "bottle", "shelf", "rug", "vase",
    "blanket", "candle", "stool", "bin",
)
DEPARTMENTS = (
    "home", "office", "gifts", "outdoors", "bedroom", "essentials", "clearance", "accessories", "storage", "lighting",
    "decor", "furniture", "seasonal", "entryway", "bathroom", "hallway", "balcony", "dining", "laundry", "workshop",
    "souvenirs", "bestsellers", "novelties", "overstock",
)
FILLERS = (
    "handy", "sturdy", "compact", "quality", "everyday", "useful", "practical", "lightweight", "durable", "reliable",
    "simple", "versatile", "portable", "original", "popular", "affordable", "foldable", "washable", "stackable",
    "certified", "exclusive", "imported", "limited", "standard", "convenient", "adjustable", "reusable", "portioned",
    "assorted", "selected", "tested", "improved", "trusted", "genuine", "detailed", "matching", "spacious", "slim",
    "smooth", "sealed", "padded", "hinged", "boxed", "labeled", "numbered", "repaired", "spare", "surplus",
)
# fmt: on
"""Words that say nothing of any attribute: in titles, in categories and in descriptions."""

YEAR_START, YEAR_SECONDS = 1_672_531_200, 365 * 86_400  # 2023, in unix seconds


def load(root: str, name: str, config: WorldConfig = DEFAULT) -> Dataset:
    """Generates the dataset; writes its images under root/name/images unless they are there.

    root/name/world.json holds the configuration and a checksum of all that was generated. A folder that holds
    another world is refused (InputError), as is one that cannot be written.
    """
    folder = Path(root) / name
    world = World(config)
    pictures = _pictures(world)
    interactions, _ = draw_interactions(world)
    dataset = Dataset(
        name=name,
        interactions=interactions,
        catalog=_catalog(world, folder),
        users=tuple(f"u{user}" for user in range(config.n_users)),
        copurchases=_copurchases(world),
    )
    try:
        _claim(folder, config, _checksum(dataset, world, pictures))
        _write_images(folder / "images", config, dataset.catalog, pictures)
    except OSError as error:
        raise InputError(f"{folder}: cannot write the generated world ({error}); choose another data.root") from error
    return dataset


def world_config(knobs: Mapping) -> WorldConfig:
    """A WorldConfig from plain values, as a config file holds them; knobs not named keep their defaults.

    `attributes` is a sequence of mappings with the fields of `Attribute`.
    """
    values = dict(knobs)
    known = [field.name for field in dataclasses.fields(WorldConfig)]
    if unknown := sorted(set(values) - set(known)):
        raise InputError(f"generated world: unknown knob {unknown[0]!r}; known: {', '.join(known)}")
    if "attributes" in values:
        values["attributes"] = tuple(_attribute(fields) for fields in values["attributes"])
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return dataclasses.replace(DEFAULT, **values)


def _attribute(fields: Mapping) -> Attribute:
    try:
        return Attribute(**{**fields, "reveals": tuple(fields["reveals"])})
    except (KeyError, TypeError) as error:
        problem = "an attribute has name, weight and reveals, and may have values"
        raise InputError(f"generated world: {problem} ({error})") from error


def synonyms(config: WorldConfig) -> dict[str, tuple[tuple[str, ...], ...]]:
    """The words of each value of each text attribute, lightest attribute first: {attribute: values x synonyms}."""
    shown = [config.attributes[column] for column in config.shown_by("text")]
    words = {}
    for attribute in sorted(shown, key=lambda attribute: attribute.weight):
        known = [tuple(line.split()) for line in LEXICON.get(attribute.name, ())]
        if not known:
            raise InputError(f"generated world: text has no words for {attribute.name!r}; known: {', '.join(LEXICON)}")
        if attribute.values > len(known) or not config.loudness <= config.synonyms <= len(known[0]):
            raise InputError(
                f"generated world: {attribute.name!r} can have {len(known)} values in text at most, "
                f"and loudness <= synonyms <= {len(known[0])} must hold"
            )
        words[attribute.name] = tuple(value[: config.synonyms] for value in known[: attribute.values])
    return words


def drawn_as(config: WorldConfig) -> dict[str, str]:
    """Which attribute of `render.ATTRIBUTES` draws each image attribute: its namesake, or the first with room."""
    free, drawn = dict(render.ATTRIBUTES), {}
    for attribute in (config.attributes[column] for column in config.shown_by("image")):
        fitting = [name for name, words in free.items() if attribute.values <= len(words)]
        if not fitting:
            raise InputError(f"generated world: images have no room for {attribute.name!r} ({attribute.values} values)")
        drawn[attribute.name] = attribute.name if attribute.name in fitting else fitting[0]
        del free[drawn[attribute.name]]
    return drawn


def read_words(config: WorldConfig, catalog: Catalog) -> dict[str, np.ndarray]:
    """What the words of an item say: attribute -> int64 [I], the value whose synonyms occur, -1 where none does."""
    texts = [
        set(" ".join(fields).lower().replace(",", " ").split())
        for fields in zip(catalog.title, catalog.categories, catalog.description, strict=True)
    ]
    return {
        attribute: np.array([next((v for v, words in enumerate(values) if text & set(words)), -1) for text in texts])
        for attribute, values in synonyms(config).items()
    }


def draw_interactions(world: World) -> tuple[Interactions, np.ndarray]:
    """The log in order of time, and the preference vectors behind it, int64 [U, A].

    Every user chooses without replacement, at moments spread uniformly over one year, strictly increasing.
    """
    config, rng = world.config, stream(world.config, "users")
    shortest, longest = config.history
    preferences = world.draw_preferences(config.n_users, rng)
    items = world.draw_choices(preferences, longest, rng)
    if config.permuted:
        relabeled = np.argsort(rng.random((config.n_users, config.n_items)), axis=1)
        items = np.take_along_axis(relabeled, items.astype(np.int64), axis=1).astype(np.int32)
    kept = np.arange(longest) < rng.integers(shortest, longest + 1, size=config.n_users)[:, None]
    moments = np.where(kept, rng.random(kept.shape), np.inf)  # the moments of those not kept sort behind
    moments = np.floor(np.sort(moments, axis=1) * YEAR_SECONDS) + np.arange(longest)
    user, item, time = np.nonzero(kept)[0], items[kept], YEAR_START + moments[kept]
    order = np.argsort(time, kind="stable")
    log = Interactions(
        user=user[order].astype(np.int32),
        item=item[order],
        rating=np.full(len(order), np.nan, np.float32),
        time=time[order],
        order="timestamp",
    )
    return log, preferences


def _catalog(world: World, folder: Path) -> Catalog:
    config, rng = world.config, stream(world.config, "text")
    if config.fillers > len(FILLERS):
        raise InputError(
            f"generated world: there are {len(FILLERS)} filler words, so fillers={config.fillers} is too many"
        )
    names = [config.attributes[column].name for column in config.shown_by("text")]
    words = [(names.index(name), values) for name, values in synonyms(config).items()]
    written = [_write(config, [values[shown[a]] for a, values in words], rng) for shown in world.shown["text"]]
    title, categories, description = zip(*written, strict=True)
    ids = tuple(f"i{item}" for item in range(config.n_items))
    return Catalog(
        ids=ids,
        title=title,
        categories=categories,
        description=description,
        brand=("",) * config.n_items,
        images=tuple((str(folder / "images" / f"{name}.png"),) if config.shown_by("image") else () for name in ids),
    )


def _write(config: WorldConfig, ways: list[tuple[str, ...]], rng: np.random.Generator) -> tuple[str, str, str]:
    """Title, category and description of an item, given the synonyms to say it with, lightest attribute first."""
    heaviest, lightest, between = ways[-1:], ways[:-1][:1], ways[1:-1]
    title = [word for words in lightest for word in rng.choice(words, config.loudness, replace=False)]
    category = [rng.choice(DEPARTMENTS), *(rng.choice(words) for words in heaviest)]
    description = [*(rng.choice(words) for words in between), *rng.choice(FILLERS, config.fillers, replace=False)]
    return (
        " ".join([*title, rng.choice(PRODUCTS)]).title(),
        ", ".join(category).title(),
        " ".join(rng.permutation(description)).capitalize(),
    )


def _pictures(world: World) -> list[dict[str, int]]:
    """Per item, what its image shows, in the terms of `render`, which draws the rest at random."""
    names = list(drawn_as(world.config).values())
    return [dict(zip(names, row, strict=True)) for row in world.shown["image"].tolist()] if names else []


def _copurchases(world: World) -> np.ndarray:
    """int32 [E, 2] distinct item pairs, sampled without replacement by what behavior shows.

    A pair's weight is exp(affinity times the number of shown values its items share + both popularities), so
    that popular items have more neighbors and neighbors tend to be of one kind.
    """
    config, shown = world.config, world.shown["behavior"]
    first, second = np.triu_indices(config.n_items, k=1)
    shared = (shown[first] == shown[second]).sum(1)
    weight = config.affinity * shared + world.popularity[first] + world.popularity[second]
    keys = weight + stream(config, "copurchases").gumbel(size=len(weight))
    count = min(config.copurchases * config.n_items, len(keys))
    drawn = np.sort(np.argpartition(-keys, count - 1)[:count]) if count else np.zeros(0, np.int64)
    return np.stack([first[drawn], second[drawn]], axis=1).astype(np.int32)


def _checksum(dataset: Dataset, world: World, pictures: list[dict[str, int]]) -> str:
    """sha256 of all that was generated; images enter by what they show and by one drawn example."""
    digest = hashlib.sha256()
    log, catalog = dataset.interactions, dataset.catalog
    for array in (world.latents, world.popularity, log.user, log.item, log.time, dataset.copurchases):
        digest.update(np.ascontiguousarray(array).tobytes())
    digest.update(json.dumps([catalog.title, catalog.categories, catalog.description, pictures]).encode())
    if pictures:
        digest.update(_draw(world.config, 0, pictures[0]).tobytes())
    return digest.hexdigest()


def _draw(config: WorldConfig, item: int, picture: dict[str, int]) -> Image.Image:
    return render.render(picture, stream(config, "images", item))


def _claim(folder: Path, config: WorldConfig, checksum: str) -> None:
    """Writes world.json, or checks that the folder holds this very world."""
    path = folder / "world.json"
    described = json.dumps({"config": dataclasses.asdict(config), "checksum": checksum}, indent=1)
    if path.exists():
        if path.read_bytes() != described.encode():
            raise InputError(f"{path} describes another generated world; delete {folder} or choose another data.name")
        return
    if (folder / "images").exists():
        raise InputError(f"{folder} holds images but no world.json; choose another data.name")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, described)


def _write_images(folder: Path, config: WorldConfig, catalog: Catalog, pictures: list[dict[str, int]]) -> None:
    """Draws the images that are not there yet, each written whole or not at all."""
    folder.mkdir(exist_ok=True)
    there = set(os.listdir(folder))
    missing = [item for item in range(len(pictures)) if f"{catalog.ids[item]}.png" not in there]
    for item in tqdm(missing, desc="drawing images", disable=not missing):
        path = Path(catalog.images[item][0])
        partial = path.with_suffix(".partial")
        _draw(config, item, pictures[item]).save(partial, format="PNG")
        os.replace(partial, path)
