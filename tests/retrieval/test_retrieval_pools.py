"""Pools: what is in them, and that rank alone says no more than the first stage."""

import dataclasses

import numpy as np
import pytest

from mma_jax.metrics import ranking
from mma_jax.retrieval.pools import (
    Query,
    build_pool,
    catalog_order,
    matched,
    popularity_ranks,
    rank_distribution,
    target_density,
    target_ranks,
)


def query(target, key=0, history=(), known=()):
    seen = np.array(history, np.int32)
    return Query(seen[-1:], seen, np.array(known, np.int32), target, key)  # evidence from the last item only


SCORES = np.linspace(1, 0, 50).astype(np.float32)  # item i has catalogue rank i


def test_catalog_order_leaves_out_and_sorts():
    order = catalog_order(SCORES, np.array([0, 3]), np.random.default_rng(0))
    assert order.tolist() == [i for i in range(50) if i not in (0, 3)]


def test_recalled_target_keeps_the_plain_top():
    uniform = np.full(10, 0.1)
    for kind in ("calibrated", "paper", "top"):
        pool = build_pool(kind, SCORES, query(4), 10, uniform, seed=0)
        assert sorted(pool.items) == list(range(10))
        assert pool.recalled and not pool.inserted
        by_rank = pool.items[np.argsort(pool.ranks)]
        assert by_rank.tolist() == list(range(10))
        np.testing.assert_allclose(pool.scores.max(), 1)
        np.testing.assert_allclose(pool.scores.min(), 0)


def test_paper_puts_an_unrecalled_target_last():
    pool = build_pool("paper", SCORES, query(30), 10, None, seed=0)
    assert sorted(pool.items) == [*range(9), 30]
    assert pool.ranks[pool.items == 30] == 10 and not pool.recalled


def test_top_leaves_an_unrecalled_target_out():
    pool = build_pool("top", SCORES, query(30, known=(1, 2)), 10, None, seed=0)
    assert sorted(pool.items) == list(range(10))  # future positives stay: the protocol is "as it is"


def test_calibrated_window_stands_around_the_true_rank():
    distribution = np.zeros(10)
    distribution[2] = 1
    pool = build_pool("calibrated", SCORES, query(30), 10, distribution, seed=0)
    assert sorted(pool.items) == list(range(28, 38))
    assert pool.ranks[pool.items == 30] == 3 and pool.inserted
    at_the_end = build_pool("calibrated", SCORES, query(49), 10, distribution, seed=0)
    assert sorted(at_the_end.items) == list(range(40, 50))
    assert (at_the_end.scores == 0).all()  # its drawn rank cannot be had, so no rank says anything
    others = [build_pool("calibrated", SCORES, query(49, key=k), 10, distribution, 0) for k in range(99)]
    assert {int(pool.items[pool.ranks.argmin()]) for pool in others} == set(range(40, 50))


@pytest.mark.parametrize("kind", ["calibrated", "paper"])
def test_history_and_known_positives_are_no_negatives(kind):
    asked = query(30, history=(0, 28), known=(1, 2, 29, 30, 31))
    pool = build_pool(kind, SCORES, asked, 10, np.full(10, 0.1), seed=0)
    assert not set(pool.items) & {0, 28, 1, 2, 29, 31}
    assert 30 in pool.items


def test_top_holds_nothing_the_user_has_seen():
    pool = build_pool("top", SCORES, query(30, history=(0, 5, 8), known=(0, 5, 8, 2, 30)), 10, None, seed=0)
    assert sorted(pool.items) == [1, 2, 3, 4, 6, 7, 9, 10, 11, 12]


def test_recalled_means_the_same_in_every_kind():
    """Two later positives stand above the target, which is 11th among unseen items and 9th among negatives; a thinned
    catalogue lacks three of these, and the first stage's recall is no better for it."""
    asked = query(10, known=(1, 2, 10))
    thinned = dataclasses.replace(asked, absent=np.array([3, 4, 5], np.int32))
    for one, among_negatives in ((asked, 9), (thinned, 6)):
        for kind in ("top", "paper", "calibrated"):
            pool = build_pool(kind, SCORES, one, 10, np.full(10, 0.1), seed=0)
            assert not pool.recalled and not pool.inserted
            assert (10 in pool.items) == (kind != "top")
            assert kind == "top" or pool.ranks[pool.items == 10] == among_negatives  # where it stands, nothing drawn
            assert build_pool(kind, SCORES, one, 11, np.full(11, 1 / 11), seed=0).recalled
        assert target_ranks(SCORES[None], [one], 0)[0] == 10
        assert target_ranks(SCORES[None], [one], 0, negatives_only=True)[0] == among_negatives - 1


def test_rank_distribution_finds_the_slope_and_none_in_noise():
    rng = np.random.default_rng(0)
    true = (1.0 + np.arange(50)) ** -0.7
    ranks = np.append(rng.choice(50, size=20_000, p=true / true.sum()), [50, 999])  # the last two are unrecalled
    fitted = rank_distribution(ranks, 50)
    np.testing.assert_allclose(fitted, true / true.sum(), rtol=0.1)
    np.testing.assert_allclose(fitted.sum(), 1)
    for growing in (np.repeat(np.arange(10), np.arange(10)), np.array([50]), np.array([], int)):
        np.testing.assert_allclose(rank_distribution(growing, 10), 0.1, rtol=1e-3)
    # 33 targets anywhere among 20 ranks: what their first stage would be given stays near chance
    gains = 1 / np.log2(2 + np.arange(10))
    found = [rank_distribution(rng.integers(20, size=33), 20)[:10] @ gains for _ in range(200)]
    assert np.mean(found) < 1.08 * gains.sum() / 20


def test_target_rank_counts_items_above_and_shuffles_ties():
    asked = [query(3, key=k, history=(0,)) for k in range(400)]
    assert set(target_ranks(np.tile(SCORES, (400, 1)), asked, 0)) == {2}
    tied = target_ranks(np.zeros((400, 50), np.float32), asked, 0)
    assert tied.min() == 0 and tied.max() == 48 and abs(tied.mean() - 24) < 2


def test_constant_scores_tell_nothing_of_the_target():
    """A block of ties must not leak the drawn rank: shown ranks and places are uniform, whatever was drawn."""
    flat = np.zeros(200, np.float32)
    first = np.zeros(10)
    first[0] = 1
    pools = [build_pool("calibrated", flat, query(7, key=k), 10, first, seed=0) for k in range(2000)]
    shown = np.array([pool.ranks[pool.items == 7][0] for pool in pools])
    places = np.array([np.flatnonzero(pool.items == 7)[0] for pool in pools])
    for values in (shown - 1, places):
        counts = np.bincount(values, minlength=10)
        assert abs(counts - 200).max() < 70  # 5 standard deviations
    assert {tuple(pool.scores) for pool in pools} == {(0.0,) * 10}


def test_reversing_pays_in_paper_pools_and_not_in_calibrated_ones():
    """The reason for calibration (DESIGN §5.4), on targets whose scores are only weakly better than others'."""
    rng = np.random.default_rng(0)
    items, size = 300, 20
    queries, scores = [], []
    for key in range(600):
        row = rng.normal(size=items)
        target = int(rng.integers(items))
        row[target] += 0.8
        queries.append(query(target, key=key))
        scores.append(row.astype(np.float32))
    distribution = rank_distribution(target_ranks(np.stack(scores), queries, 0), size)

    def value(kind, sign):
        pools = [build_pool(kind, s, q, size, distribution, 0) for s, q in zip(scores, queries, strict=True)]
        targets = np.array([np.flatnonzero(p.items == q.target)[0] for p, q in zip(pools, queries, strict=True)])
        return ranking.ndcg(sign * np.stack([p.scores for p in pools]).astype(float), targets, 10).mean()

    assert value("paper", -1) > 2 * value("paper", 1)
    assert value("calibrated", -1) < value("calibrated", 1)


def test_seeded():
    a = build_pool("calibrated", SCORES, query(30, key=5), 10, np.full(10, 0.1), seed=1)
    b = build_pool("calibrated", SCORES, query(30, key=5), 10, np.full(10, 0.1), seed=1)
    assert (a.items == b.items).all() and (a.ranks == b.ranks).all()


@pytest.fixture(scope="module")
def popular():
    """(counts int [300], weights float64 [300], 2,000 targets drawn by popularity): a long tail."""
    counts = np.round(1000 / (1 + np.arange(300)) ** 0.8).astype(int)
    drawn = np.random.default_rng(0).choice(300, size=(2, 2000), p=counts / counts.sum())
    ranks = popularity_ranks(counts, seed=0)
    return counts, target_density(ranks[drawn[0]], 300)[ranks], drawn[1]


def test_popularity_ranks_shuffle_ties():
    counts = np.array([5, 9, 0, 5, 5])
    ranks = [popularity_ranks(counts, seed) for seed in range(60)]
    assert all(rank[1] == 0 and rank[2] == 4 for rank in ranks)
    assert {int(rank[3]) for rank in ranks} == {1, 2, 3}


def test_target_density_by_hand():
    """Ten targets an item on ranks 0 to 9, three on 10 to 49, none beyond; one bin holds the border, one the end."""
    density = target_density(np.concatenate([np.repeat(np.arange(10), 10), np.repeat(np.arange(10, 50), 3)]), 100)
    np.testing.assert_allclose(density[:8], 10)
    np.testing.assert_allclose(density[14:42], 3, rtol=0.1)
    assert (density > 0).all() and density[60:].max() < 0.5 and density.sum() == pytest.approx(220)
    assert (target_density(np.array([7, 7, 2]), 9) > 0).all()  # fewer targets than bins


def test_matched_negatives_are_as_popular_as_targets(popular):
    """Where the first stage knows nothing, popularity ranks targets first among all items, and no better than chance
    among matched ones."""
    counts, weights, targets = popular
    flat, size = np.zeros(300, np.float32), 10

    def of_popularity(queries):
        pools = [build_pool("calibrated", flat, q, size, np.full(size, 0.1), 0) for q in queries]
        assert {len(pool.items) for pool in pools} == {size}
        places = np.array([np.flatnonzero(p.items == q.target)[0] for p, q in zip(pools, queries, strict=True)])
        return ranking.ndcg(np.stack([counts[p.items] for p in pools]).astype(float), places, 10).mean()

    asked = [query(int(target), key) for key, target in enumerate(targets)]
    chance = (1 / np.log2(2 + np.arange(10))).mean()
    assert of_popularity(asked) > chance + 0.2
    assert of_popularity([matched(q, weights, size, seed=0) for q in asked]) == pytest.approx(chance, abs=0.02)


def test_matched_leaves_a_pool_enough_and_the_full_catalog_alone(popular):
    _, weights, _ = popular
    history = tuple(range(60))  # the most popular ones are gone
    asked = query(200, history=history, known=(70, 200))
    thinned = matched(asked, weights, 100, seed=0)
    left = set(range(300)) - set(thinned.no_negatives)
    assert len(left) == 100 and 200 in left and not left & {*history, 70}
    assert matched(asked, weights, 100, seed=0).absent.tolist() == thinned.absent.tolist()
    assert matched(asked, weights, 100, seed=1).absent.tolist() != thinned.absent.tolist()
    scores = np.random.default_rng(0).random(300).astype(np.float32)
    top = [sorted(build_pool("top", scores, q, 10, None, 0).items) for q in (asked, thinned)]
    assert top[0] == top[1]
    assert target_ranks(scores[None], [thinned], 0)[0] == target_ranks(scores[None], [asked], 0)[0]
    assert target_ranks(scores[None], [thinned], 0, negatives_only=True)[0] < 100
