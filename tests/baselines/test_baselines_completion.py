"""Fills against brute force; what an item hides is not in what stands in for it."""

import dataclasses

import numpy as np
import planted
import pytest
from flax import nnx
from scipy import sparse

from mma_jax.baselines import completion
from mma_jax.baselines.corpus import ask
from mma_jax.baselines.fills import KINDS, fills, near_by_behavior, near_by_content, walks
from mma_jax.types import FAMILIES, MODALITIES

every = pytest.mark.parametrize("kind", KINDS)


def filled(corpus, kind, neighbors=5, steps=3):
    return fills(corpus, kind, neighbors, steps)


def cold(corpus):
    """The corpus with ten items that nobody has taken in training."""
    keep = corpus.items >= 10
    return dataclasses.replace(corpus, users=corpus.users[keep], items=corpus.items[keep], before=corpus.before[keep])


def test_neighbours_are_the_most_shared_and_the_most_alike():
    corpus = cold(planted.corpus())
    taken = np.zeros((corpus.n_users, corpus.n_items))
    taken[corpus.users, corpus.items] = 1
    shared, cosine = taken.T @ taken, corpus.content["text"] @ corpus.content["text"].T
    known = corpus.degree > 0
    by_behavior = near_by_behavior(corpus, 5).toarray()
    by_content = near_by_content(corpus, "text", 5).toarray()
    for item in range(corpus.n_items):
        others = known & (np.arange(corpus.n_items) != item)
        near = np.flatnonzero(by_behavior[item])
        assert len(near) == (5 if known[item] else 0)
        order = sorted(np.flatnonzero(others), key=lambda j: (-shared[item, j], corpus.degree[j]))
        if known[item]:
            keys = [(shared[item, j], corpus.degree[j]) for j in order[:5]]
            assert sorted((shared[item, j], corpus.degree[j]) for j in near) == sorted(keys)
        near = np.flatnonzero(by_content[item])
        order = np.argsort(np.where(others & corpus.has["text"], -cosine[item], 9.0))
        assert set(near) == (set(order[:5]) if corpus.has["text"][item] else set())


def test_the_mean_of_neighbours_by_hand():
    corpus = planted.corpus()
    for target, source in (("text", "image"), ("image", "text"), ("text", "behavior")):
        table = np.asarray(filled(corpus, "neighbor_mean")[target].tables[source])
        near = near_by_behavior(corpus, 5) if source == "behavior" else near_by_content(corpus, source, 5)
        for item in range(corpus.n_items):
            own = [j for j in near[[item]].indices if corpus.has[target][j]]
            wanted = corpus.content[target][own].mean(axis=0) if own else np.zeros(table.shape[1])
            np.testing.assert_allclose(table[item], wanted, atol=1e-6)


def test_many_steps_are_what_propagation_converges_to_with_the_own_vector_unknown():
    """Rossi et al.'s iteration, item by item: X <- A X, the known put back, the item itself among the unknown."""
    rng = np.random.default_rng(0)
    graph = (rng.random((12, 12)) < 0.4) & ~np.eye(12, dtype=bool)
    known, values = rng.random(12) < 0.5, rng.normal(size=(12, 3))
    steps = graph / np.maximum(graph.sum(axis=1, keepdims=True), 1)
    found = walks(sparse.csr_array(graph.astype(float)), known, 300) @ values
    for item in range(12):
        given = known & (np.arange(12) != item)
        moving = np.where(given[:, None], values, 0)
        for _ in range(1000):
            moving = np.where(given[:, None], values, steps @ moving)
        np.testing.assert_allclose(found[item], moving[item], atol=1e-8)


def test_few_steps_are_the_walks_that_end_in_time():
    """0 -> 1 -> 2 -> 3, and 1 -> 0; 0 and 3 are known: from 0 one step is nowhere, three are at 3, never back at 0."""
    graph = np.zeros((4, 4))
    graph[[0, 1, 1, 2], [1, 2, 0, 3]] = 1
    known = np.array([True, False, False, True])
    for steps, wanted in ((1, [0, 0, 0, 0]), (2, [0, 0, 0, 0]), (3, [0, 0, 0, 1])):
        np.testing.assert_allclose(walks(sparse.csr_array(graph), known, steps).toarray()[0], wanted)


@every
@pytest.mark.parametrize("target", ["text", "image"])
def test_an_item_is_not_in_its_own_fill(kind, target):
    """Another vector of its own changes no bit of it; of somebody's else it does. The mean changes for all alike."""
    corpus, item = planted.corpus(), 30
    assert corpus.has[target][item]
    other = corpus.content[target].copy()
    other[item] = -other[item][::-1]
    before = filled(corpus, kind)[target]
    after = filled(dataclasses.replace(corpus, content=corpus.content | {target: other}), kind)[target]
    for source in before.tables:
        np.testing.assert_array_equal(before.tables[source][item], after.tables[source][item])
        assert (np.asarray(before.tables[source]) != np.asarray(after.tables[source])).any()
    assert (kind == "zeros") == (not np.asarray(before.mean).any())


@every
def test_only_training_items_fill(kind):
    corpus = cold(planted.corpus())
    other = {name: np.concatenate([-table[:10][::-1], table[10:]]) for name, table in corpus.content.items()}
    before = filled(corpus, kind)
    after = filled(dataclasses.replace(corpus, content=other), kind)
    for name, fill in before.items():
        np.testing.assert_array_equal(fill.mean, after[name].mean)
        for source, table in fill.tables.items():  # cold items ask by another vector; nobody else sees a difference
            np.testing.assert_array_equal(table[10:], after[name].tables[source][10:])


def vectors(kind, family, corpus):
    """What a fresh model takes for (user 0, items 0 .. 99): text before any projection, by scores with unit vectors."""
    config = completion.get_config()
    config.neighbors, config.dim = 5, 12
    made = completion.Completion(config, kind, corpus, nnx.Rngs(0))
    made.kernels["text"] = nnx.Param(np.eye(12, dtype=np.float32))
    made.kernels["image"] = nnx.Param(np.zeros((8, 12), np.float32))
    made.items = nnx.Param(np.zeros((corpus.n_items, 12), np.float32))
    made.users = nnx.Param(np.zeros((corpus.n_users, 12), np.float32))
    history = planted.liked()[:1, :8]
    query = ask(corpus, np.array([0]), history, np.array([FAMILIES[family]]))
    items = np.arange(corpus.n_items, dtype=np.int32)[None]
    tables = made.encode()
    profile = np.asarray(made._profile(tables.fills["text"], "text", query))[0]
    shown = completion.look(tables.catalog, items, query.mask)
    return profile, np.asarray(completion.complete(tables.fills["text"], shown, "text", items))[0], history[0]


@every
def test_what_fills_what(kind):
    corpus = planted.corpus()
    fill, own, has = filled(corpus, kind)["text"], corpus.content["text"], corpus.has["text"]

    def wanted(source):
        if source not in fill.tables:
            return np.broadcast_to(fill.mean, own.shape)
        return np.where(np.asarray(fill.found[source])[:, None], fill.tables[source], fill.mean)

    by_behavior, by_image = wanted("behavior"), np.where(corpus.has["image"][:, None], wanted("image"), fill.mean)
    for family, missing in (("full", by_behavior), ("text_only", wanted(""))):
        profile, items, history = vectors(kind, family, corpus)
        np.testing.assert_allclose(items, np.where(has[:, None], own, missing), atol=1e-6)
        np.testing.assert_allclose(profile, own[history[has[history]]].mean(axis=0), atol=1e-6)
    for family, missing in (("no_text", by_behavior), ("behavior_only", by_behavior), ("image_only", by_image)):
        profile, items, history = vectors(kind, family, corpus)
        np.testing.assert_allclose(items, missing, atol=1e-6)
        filling = missing[history].mean(axis=0) if family != "image_only" else np.asarray(fill.mean)
        np.testing.assert_allclose(profile, filling, atol=1e-6)


def test_an_unknown_fill_is_refused():
    with pytest.raises(ValueError, match="neighbor_mean"):
        filled(planted.corpus(), "median")


@every
@pytest.mark.parametrize("there", [(), ("text",), ("image",)])
def test_a_dataset_may_lack_text_images_or_both(kind, there):
    whole = planted.corpus()
    parts = {name: {m: getattr(whole, name)[m] for m in there} for name in ("content", "has")}
    corpus = dataclasses.replace(whole, **parts)
    made = completion.Completion(completion.get_config(), kind, corpus, nnx.Rngs(0))
    for mask in FAMILIES.values():
        query, items = planted.questions(corpus, mask, range(3))
        scores = np.asarray(made.score(made.encode(), query, items))
        shown = any(mask[MODALITIES.index(m)] for m in ("behavior", *there))
        assert np.isfinite(scores).all() and (np.ptp(scores, axis=1) > 0).all() == shown
