import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from flax import nnx
from PIL import Image

from mma_jax.models import clip
from mma_jax.runs import kfold
from mma_jax.types import Catalog, InputError

WORDS = ("Action", "Sci-Fi", "Western")
QUICK = kfold.KFoldConfig(folds=2, steps=15, batch_size=32, patch_size=16, layers=1)
RNG = np.random.default_rng(0)


def catalog(folder, count=60):
    """Posters whose color gives the genre away; item 0 has no file, item 1 two, item 2 a broken one."""
    genre = np.arange(count) % 2
    images = []
    for item in range(count):
        color = [(200, 30, 30), (30, 30, 200)][genre[item]]
        pixels = np.clip(RNG.normal(color, 30, (48, 32, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{item}.png")
        images.append((str(folder / f"{item}.png"),))
    images[0] = ()
    images[1] = (images[1][0], images[3][0])
    (folder / "2.png").write_bytes(b"broken")
    blank = ("",) * count
    categories = tuple(("Action, Drama", "SciFi")[g] for g in genre)
    return Catalog(tuple(map(str, range(count))), blank, categories, blank, blank, tuple(images))


def test_planted_genres_are_found_out_of_fold(tmp_path):
    store = kfold.build(catalog(tmp_path), WORDS, QUICK, {"encoder": "kfold"})
    assert store.vocabulary == ("Action", "Sci-Fi")  # no item is a Western
    assert store.embedding.shape == (60, 2) and store.has.sum() == 58
    np.testing.assert_allclose(np.linalg.norm(store.embedding[store.has], axis=1), 1, rtol=1e-5)
    evaluation = store.meta["evaluation"]
    assert evaluation["top1"] > 0.95 and evaluation["auc"] > 0.95 and evaluation["prior_top1"] < 0.6
    assert store.meta["unreadable"] == {"not an image": 1} and store.meta["encoder"] == "kfold"


def test_no_tower_sees_what_it_encodes(tmp_path, monkeypatch):
    trained, encoded = [], []

    def train(start, shape, config, pictures, texts, truth, held):
        trained.append({picture.tobytes() for picture in pictures})
        return start

    class Encoder:
        def __init__(self, *_):
            pass

        def pixels(self, pictures):
            encoded.append({picture.tobytes() for picture in pictures})
            return np.ones((len(pictures), 2), np.float32)

    monkeypatch.setattr(kfold, "_train", train)
    monkeypatch.setattr(kfold.clip, "Encoder", Encoder)
    kfold.build(catalog(tmp_path), WORDS, dataclasses.replace(QUICK, folds=3), {})
    assert len(trained) == len(encoded) == 3
    for seen, held in zip(trained, encoded, strict=True):
        assert held and not seen & held
        assert len(seen | held) == 58  # 59 files, of which items 1 and 3 share one


def test_copies_and_pictures_of_one_item_share_a_fold():
    pictures = RNG.integers(0, 256, (40, 4, 4, 3), np.uint8)
    owner = np.arange(40)
    owner[10] = 11  # one item, two pictures
    pictures[[20, 30]] = pictures[11]  # copies under other items
    for seed in range(5):
        fold = kfold.assign_folds(pictures, owner, 5, np.random.default_rng(seed))
        assert len({fold[10], fold[11], fold[20], fold[30]}) == 1
        assert np.bincount(fold).min() >= 7
    with pytest.raises(InputError, match="2 different pictures are too few for 3 folds"):
        kfold.assign_folds(pictures[:2], owner[:2], 3, np.random.default_rng(0))


def test_locked_words_are_the_axes():
    shape, texts = kfold._shape(tuple("abcdefgh"), QUICK)
    model = kfold.lock_text(clip.Clip(shape, nnx.Rngs(0)), texts)
    np.testing.assert_allclose(model.encode_text(texts), np.eye(8), atol=1e-4)


def test_categories_compare_letters():
    items = SimpleNamespace(categories=("SciFi, War", "Beauty > Hair Care", "", "Film-Noir|Sci Fi"))
    found = kfold.categories(items, ("Sci-Fi", "Film-Noir", "haircare", "War"))
    assert found.tolist() == [[1, 0, 0, 1], [0, 0, 1, 0], [0, 0, 0, 0], [1, 1, 0, 0]]


def test_evaluation_by_hand():
    truth = np.array([[1, 0, 1], [0, 1, 0], [1, 0, 0], [0, 0, 0], [1, 1, 1]], bool)
    scores = np.array([[0.9, 0.5, 0.1], [0.8, 0.7, 0.1], [0.3, 0.2, 0.1], [9, 9, 9], [9, 9, 9]], float)
    found = kfold.evaluate(scores, truth, np.array([0, 1, 1, 0, -1]))
    assert found["items"] == 3  # item 3 has no category, item 4 no picture
    assert found["top1"] == pytest.approx(2 / 3, abs=1e-4)
    assert found["map"] == pytest.approx(((1 + 2 / 3) / 2 + 1 / 2 + 1) / 3, abs=1e-4)
    # Prior of items 1 and 2 from fold 0 (words 0 and 2 as frequent), of item 0 from fold 1 (words 0 and 1).
    assert found["prior_top1"] == pytest.approx(2 / 3, abs=1e-4)
    assert found["prior_map"] == pytest.approx(((1 + 2 / 3) / 2 + 1 / 3 + 1) / 3, abs=1e-4)
    assert found["auc"] == pytest.approx((1 / 2 + 1 + 1 / 2) / 3, abs=1e-4)


def test_pictures_none_of_which_can_be_read_are_refused(tmp_path):
    given = catalog(tmp_path)
    for path in tmp_path.iterdir():
        path.write_bytes(b"broken")
    with pytest.raises(InputError, match="no picture can be read"):
        kfold.build(given, WORDS, QUICK, {})


def test_categories_that_are_no_words_are_refused(tmp_path):
    with pytest.raises(InputError, match="no category of the catalog"):
        kfold.build(catalog(tmp_path), ("Musical",), QUICK, {})
