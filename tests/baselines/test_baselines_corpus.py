"""What masks hide, in the one place that hides it, and how training rows look back."""

import dataclasses

import numpy as np
import planted
import pytest

from mma_jax.baselines.batches import choices, not_taken, shuffled
from mma_jax.baselines.corpus import ask, catalog, embed, look, padded
from mma_jax.types import FAMILIES, MODALITIES


@pytest.fixture(scope="module")
def corpus():
    return planted.corpus()


@pytest.mark.parametrize("length", [1, 3, 20])
@pytest.mark.parametrize("ordered", [True, False])
def test_histories_are_what_came_before(corpus, length, ordered):
    if not ordered:
        corpus = dataclasses.replace(corpus, before=np.full_like(corpus.before, -1))
    rows = np.random.default_rng(0).permutation(len(corpus.users))[:50]
    found = corpus.histories(rows, length)
    for row, history in zip(rows, found, strict=True):
        own = corpus.items[corpus.users == corpus.users[row]]
        place = int(np.flatnonzero(own == corpus.items[row])[0])
        earlier = own[:place] if ordered else own
        expected = [item if item != corpus.items[row] else -1 for item in earlier[-length:]]
        assert history.tolist() == [-1] * (length - len(expected)) + expected


@pytest.mark.parametrize("family", FAMILIES)
def test_a_query_shows_what_its_mask_leaves(corpus, family):
    mask = FAMILIES[family]
    histories = padded([planted.liked()[user, :5] for user in range(4)], 8)
    query = ask(corpus, np.arange(4), histories, np.tile(mask, (4, 1)))
    assert (query.user == (np.arange(4) if mask[2] else -1)).all()
    assert (query.history == (histories if mask[2] else -1)).all()
    for name in ("text", "image"):
        for user in range(4):
            rows = [corpus.content[name][i] for i in planted.liked()[user, :5] if corpus.has[name][i]]
            mean = np.mean(rows, axis=0) if mask[MODALITIES.index(name)] else 0 * rows[0]
            np.testing.assert_allclose(query.profile[name][user], mean, rtol=1e-5, atol=1e-6)


def test_a_user_without_training_interactions_has_no_row(corpus):
    last = np.array([corpus.n_users - 1])
    query = ask(corpus, last, padded([np.array([3, 4])], 3), np.ones((1, 3), bool))
    assert query.user.tolist() == [-1]
    assert query.history.tolist() == [[-1, 3, 4]]


def test_a_user_without_a_history_has_an_empty_profile(corpus):
    query = ask(corpus, np.array([0]), padded([np.array([], np.int32)], 3), np.ones((1, 3), bool))
    assert all((rows == 0).all() for rows in query.profile.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_candidates_show_what_the_mask_leaves(corpus, family):
    mask, items = FAMILIES[family], np.arange(30, dtype=np.int32).reshape(2, 15)
    seen = look(catalog(corpus), items, np.tile(mask, (2, 1)))
    known = np.bincount(corpus.items, minlength=corpus.n_items) > 0
    np.testing.assert_array_equal(seen.row, np.where(known[items] & mask[2], items, -1))
    for name in ("text", "image"):
        has = corpus.has[name][items] & mask[MODALITIES.index(name)]
        np.testing.assert_array_equal(seen.has[name], has)
        np.testing.assert_array_equal(seen.content[name], np.where(has[..., None], corpus.content[name][items], 0))


def test_no_row_has_no_vector():
    np.testing.assert_array_equal(embed(np.ones((3, 2)), np.array([2, -1])), [[1, 1], [0, 0]])


def test_an_epoch_has_every_interaction(corpus):
    batches = list(choices(corpus, np.random.default_rng(0), 128, negatives=3, history=4, families=corpus.families))
    pairs = [
        (user, item)
        for batch in batches
        for user, item, mask in zip(batch.query.user, batch.items[:, 0], batch.query.mask, strict=True)
        if mask[2]
    ]
    assert {batch.items.shape for batch in batches} == {(128, 4)}
    assert len(batches) == -(-len(corpus.users) // 128)
    assert set(pairs) <= set(zip(corpus.users.tolist(), corpus.items.tolist(), strict=True))
    masks = np.concatenate([batch.query.mask for batch in batches])
    share = [(masks == family).all(axis=1).mean() for family in corpus.families]
    np.testing.assert_allclose(share, 1 / 7, atol=0.04)


def test_shuffled_rows_are_all_there():
    batches = list(shuffled(10, np.random.default_rng(0), 4))
    assert [len(batch) for batch in batches] == [4, 4, 4]
    assert sorted(np.concatenate(batches)[:10].tolist()) == list(range(10))


def test_negatives_were_not_taken(corpus):
    users = np.repeat(np.arange(planted.USERS), 20)
    found = not_taken(corpus, np.random.default_rng(0), users, 5)
    taken = {(user, item) for user, item in zip(corpus.users.tolist(), corpus.items.tolist(), strict=True)}
    assert not any(
        (user, item) in taken for user, row in zip(users.tolist(), found.tolist(), strict=True) for item in row
    )
    # uniform over the others: a kind's share is what it has left
    counts = np.bincount(found[users % planted.KINDS == 0].ravel() // planted.EACH, minlength=planted.KINDS)
    left = np.array([planted.EACH - planted.HISTORY, *[planted.EACH] * (planted.KINDS - 1)])
    np.testing.assert_allclose(counts / counts.sum(), left / left.sum(), atol=0.02)
