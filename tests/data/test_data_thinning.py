"""Items that lose their text or pictures: exactly so many, nested over rates, and the ones that the kind says."""

import dataclasses
import itertools

import numpy as np
import pytest
from PIL import Image

from mma_jax.config import base
from mma_jax.data import thinning
from mma_jax.evaluation.checks import check_settings
from mma_jax.evaluation.experiment import Experiment, fingerprint
from mma_jax.runs.images import build_image_store
from mma_jax.types import Catalog, Dataset, InputError, Interactions

ITEMS, USERS = 200, 60


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Item i has a text of about i + 1 characters and is taken about i / 10 times; every fifth lists no picture, the
    others one of brightness i; every tenth has no text."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for item in range(ITEMS):
        Image.new("RGB", (4, 4), (item, item, item)).save(folder / f"{item}.png")
    item = rng.permutation(np.repeat(np.arange(ITEMS), 1 + np.arange(ITEMS) // 10))
    count = len(item)
    time = np.arange(count, dtype=float)
    log = Interactions(
        rng.integers(USERS, size=count).astype(np.int32), item.astype(np.int32), np.full(count, np.nan, np.float32),
        time, "timestamp",
    )  # fmt: skip
    text = tuple("" if n % 10 == 0 else "x" * (n // 2) + " y" for n in range(ITEMS))
    images = tuple((str(folder / f"{n}.png"),) if n % 5 else () for n in range(ITEMS))
    catalog = Catalog(tuple(f"i{n}" for n in range(ITEMS)), text, text, ("",) * ITEMS, ("",) * ITEMS, images)
    return Dataset("toy", log, catalog, tuple(f"u{n}" for n in range(USERS)))


def thinned(dataset, modality="text", rate=0.3, kind="mcar", seed=0):
    config = base()
    config.data.drop_modality, config.data.drop_rate, config.data.drop_kind = modality, rate, kind
    config.seed = seed
    return thinning.thin(dataset, config)


def lost(dataset, modality, *args, **options):
    """Items that had the modality and have it no more."""
    after = thinned(dataset, modality, *args, **options)
    found = {}
    for name in thinning.MODALITIES[modality]:
        had, has = thinning.holders(dataset.catalog, name), thinning.holders(after.catalog, name)
        assert not (has & ~had).any()
        found[name] = set(np.flatnonzero(had & ~has).tolist())
    return found if modality == "both" else found[modality]


@pytest.mark.parametrize("kind", thinning.KINDS)
@pytest.mark.parametrize("modality", ["text", "image"])
def test_exactly_so_many_and_nested(dataset, modality, kind):
    had = thinning.holders(dataset.catalog, modality).sum()
    found = [lost(dataset, modality, rate, kind) for rate in (0.0, 0.1, 0.333, 0.6, 0.9)]
    assert [len(items) for items in found] == [round(rate * had) for rate in (0.0, 0.1, 0.333, 0.6, 0.9)]
    assert all(a < b for a, b in itertools.pairwise(found))


def test_nothing_else_changes(dataset):
    assert thinned(dataset, "none", 0.0) == dataset and thinned(dataset, "text", 0.0) == dataset
    after = thinned(dataset, "text", 0.5)
    assert after.interactions is dataset.interactions and after.catalog.images is dataset.catalog.images
    gone = lost(dataset, "text", 0.5)
    for name in thinning.TEXT_FIELDS:
        for item, (was, now) in enumerate(
            zip(getattr(dataset.catalog, name), getattr(after.catalog, name), strict=True)
        ):
            assert now == ("" if item in gone else was)
    assert "takes the text of 90 of 180 items" in after.problems[-1]


def test_seeds_draw_differently_and_modalities_apart(dataset):
    text, image = lost(dataset, "text"), lost(dataset, "image")
    assert lost(dataset, "text") == text != lost(dataset, "text", seed=1)
    assert lost(dataset, "both") == {"text": text, "image": image}
    overlap = len(text & image) / len(image)
    assert 0.1 < overlap < 0.5  # about .3 if they are independent


@pytest.mark.parametrize(
    ("modality", "kind"), [("text", "popularity"), ("image", "popularity"), ("text", "value"), ("image", "value")]
)
def test_the_tilted_kinds_take_the_small_ones_first(dataset, modality, kind):
    """Popularity, length and brightness all grow with the item's number."""
    tilted, even = (np.mean(list(lost(dataset, modality, 0.3, k))) for k in (kind, "mcar"))
    assert tilted < 70 < 80 < even < 120


def test_popularity_is_that_of_fit(dataset):
    """Interactions later than FIT may be anything: who loses stays the same."""
    log = dataset.interactions
    later = log.time >= 0.8 * len(log)
    item = np.where(later, np.random.default_rng(1).integers(ITEMS, size=len(log)), log.item).astype(np.int32)
    assert (item != log.item).sum() > 100
    other = dataclasses.replace(dataset, interactions=dataclasses.replace(log, item=item))
    assert lost(other, "text", 0.5, "popularity") == lost(dataset, "text", 0.5, "popularity")


def test_an_unreadable_picture_is_dark(tmp_path):
    Image.new("L", (3, 3), 200).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("no picture")
    found = thinning.brightness([(str(tmp_path / "a.png"),), (str(tmp_path / "b.png"),), ()])
    assert found.tolist() == [200, 0, 0]


BAD = [
    ({"drop_modality": "sound", "drop_rate": 0.1}, "drop_modality"),
    ({"drop_kind": "often"}, "drop_kind"),
    ({"drop_modality": "text", "drop_rate": 1.0}, "drop_rate"),
    ({"drop_modality": "text", "drop_rate": -0.1}, "drop_rate"),
    ({"drop_rate": 0.2}, "drop_modality"),
    ({"drop_modality": "both", "drop_rate": 0.2}, "images.encoder"),
]


@pytest.mark.parametrize(("settings", "word"), BAD)
def test_wrong_settings_are_one_line(settings, word):
    config = base()
    for name, value in settings.items():
        config.data[name] = value
    with pytest.raises(InputError, match=word) as caught:
        check_settings(config)
    assert "\n" not in str(caught.value)


def test_a_bound_is_refused_where_it_would_know_too_much():
    config = base()
    config.data.drop_modality, config.data.drop_rate, config.methods = "text", 0.2, "First-stage,Bayes"
    with pytest.raises(InputError, match="Bayes"):
        check_settings(config)


@pytest.fixture
def small():
    config = base()
    config.world.n_items, config.world.n_users = 120, 250
    config.episodes.train, config.episodes.valid, config.episodes.test = 60, 20, 30
    config.pool.size = 10
    config.images.encoder, config.images.vocabulary = "tiny", "world"
    return config


def test_an_experiment_stands_on_the_thinned_data(tmp_path, small):
    """Its evidence lacks what was taken, its folder is tied to it, and pictures are encoded as if none were missing."""
    full = Experiment(small, tmp_path / "full", build_image_store)
    small.data.root = str(tmp_path / "full" / "prepared")  # the same world
    small = small.copy_and_resolve_references()
    small.data.drop_modality, small.data.drop_rate = "both", 0.5
    half = Experiment(small, tmp_path / "half", build_image_store)
    assert full.images.has.sum() == 120 and half.images.has.sum() == 60 == holders(half, "image").sum()
    assert (half.images.has == holders(half, "image")).all() and not half.images.embedding[~half.images.has].any()
    assert all(half.images.tags(item) == [] for item in np.flatnonzero(~half.images.has))
    kept = half.images.has
    np.testing.assert_array_equal(half.images.embedding[kept], full.images.embedding[kept])
    stored = (tmp_path / "half" / "prepared" / "images" / "embedding.npy").read_bytes()
    assert stored == (tmp_path / "full" / "prepared" / "images" / "embedding.npy").read_bytes()
    text = half.view("test").text
    assert text.has.sum() == 60 and (text.has == holders(half, "text")).all()
    assert half.world is None and full.world is not None and full.images is full.images.only(np.ones(120, bool))
    assert fingerprint(half.dataset) != fingerprint(full.dataset)
    small.data.drop_rate = 0.4
    with pytest.raises(InputError, match="data has changed"):
        _ = Experiment(small, tmp_path / "half", build_image_store).dataset


def test_the_fingerprint_knows_which_items_have_pictures(dataset):
    assert len({fingerprint(thinned(dataset, "image", rate)) for rate in (0.0, 0.1, 0.2)}) == 3


def holders(made, modality):
    return thinning.holders(made.dataset.catalog, modality)
