import json
import shutil
import sys
import types
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from mma_jax.data import render
from mma_jax.features import images as stores
from mma_jax.models import clip_convert
from mma_jax.runs import clip as tiny_clip
from mma_jax.runs import images, kfold
from mma_jax.types import Catalog, InputError


def settings(encoder="tiny", vocabulary="world", weights="", seed=0):
    return SimpleNamespace(encoder=encoder, vocabulary=vocabulary, weights=weights, seed=seed)


def dataset(paths, categories=None):
    blank = ("",) * len(paths)
    catalog = Catalog(tuple(map(str, range(len(paths)))), blank, categories or blank, blank, blank, tuple(paths))
    return SimpleNamespace(catalog=catalog)


@pytest.fixture
def world(tmp_path):
    """Four renders, an item without a picture, and the words that are true."""
    rng, words, paths = np.random.default_rng(7), [], []
    for item in range(4):
        values = {name: int(rng.integers(len(known))) for name, known in render.ATTRIBUTES.items()}
        render.render(values, rng).save(tmp_path / f"{item}.png")
        paths.append((str(tmp_path / f"{item}.png"),))
        words.append({render.ATTRIBUTES[name][value] for name, value in values.items()})
    return dataset([*paths, ()]), words


def test_tiny_names_what_was_drawn_and_is_built_once(tmp_path, world, monkeypatch):
    data, words = world
    store = images.build_image_store(settings(), data, tmp_path / "store")
    assert all(true <= set(store.tags(item)) for item, true in enumerate(words))
    assert store.has.tolist() == [True] * 4 + [False]
    assert store.meta["encoder"] == "tiny" and store.vocabulary == tiny_clip.VOCABULARY

    monkeypatch.setattr(images.tiny_clip, "load_tiny", lambda: pytest.fail("the store was there already"))
    again = images.build_image_store(settings(), data, tmp_path / "store")
    np.testing.assert_array_equal(again.embedding, store.embedding)


def test_changed_picture_means_a_new_store(tmp_path, world):
    data, _ = world
    first = np.array(images.build_image_store(settings(), data, tmp_path / "store").embedding)
    shutil.copy(tmp_path / "1.png", tmp_path / "0.png")
    second = images.build_image_store(settings(), data, tmp_path / "store").embedding
    np.testing.assert_allclose(second[0], first[1], atol=1e-6)


def test_no_pictures_no_store(tmp_path):
    assert images.build_image_store(settings("none"), dataset([("x.png",)]), tmp_path / "a") is None
    assert images.build_image_store(settings(), dataset([(), ()]), tmp_path / "b") is None
    assert images.build_image_store(settings(), dataset([(str(tmp_path / "gone.png"),)]), tmp_path / "c") is None


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (settings("resnet"), "encoder='resnet' is unknown; known: none, tiny, kfold, clip, open_clip"),
        (settings(vocabulary="dogs"), "vocabulary='dogs' is unknown; known: world, general, movie_genres"),
        (settings("tiny", "general"), "vocabulary 'world' only"),
        (settings("clip", weights="/nowhere"), "/nowhere: no CLIP weights"),
        (settings("clip"), "weights is empty"),
    ],
)
def test_wrong_settings_are_one_line(tmp_path, config, message):
    with pytest.raises(InputError, match=message) as error:
        images.build_image_store(config, dataset([("x.png",)]), tmp_path / "store")
    assert "\n" not in str(error.value)


def test_open_clip_that_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(InputError, match=r"needs the extra: pip install"):
        images.build_image_store(settings("open_clip", "general"), dataset([("x.png",)]), tmp_path / "store")


def test_open_clip(tmp_path, world):
    """Random weights of a small architecture, which open_clip reads from a file."""
    open_clip = pytest.importorskip("open_clip")
    torch = pytest.importorskip("torch")
    name = "ViT-S-32-alt"
    model = open_clip.create_model(name)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    data, _ = world
    config = settings("open_clip", "general", f"{name}:{tmp_path / 'weights.pt'}")
    store = images.build_image_store(config, data, tmp_path / "store")
    _, _, transform = open_clip.create_model_and_transforms(name)
    picture = transform(Image.open(data.catalog.images[0][0]))[None]
    with torch.inference_mode():
        expected = model.eval().encode_image(picture, normalize=True).numpy()
    np.testing.assert_allclose(store.embedding[0], expected[0], atol=1e-5)
    with pytest.raises(InputError, match="expected MODEL:PRETRAINED"):
        images.build_image_store(settings("open_clip", "general", "nothing"), data, tmp_path / "store")


def test_clip_from_a_weights_folder(tmp_path, world, monkeypatch):
    """The tiny CLIP stands in for public weights: folder and tokenizer are replaced, the wiring is not."""
    data, _ = world
    encoder = tiny_clip.load_tiny()
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "model.safetensors").write_bytes(b"any")
    asset = clip_convert.load_own(tiny_clip.ASSET)
    monkeypatch.setattr(images.clip_convert, "load", lambda folder: asset[:2])
    monkeypatch.setattr(images.clip_convert, "tokenizer", lambda folder, shape: encoder.tokenize)
    config = settings("clip", "world", str(tmp_path / "weights"))
    store = images.build_image_store(config, data, tmp_path / "store")
    picture = Image.open(data.catalog.images[2][0])
    np.testing.assert_allclose(store.embedding[2], encoder.images([picture])[0], atol=1e-6)


def test_kfold_is_wired_and_resumes(tmp_path, world, monkeypatch):
    made = []

    def build(catalog, words, config, meta):
        made.append((words, config.seed))
        return stores.assemble(np.eye(5, 18), np.eye(18), words, meta)

    monkeypatch.setattr(images, "kfold", types.SimpleNamespace(build=build, KFoldConfig=kfold.KFoldConfig))
    for _ in range(2):
        store = images.build_image_store(settings("kfold", "movie_genres", seed=3), world[0], tmp_path / "store")
    assert made == [(images.tags.MOVIE_GENRES, 3)]
    assert store.tags(1)[0] == "Adventure"
    json.dumps(store.meta)
