import dataclasses
import json
import os

import numpy as np
import pytest
from PIL import Image

from mma_jax.data import generated, render
from mma_jax.data.world import DEFAULT, PRESETS, Attribute, World, expected_ndcg, recovered_bits
from mma_jax.types import FAMILIES, InputError

SMALL = dataclasses.replace(DEFAULT, n_items=24, n_users=50, history=(4, 9))


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """A whole catalog without its images."""
    config = dataclasses.replace(DEFAULT, images=False, noise=(0.05, 0.0, 0.05))
    return config, World(config), generated.load(str(tmp_path_factory.mktemp("world")), "whole", config)


def same(a, b):
    return (
        a.catalog.title == b.catalog.title
        and a.catalog.categories == b.catalog.categories
        and a.catalog.description == b.catalog.description
        and np.array_equal(a.copurchases, b.copurchases)
        and all(
            np.array_equal(getattr(a.interactions, f), getattr(b.interactions, f)) for f in ("user", "item", "time")
        )
    )


def image_bytes(dataset):
    return [open(path, "rb").read() for (path,) in dataset.catalog.images]


def test_regenerated_identically_and_nothing_redone(tmp_path):
    first = generated.load(str(tmp_path), "a", SMALL)
    elsewhere = generated.load(str(tmp_path), "b", SMALL)
    assert same(first, elsewhere) and image_bytes(first) == image_bytes(elsewhere)
    assert json.loads((tmp_path / "a" / "world.json").read_text())["config"]["n_items"] == 24

    whole, written = image_bytes(first), [os.stat(path).st_mtime_ns for (path,) in first.catalog.images]
    lost = first.catalog.images[5][0]
    os.remove(lost)
    again = generated.load(str(tmp_path), "a", SMALL)
    assert image_bytes(again) == whole
    redone = [path for (path,), t in zip(again.catalog.images, written, strict=True) if os.stat(path).st_mtime_ns != t]
    assert redone == [lost]
    assert sorted(os.listdir(tmp_path / "a")) == ["images", "world.json"]
    assert len(os.listdir(tmp_path / "a" / "images")) == 24
    assert not same(first, generated.load(str(tmp_path), "c", dataclasses.replace(SMALL, seed=1)))


def test_another_world_or_an_unwritable_folder_is_refused(tmp_path):
    generated.load(str(tmp_path), "a", SMALL)
    with pytest.raises(InputError, match="describes another generated world"):
        generated.load(str(tmp_path), "a", dataclasses.replace(SMALL, seed=1))
    (tmp_path / "foreign" / "images").mkdir(parents=True)
    with pytest.raises(InputError, match=r"no world\.json"):
        generated.load(str(tmp_path), "foreign", SMALL)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        generated.load(str(tmp_path / "file"), "a", SMALL)


def test_images_show_the_image_attributes_and_others_at_random(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(
        render, "render", lambda values, rng: asked.append((dict(values), rng.random())) or Image.new("RGB", (4, 4))
    )
    dataset = generated.load(str(tmp_path), "a", SMALL)
    asked = asked[-SMALL.n_items :]
    shown = World(SMALL).shown["image"]
    assert [list(values.values()) for values, _ in asked] == shown.tolist()
    assert all(list(values) == ["color", "shape"] for values, _ in asked)
    assert len({draw for _, draw in asked}) == SMALL.n_items  # every image has a generator of its own
    assert dataset.catalog.images[3] == (str(tmp_path / "a" / "images" / "i3.png"),)


def test_image_attributes_find_their_place():
    def drawn(*attributes):
        return generated.drawn_as(dataclasses.replace(SMALL, attributes=attributes))

    assert drawn(Attribute("mood", 1, ("image",)), Attribute("hue", 1, ("image",), 8)) == {
        "mood": "color",
        "hue": "shape",
    }
    assert drawn(Attribute("pattern", 1, ("image",)))["pattern"] == "pattern"
    with pytest.raises(InputError, match="no room for 'b'"):
        drawn(Attribute("a", 1, ("text", "image")), Attribute("b", 1, ("image",), 9))


def test_no_word_means_two_things():
    words = [word for values in generated.LEXICON.values() for line in values for word in line.split()]
    words += [*generated.PRODUCTS, *generated.DEPARTMENTS, *generated.FILLERS]
    words += [word for names in render.ATTRIBUTES.values() for word in names]
    assert len(set(words)) == len(words)
    assert all(word.isalpha() and word.islower() for word in words)
    assert {len(line.split()) for values in generated.LEXICON.values() for line in values} == {6}
    assert {len(values) for values in generated.LEXICON.values()} == {8}


def test_text_says_what_it_shows_the_lightest_loudest(loaded):
    config, world, dataset = loaded
    read = generated.read_words(config, dataset.catalog)
    assert list(read) == ["style", "audience", "theme"]
    names = [config.attributes[column].name for column in config.shown_by("text")]
    for name, values in read.items():
        shown = world.shown["text"][:, names.index(name)]
        assert np.array_equal(values, shown)
        bits = world.bits()["text"][name]
        column = [attribute.name for attribute in config.attributes].index(name)
        assert recovered_bits(world.latents[:, column], values) == pytest.approx(bits, abs=0.1)
    words = generated.synonyms(config)
    for item in (0, 100, 599):
        style, audience, theme = (set(words[name][read[name][item]]) for name in read)
        title = dataset.catalog.title[item].lower().split()
        assert len(set(title) & style) == config.loudness and len(title) == config.loudness + 1
        assert len(theme & set(dataset.catalog.categories[item].lower().replace(",", "").split())) == 1
        assert len(audience & set(dataset.catalog.description[item].lower().split())) == 1
    used = {word for text in dataset.catalog.categories for word in text.lower().replace(",", "").split()}
    assert used == set(generated.DEPARTMENTS) | {word for value in words["theme"] for word in value}


def test_more_fillers_than_there_are_words_are_refused(tmp_path):
    with pytest.raises(InputError, match="48 filler words, so fillers=60 is too many"):
        generated.load(str(tmp_path), "w", dataclasses.replace(SMALL, fillers=60))


def test_text_without_words_is_refused():
    def words(attribute, **knobs):
        return generated.synonyms(dataclasses.replace(SMALL, attributes=(attribute,), **knobs))

    with pytest.raises(InputError, match="no words for 'taste'"):
        words(Attribute("taste", 1.0, ("text",)))
    with pytest.raises(InputError, match="8 values"):
        words(Attribute("theme", 1.0, ("text",), 9))
    with pytest.raises(InputError, match="loudness"):
        words(Attribute("theme", 1.0, ("text",)), synonyms=2)


def test_copurchases_reveal_what_behavior_shows_and_nothing_else(loaded):
    config, world, dataset = loaded
    first, second = dataset.copurchases.T
    assert len(first) == config.copurchases * config.n_items
    assert np.all(first < second) and len(set(zip(first.tolist(), second.tolist(), strict=True))) == len(first)
    graph = np.zeros((config.n_items, config.n_items))
    graph[first, second] = graph[second, first] = 1
    popularity = [graph.sum(1)[world.popularity == tier].mean() for tier in np.unique(world.popularity)]
    assert np.all(np.diff(popularity) > 2)
    shown = world.shown["behavior"]
    for place, column in enumerate(config.shown_by("behavior")):
        majority = (graph @ np.eye(4)[shown[:, place]]).argmax(1)  # of an item's neighbors
        name = config.attributes[column].name
        assert (majority == shown[:, place]).mean() > 0.97
        assert recovered_bits(world.latents[:, column], majority) == pytest.approx(
            world.bits()["behavior"][name], abs=0.12
        )
    for column in set(range(6)) - set(config.shown_by("behavior")):
        same_value = (world.latents[first, column] == world.latents[second, column]).mean()
        assert same_value == pytest.approx(149 / 599, abs=4 * np.sqrt(0.25 * 0.75 / len(first)))


def test_log_is_ordered_in_time_and_most_users_have_all_parts(loaded):
    config, world, dataset = loaded
    log = dataset.interactions
    preferences = generated.draw_interactions(world)[1]
    assert preferences.shape == (config.n_users, 6)
    assert np.all(np.diff(log.time) >= 0) and log.order == "timestamp" and np.isnan(log.rating).all()
    assert log.time.min() >= 1672531200 and log.time.max() <= 1672531200 + 366 * 86400
    counts = np.bincount(log.user, minlength=config.n_users)
    assert counts.min() == 10 and counts.max() == 30
    by_user = np.lexsort((log.time, log.user))
    same_user = np.diff(log.user[by_user]) == 0
    assert np.all(np.diff(log.time[by_user])[same_user] > 0)
    assert len(np.unique(log.user.astype(np.int64) * config.n_items + log.item)) == len(log)
    late = log.time > np.quantile(log.time, 0.9)
    assert len(np.unique(log.user[late])) > 0.8 * config.n_users


def test_users_choose_what_they_prefer(loaded):
    """The share of first choices that agree with the preference, against the exact probability."""
    config, world, _ = loaded
    log, preferences = generated.draw_interactions(world)
    _, rows = np.unique(log.user, return_index=True)  # the earliest interaction of each user
    probability = np.exp(world.log_choice(preferences))
    for column in range(6):
        agree = preferences[:, column, None] == world.latents[None, :, column]
        expected = (probability * agree).sum(1)
        observed = agree[np.arange(config.n_users), log.item[rows]]
        assert abs(observed.mean() - expected.mean()) < 4 * np.sqrt((expected * (1 - expected)).sum()) / config.n_users


def test_permuted_users_give_chance():
    config = PRESETS["permuted"]
    world = World(config)
    log, _ = generated.draw_interactions(world)
    assert len(np.unique(log.user.astype(np.int64) * config.n_items + log.item)) == len(log)
    rng, order = np.random.default_rng(0), np.argsort(log.user, kind="stable")
    items = np.split(log.item[order], np.cumsum(np.bincount(log.user))[:-1])
    negatives = [rng.choice(np.setdiff1d(np.arange(config.n_items), chosen), 19, replace=False) for chosen in items]
    pools = np.array([[chosen[-1], *others] for chosen, others in zip(items, negatives, strict=True)])
    scores = world.predictive(pools, [chosen[:-1] for chosen in items], FAMILIES["no_text"])
    rank = (scores[:, 1:] > scores[:, :1]).sum(1)
    ndcg = np.where(rank < 10, 1 / np.log2(rank + 2), 0)
    chance = expected_ndcg(np.full(20, 0.05))
    assert abs(ndcg.mean() - chance) < 3 * ndcg.std() / np.sqrt(len(ndcg))


def test_more_users_leave_the_catalog_as_it_was(tmp_path):
    config = dataclasses.replace(SMALL, images=False)
    few = generated.load(str(tmp_path), "few", config)
    many = generated.load(str(tmp_path), "many", dataclasses.replace(config, n_users=70))
    assert few.catalog.title == many.catalog.title and np.array_equal(few.copurchases, many.copurchases)
    assert few.catalog.images == ((),) * 24 and not os.listdir(tmp_path / "few" / "images")


def test_world_config_from_plain_values():
    assert generated.world_config({}) == DEFAULT
    assert generated.world_config({"permuted": True, "seed": 3}) == dataclasses.replace(DEFAULT, permuted=True, seed=3)
    described = json.loads(json.dumps(dataclasses.asdict(SMALL)))
    assert generated.world_config(described) == SMALL
    with pytest.raises(InputError, match="unknown knob 'n_item'"):
        generated.world_config({"n_item": 3})
    with pytest.raises(InputError, match="an attribute has name"):
        generated.world_config({"attributes": [{"name": "theme"}]})
