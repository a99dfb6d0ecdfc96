"""MMGCN against its equations in numpy, node by node."""

import dataclasses

import numpy as np
from flax import nnx

from mma_jax.baselines import mmgcn
from mma_jax.baselines.corpus import Corpus, ask
from mma_jax.types import FAMILIES

PAIRS = np.array([[0, 0], [0, 2], [1, 1], [1, 2], [1, 3]], np.int32)  # user 2 and item 4 have none


def small(**changes):
    rng = np.random.default_rng(0)
    has = np.array([True, True, False, True, True])
    table = rng.normal(size=(5, 3)).astype(np.float32) * has[:, None]
    corpus = Corpus(
        n_users=3,
        n_items=5,
        users=PAIRS[:, 0],
        items=PAIRS[:, 1],
        before=np.full(5, -1, np.int32),
        content={"text": table},
        has={"text": has},
        families=tuple(FAMILIES.values()),
    )
    return dataclasses.replace(corpus, **changes)


def model(corpus):
    config = mmgcn.get_config()
    config.dim = 4
    return mmgcn.MMGCN(config, corpus, nnx.Rngs(0))


def leaky(values):
    return np.where(values > 0, values, 0.01 * values)


def length_one(values):
    return values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), 1e-6)


def projected(made, content):
    return length_one(content @ np.asarray(made.kernels["text"][...]))


def reference(made, corpus, shown):
    """(users, items) before, between and after two layers: Eqs. 2, 5, 7 and 8, one node at a time, in one modality."""
    ids = np.asarray(made.users[...]), np.asarray(made.items[...])
    users, items = length_one(np.asarray(made.preferences[...])[0]), projected(made, corpus.content["text"] * shown)
    found = [(users, items)]
    for layer in range(2):
        w1, w2, w3 = (np.asarray(w[...])[layer, 0] for w in (made.w1, made.w2, made.w3))
        after = [], []
        for user in range(corpus.n_users):
            near = items[corpus.items[corpus.users == user]]
            h = leaky((near @ w1).mean(axis=0)) if len(near) else np.zeros(4)
            after[0].append(leaky(h @ w3 + leaky(users[user] @ w2) + ids[0][user]))
        for item in range(corpus.n_items):
            near = users[corpus.users[corpus.items == item]]
            h = leaky((near @ w1).mean(axis=0)) if len(near) else np.zeros(4)
            after[1].append(leaky(h @ w3 + leaky(items[item] @ w2) + ids[1][item]))
        users, items = np.stack(after[0]), np.stack(after[1])
        found.append((users, items))
    return found


def scored(made, corpus, family, users, items, histories=None):
    histories = np.full((len(users), 2), -1, np.int32) if histories is None else histories
    query = ask(corpus, np.asarray(users), histories, np.tile(FAMILIES[family], (len(users), 1)))
    return np.asarray(made.score(made.encode(), query, np.asarray(items, np.int32)))


def test_two_layers_are_the_papers_equations_with_and_without_content():
    corpus = small()
    made = model(corpus)
    for family in ("full", "no_text"):
        users, items = reference(made, corpus, family == "full")[-1]
        found = scored(made, corpus, family, [0, 1], [[0, 1, 2, 3]] * 2)
        np.testing.assert_allclose(found, users[:2] @ items[:4].T, rtol=1e-4, atol=1e-6)


def test_modalities_are_added_up():
    """Twice the same graph is twice the vectors, and so four times the score."""
    one = small()
    twice = dict.fromkeys(("image", "text"), one.content["text"])
    both = small(content=twice, has=dict.fromkeys(twice, one.has["text"]))
    single, double = model(one), model(both)
    for name in ("w1", "w2", "w3"):
        setattr(double, name, nnx.Param(np.repeat(getattr(single, name)[...], 2, axis=1)))
    double.preferences = nnx.Param(np.repeat(single.preferences[...], 2, axis=0))
    double.users, double.items = single.users, single.items
    double.kernels = nnx.Dict(dict.fromkeys(twice, single.kernels["text"]))
    asked = "full", [0, 1], [[0, 1, 2, 3]] * 2
    np.testing.assert_allclose(scored(double, both, *asked), 4 * scored(single, one, *asked), rtol=1e-5)


def test_without_behavior_a_node_is_its_content_alone():
    corpus = small()
    made = model(corpus)
    profile = corpus.content["text"][[0, 1]].mean(axis=0)
    vectors = projected(made, np.stack([profile, *corpus.content["text"]]))
    for layer in range(2):
        vectors = leaky(leaky(vectors @ np.asarray(made.w2[...])[layer, 0]))
    found = scored(made, corpus, "text_only", [0], [[0, 1, 2, 3, 4]], np.array([[0, 1]], np.int32))
    np.testing.assert_allclose(found[0], vectors[1:] @ vectors[0], rtol=1e-4, atol=1e-6)


def test_a_stranger_has_the_history_as_neighbours():
    corpus = small()
    made = model(corpus)
    layers, user = reference(made, corpus, True), projected(made, corpus.content["text"][[1, 3]].mean(axis=0))
    for layer in range(2):
        w1, w2, w3 = (np.asarray(w[...])[layer, 0] for w in (made.w1, made.w2, made.w3))
        near = layers[layer][1][[1, 3]].mean(axis=0)
        user = leaky(leaky(near @ w1) @ w3 + leaky(user @ w2))
    found = scored(made, corpus, "full", [2], [[0, 1, 2, 3]], np.array([[1, 3]], np.int32))
    np.testing.assert_allclose(found[0], layers[2][1][:4] @ user, rtol=1e-4, atol=1e-6)


def test_a_dataset_without_content_has_one_graph_of_zeros():
    bare, made = small(content={}, has={}), model(small(content={}, has={}))
    zeros = small(content={"text": np.zeros((5, 3), np.float32)}, has={"text": np.zeros(5, bool)})
    other = model(zeros)
    for name in ("w1", "w2", "w3", "users", "items", "preferences"):
        setattr(other, name, getattr(made, name))
    asked = "full", [0, 1], [[0, 1, 2, 3]] * 2
    np.testing.assert_allclose(scored(made, bare, *asked), scored(other, zeros, *asked), rtol=1e-6)
    assert np.ptp(scored(made, bare, *asked)) > 0
