import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mma_jax.features import images
from mma_jax.types import InputError

WORDS = ("red", "green", "blue")
AXES = np.eye(3, dtype=np.float32)


def open_image(path):
    """The stand-in for the loader: what is no picture has no image, and a reason."""
    try:
        return Image.open(path).convert("RGB"), ""
    except OSError:
        return None, "not an image"


class Encoder:
    """Mean color, unnormalized; counts the pictures it was given."""

    def __init__(self, fail_at=None):
        self.seen, self.fail_at = 0, fail_at

    def __call__(self, pictures):
        self.seen += len(pictures)
        if self.fail_at is not None and self.seen >= self.fail_at:
            raise KeyboardInterrupt
        return np.stack([np.asarray(picture, np.float32).mean((0, 1)) for picture in pictures])


def paint(path, color):
    Image.new("RGB", (4, 4), color).save(path)
    return str(path)


@pytest.fixture
def paths(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    red, blue = paint(tmp_path / "red.png", (90, 0, 0)), paint(tmp_path / "blue.png", (0, 0, 255))
    broken, gone = str(tmp_path / "broken.png"), str(tmp_path / "gone.png")
    return [(red,), (), (broken,), (red, blue), (gone, blue), (broken, gone)]


def build(paths, directory, encoder=None, meta=None, words=WORDS, axes=AXES):
    return images.build(paths, open_image, encoder or Encoder(), axes, words, directory, meta or {"encoder": "mean"})


def test_items_are_averaged_counted_and_tagged(tmp_path, paths):
    store = build(paths, tmp_path / "store")
    half = np.sqrt(0.5)
    expected = [[1, 0, 0], [0, 0, 0], [0, 0, 0], [half, 0, half], [0, 0, 1], [0, 0, 0]]
    np.testing.assert_allclose(store.embedding, expected, atol=1e-6)  # each picture counts alike, however bright
    assert store.has.tolist() == [True, False, False, True, True, False]
    assert store.meta == {
        "encoder": "mean",
        "unreadable": {"not an image": 4},
        "items": 6,
        "items_with_image": 3,
        "dim": 3,
    }
    assert store.tag_ids[:3].tolist() == [[0, 1, 2, -1, -1], [-1] * 5, [-1] * 5]
    assert store.tags(3) == ["red", "blue", "green"] and store.tags(1) == []
    np.testing.assert_allclose(store.tag_scores[3], [half, half, 0, 0, 0], atol=1e-6)
    assert store.embedding.dtype == store.tag_scores.dtype == np.float32
    assert store.tag_ids.dtype == np.int16 and store.has.dtype == bool


def test_only_the_five_best_tags_are_kept(tmp_path, paths):
    axes = np.array([[np.cos(a), np.sin(a), 0] for a in (1.2, 0.1, 0.5, 0.0, 0.9, 0.3, 1.5)], np.float32)
    store = build(paths, tmp_path / "store", words=tuple("abcdefg"), axes=axes)
    assert store.tags(0) == ["d", "b", "f", "c", "e"]


def test_saved_store_is_loaded_as_it_was(tmp_path, paths):
    made = build(paths, tmp_path / "store")
    loaded = images.ImageStore.load(tmp_path / "store")
    for name in ("embedding", "has", "tag_ids", "tag_scores"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(made, name))
        assert not getattr(loaded, name).flags.writeable
    assert loaded.vocabulary == WORDS and loaded.meta == made.meta
    with pytest.raises(InputError):
        images.ImageStore.load(tmp_path)


def test_interrupted_build_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "_CHUNK", 2)
    paths = [(paint(tmp_path / f"{i}.png", (10 * i + 1, 50, 5)),) for i in range(7)]
    whole = build(paths, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        build(paths, tmp_path / "store", Encoder(fail_at=5))
    assert not (tmp_path / "store").exists()
    encoder = Encoder()
    resumed = build(paths, tmp_path / "store", encoder)
    assert encoder.seen == 3  # two chunks of two were kept
    np.testing.assert_array_equal(resumed.embedding, whole.embedding)
    assert not Path(f"{tmp_path / 'store'}.partial").exists()


def test_partial_work_of_another_encoder_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "_CHUNK", 2)
    paths = [(paint(tmp_path / f"{i}.png", (10 * i + 1, 50, 5)),) for i in range(4)]
    with pytest.raises(KeyboardInterrupt):
        build(paths, tmp_path / "store", Encoder(fail_at=3))
    encoder = Encoder()
    build(paths, tmp_path / "store", encoder, {"encoder": "another"})
    assert encoder.seen == 4


def test_profile_counts_tags_ties_by_vocabulary():
    tags = np.array([[3, 1, 0, -1, -1], [9, 8, 7, 6, 5], [3, 4, 2, -1, -1], [-1] * 5], np.int16)
    store = images.ImageStore(None, None, tags, None, tuple("abcdefghij"), {})
    assert list(store.profile(np.array([0, 2, 2, 3])).items()) == [("d", 3), ("c", 2), ("e", 2), ("a", 1), ("b", 1)]
    assert list(store.profile(np.array([0, 1, 2]))) == ["d", "a", "b", "c", "e", "f", "g", "h"]  # 8 of 10
    assert store.profile(np.array([], np.int32)) == {} == store.profile(np.array([3]))
    json.dumps(store.profile(np.array([0])))


def test_checksum_follows_contents_and_owners_not_places(tmp_path, paths):
    first = images.checksum(paths)
    (tmp_path / "moved").mkdir()
    moved = [tuple(str(Path(path).rename(tmp_path / "moved" / Path(path).name)) for path in paths[0])]
    assert images.checksum(moved) == images.checksum([(paint(tmp_path / "copy.png", (90, 0, 0)),)])
    assert images.checksum(moved) != images.checksum([(), *moved])
    paint(moved[0][0], (91, 0, 0))
    assert images.checksum(moved) != images.checksum([(str(tmp_path / "copy.png"),)])
    assert first == first.lower() and len(first) == 64
