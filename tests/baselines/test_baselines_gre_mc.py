"""GRE-MC: retrieval against brute force and small graphs worked by hand, the codebook against numpy, completion."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import planted
import pytest
import scipy.sparse as sp
from flax import nnx

from mma_jax.baselines import fit, gre_mc, subgraphs
from mma_jax.baselines.views import MASKS
from mma_jax.types import FAMILIES, InputError


def edges_of(count, *pairs):
    matrix = np.zeros((count, count), np.float32)
    for a, b in pairs:
        matrix[a, b] = matrix[b, a] = 1
    return sp.csr_array(matrix)


@pytest.fixture(scope="module")
def corpus():
    return planted.corpus()


@pytest.fixture(scope="module")
def found(corpus):
    return subgraphs.retrieve(gre_mc.get_config(), corpus)


def test_heads_that_do_not_divide_are_refused(corpus):
    config = gre_mc.get_config()
    config.heads = 3
    with pytest.raises(InputError, match=r"gre_mc\.dim=64 cannot be shared by gre_mc\.heads=3"):
        gre_mc.make(config, corpus)


def test_an_item_never_retrieves_itself(found):
    assert not (found == np.arange(planted.ITEMS)[None, :, None]).any()


def test_what_is_retrieved_comes_from_the_training_part_and_helps(corpus, found):
    """Every anchor has what is missing; patterns without need or means retrieve nothing."""
    for number, (text, image, behavior) in enumerate(MASKS):
        rows = found[number]
        if (text and image) or not (text or image or behavior):
            assert (rows == -1).all()
            continue
        assert (rows >= 0).any()
        assert (corpus.degree[rows[rows >= 0]] > 0).all()
        missing = [name for name, there in (("text", text), ("image", image)) if not there]
        anchors = rows[:, 0][rows[:, 0] >= 0]
        assert np.any([corpus.has[name][anchors] for name in missing], axis=0).all()


def test_what_is_retrieved_by_a_modality_does_not_look_at_others(corpus, found):
    """Subgraphs of items seen by text alone, made again with other images: the same, as long as the same have one."""
    other = dataclasses.replace(corpus, content=corpus.content | {"image": corpus.content["image"][:, ::-1]})
    again = subgraphs.retrieve(gre_mc.get_config(), other)
    for pattern in ("100", "101", "001"):
        np.testing.assert_array_equal(found[int(pattern, 2)], again[int(pattern, 2)])
    # And without edges: other interactions of as many items.
    moved = planted.without(corpus, "behavior")
    assert (moved.degree > 0).all() and (corpus.degree > 0).all()
    again = subgraphs.retrieve(gre_mc.get_config(), moved)
    np.testing.assert_array_equal(found[int("100", 2)], again[int("100", 2)])


def test_anchors_are_the_nearest_by_brute_force(corpus, found):
    rows = found[int("100", 2)]
    for item in np.flatnonzero(corpus.has["text"])[:20]:
        allowed = [
            j
            for j in range(planted.ITEMS)
            if j != item and corpus.has["text"][j] and corpus.has["image"][j] and corpus.degree[j]
        ]
        cosine = corpus.content["text"][allowed] @ corpus.content["text"][item]
        np.testing.assert_array_equal(rows[item, :5], np.array(allowed)[np.argsort(-cosine)[:5]])
        assert (rows[item, 5:] == -1).all()


def test_without_content_anchors_are_those_whom_the_same_users_took(corpus):
    found, _ = subgraphs.similar(corpus, [], np.array([3, 7]))
    took = np.zeros((corpus.n_users, corpus.n_items))
    took[corpus.users, corpus.items] = 1
    length = np.maximum(np.linalg.norm(took, axis=0), 1)
    np.testing.assert_allclose(found, (took.T @ took / np.outer(length, length))[[3, 7]], rtol=1e-5)


def test_paths_meet_where_all_anchors_reach_first():
    """A star with arms 0-1-6, 2-3-6, 4-5-6: anchors 0, 2 and 4 meet in 6."""
    arms = edges_of(9, (0, 1), (1, 6), (2, 3), (3, 6), (4, 5), (5, 6), (6, 7))
    relevance = np.zeros(9)
    assert set(subgraphs.connected(arms, [0, 2, 4], relevance, 8, 3)) == {0, 1, 2, 3, 4, 5, 6}
    assert subgraphs.connected(arms, [0, 2, 4], relevance, 8, 1) == []  # too far
    assert subgraphs.connected(arms, [0, 2, 4], relevance, 6, 3) == []  # not through the item itself


def test_of_two_meeting_places_the_more_relevant_is_taken():
    square = edges_of(5, (0, 1), (1, 2), (0, 3), (3, 2))
    assert set(subgraphs.connected(square, [0, 2], np.array([0, 0.1, 0, 0.2, 0]), 4, 3)) == {0, 3, 2}


def test_an_expansion_adds_what_raises_the_mean_and_drops_what_lowers_it():
    line = edges_of(6, (0, 1), (1, 2), (2, 3), (2, 4))
    relevance = np.array([0.5, 0.1, 0.5, 0.9, 0.95, 1.0])
    # 4 and then 3 come in from the border; 1 stays, since it holds 0 and 2 together; 5 has no edge.
    assert subgraphs.expanded(line, {0, 1, 2}, {0, 2}, relevance, 5, 10) == [0, 1, 2, 3, 4]
    assert subgraphs.expanded(line, {0, 1, 2}, {0, 2}, relevance, 4, 10) == [0, 1, 2, 3]  # never the item itself
    assert subgraphs.expanded(line, {0, 1, 2}, {0, 2}, relevance, 5, 1) == [0, 1, 2, 4]
    # A loose end that lowers the mean goes.
    assert subgraphs.expanded(line, {1, 2}, {2}, np.array([0, 0.1, 0.5, 0, 0, 0]), 5, 10) == [2]


@pytest.mark.parametrize("seed", range(4))
def test_an_expansion_keeps_anchors_and_pieces_and_never_lowers_the_mean(seed):
    rng = np.random.default_rng(seed)
    pairs = [pair for pair in itertools.combinations(range(14), 2) if rng.random() < 0.2]
    edges, relevance = edges_of(14, *pairs), rng.random(14)
    anchors = {1, 2, 3}
    before = {*anchors, *subgraphs.connected(edges, [1, 2, 3], relevance, 0, 3)}
    after = set(subgraphs.expanded(edges, before, anchors, relevance, 0, 10))
    assert anchors <= after and 0 not in after
    assert np.mean(relevance[list(after)]) >= np.mean(relevance[list(before)])
    assert subgraphs.whole(edges, before, after)


def test_eigenvectors_are_those_of_the_laplacian(corpus):
    edges = subgraphs.shared(corpus)
    dense = edges.toarray()
    took = np.zeros((corpus.n_users, corpus.n_items))
    took[corpus.users, corpus.items] = 1
    both = took.T @ took > 0
    np.fill_diagonal(both, False)
    np.testing.assert_array_equal(dense, both)
    vectors = subgraphs.eigenvectors(edges, 6).astype(float)
    degree = dense.sum(axis=1)
    laplacian = np.eye(len(dense)) - dense / np.sqrt(np.outer(degree, degree))
    values = (vectors * (laplacian @ vectors)).sum(axis=0) / (vectors**2).sum(axis=0)
    np.testing.assert_allclose(laplacian @ vectors, vectors * values, atol=1e-4)
    np.testing.assert_allclose(values, np.sort(np.linalg.eigvalsh(laplacian))[1:7], atol=1e-5)


def test_codes_beyond_the_largest_are_not_used():
    module = gre_mc.Completion(gre_mc.get_config(), (("text", 5),), nnx.Rngs(0))
    routed = module.routed(jnp.asarray(np.random.default_rng(0).normal(size=(6, 64)), jnp.float32), None)
    weights, kept = np.asarray(routed.weights), np.asarray(routed.kept)
    for row, own in zip(weights, kept, strict=True):
        best = np.argsort(-row)[:4]
        wanted = np.zeros_like(row)
        wanted[best] = row[best] / row[best].sum()
        np.testing.assert_allclose(own, wanted, rtol=1e-5)


def test_codebook_losses():
    weights = np.random.default_rng(0).dirichlet(np.ones(5), size=8)
    shares = weights.mean(axis=0)
    np.testing.assert_allclose(gre_mc.usage(jnp.asarray(weights)), (shares * np.log(shares * 5)).sum(), rtol=1e-4)
    np.testing.assert_allclose(gre_mc.load(jnp.asarray(weights)), 5 * (shares**2).sum(), rtol=1e-5)
    even = jnp.eye(5)
    np.testing.assert_allclose([gre_mc.usage(even), gre_mc.load(even)], [0, 1], atol=1e-6)


def test_what_is_not_there_is_not_attended_to():
    module = gre_mc.Completion(gre_mc.get_config(), (("text", 5),), nnx.Rngs(0))
    rng = np.random.default_rng(0)
    own, context = (
        jnp.asarray(rng.normal(size=(3, 64)), jnp.float32),
        jnp.asarray(rng.normal(size=(3, 4, 64)), jnp.float32),
    )
    there = jnp.array([[True, True, False, False]] * 3)
    other = jnp.where(there[..., None], context, 9.0)
    np.testing.assert_allclose(module(own, context, there, None)[0], module(own, other, there, None)[0], rtol=1e-5)


def test_completion_comes_nearer_to_hidden_text_than_the_mean(corpus, tmp_path):
    config = gre_mc.get_config()
    config.batch, config.lr, config.epochs = 128, 5e-3, 30
    made = gre_mc.make(config, corpus)
    scorer, _ = fit.fit(made, config, 0, tmp_path, None, "GRE-MC")
    model = nnx.merge(*scorer._model)
    rows = np.flatnonzero(corpus.has["text"] & corpus.has["image"])
    seen = gre_mc.look(model.catalog.get_value(), rows[:, None], np.tile(FAMILIES["image_only"], (len(rows), 1)))
    seen = jax.tree.map(lambda x: x[:, 0], seen)
    text = corpus.content["text"][rows]
    completed = model.completed(seen, rows, model.complete.embed(model.bank.get_value().features), None)[0]
    error = np.square(np.asarray(completed)[:, : text.shape[1]] - text).sum(axis=1).mean()
    assert error < 0.8 * np.square(text - text.mean(axis=0)).sum(axis=1).mean()


@pytest.mark.parametrize("left", [(), ("text",), ("image",)])
def test_any_content_will_do(left, tmp_path, corpus):
    corpus = dataclasses.replace(
        corpus, content={name: corpus.content[name] for name in left}, has={name: corpus.has[name] for name in left}
    )
    config = gre_mc.get_config()
    config.batch, config.epochs = 256, 2
    scorer, _ = fit.fit(gre_mc.make(config, corpus), config, 0, tmp_path, None, "GRE-MC")
    for mask in FAMILIES.values():
        assert np.isfinite(scorer(*planted.questions(corpus, mask, range(4)))).all()
