"""Ranking metrics against enumeration, hand-computed numbers and ir_measures (trec_eval)."""

import itertools

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mma_jax.metrics import ranking


def enumerate_ties(scores, target, worth):
    """Mean worth of the target's rank over every order of the items that agrees with the scores."""
    orders = [
        order
        for order in itertools.permutations(range(len(scores)))
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order))
    ]
    return np.mean([worth(order.index(target) + 1) for order in orders])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=6), st.data())
def test_expectation_over_ties_is_the_mean_over_all_orders(scores, data):
    target = data.draw(st.integers(0, len(scores) - 1))
    k = data.draw(st.integers(1, 8))
    row = np.array(scores, float)
    assert ranking.ndcg(row, target, k) == pytest.approx(
        enumerate_ties(scores, target, lambda rank: (rank <= k) / np.log2(rank + 1)), abs=1e-12
    )
    assert ranking.hit_rate(row, target, k) == pytest.approx(
        enumerate_ties(scores, target, lambda rank: rank <= k), abs=1e-12
    )
    assert ranking.mrr(row, target) == pytest.approx(enumerate_ties(scores, target, lambda rank: 1 / rank), abs=1e-12)


def test_a_constant_scorer_earns_what_chance_earns():
    assert ranking.ndcg(np.full(100, 0.3), 17, 10) == pytest.approx(0.0454, abs=5e-5)
    assert ranking.hit_rate(np.zeros(100), 17, 10) == pytest.approx(0.1)


def test_hand_computed():
    scores = np.array([0.9, 0.1, 0.5, 0.5, -np.inf])
    assert ranking.positions(scores, 2) == (1, 2)
    assert ranking.ndcg(scores, 0, 10) == 1.0
    assert ranking.ndcg(scores, 2, 10) == pytest.approx((1 / np.log2(3) + 0.5) / 2)
    assert ranking.hit_rate(scores, 2, 2) == 0.5
    assert ranking.mrr(scores, 4) == pytest.approx(1 / 5)


def test_a_batch_equals_its_rows_and_any_leading_shape_works():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 5, (4, 6, 20)).astype(np.float32)
    target = rng.integers(-1, 20, (4, 6))
    for metric in (ranking.ndcg, ranking.hit_rate, ranking.mrr):
        batch = metric(scores, target)
        assert batch.shape == (4, 6) and batch.dtype == np.float64
        for cell in np.ndindex(4, 6):
            assert batch[cell] == metric(scores[cell], target[cell])
    assert ranking.ndcg(np.zeros((0, 20)), np.zeros(0, int)).shape == (0,)


def test_a_target_outside_the_list_is_worth_nothing():
    assert ranking.positions(np.arange(5.0), -1) == (5, 0)
    scores = np.zeros((2, 5))  # ties everywhere must not leak worth to an absent target
    for metric in (ranking.ndcg, ranking.hit_rate, ranking.mrr):
        assert metric(scores, np.array([-1, 2]))[0] == 0.0
        assert metric(scores[0], -1) == 0.0


@pytest.mark.parametrize("shape", [(3,), (1, 3)])
def test_refusals(shape):
    scores = np.array([0.0, np.nan, 1.0]).reshape(shape)
    target = np.zeros(shape[:-1], int) if len(shape) > 1 else 0
    with pytest.raises(ValueError, match="nan"):
        ranking.ndcg(scores, target)
    for bad in (3, -2):
        with pytest.raises(ValueError, match="targets must lie"):
            ranking.ndcg(np.zeros(shape), target + bad)
    with pytest.raises(ValueError, match="cutoff"):
        ranking.hit_rate(np.zeros(shape), target, 0)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="shape"):
        ranking.ndcg(np.zeros((3, 5)), np.zeros(2, int))


@pytest.fixture(scope="module")
def judged():
    """40 users, 30 items in random order without ties, 1-8 relevant items, some of them outside the list."""
    rng = np.random.default_rng(1)
    ranked = np.array([rng.permutation(50)[:30] for _ in range(40)])
    relevant = np.full((40, 8), -1)
    for row in relevant:
        count = rng.integers(1, 9)
        row[:count] = rng.permutation(50)[:count]
    return ranked, relevant


OURS = {"ndcg": ranking.ndcg_at, "recall": ranking.recall_at, "precision": ranking.precision_at, "map": ranking.map_at}
IR_MEASURES = {"ndcg": ir_measures.nDCG, "recall": ir_measures.R, "precision": ir_measures.P, "map": ir_measures.AP}


@pytest.mark.parametrize("k", [1, 5, 10, 30])
@pytest.mark.parametrize("name", OURS)
def test_ranked_lists_agree_with_ir_measures(judged, name, k):
    ranked, relevant = judged
    ours = OURS[name](ranked, relevant, k)
    qrels = {str(u): {str(i): 1 for i in row if i >= 0} for u, row in enumerate(relevant)}
    run = {str(u): {str(i): float(-place) for place, i in enumerate(row)} for u, row in enumerate(ranked)}
    measure = IR_MEASURES[name] @ k
    theirs = {m.query_id: m.value for m in ir_measures.iter_calc([measure], qrels, run)}
    np.testing.assert_allclose(ours, [theirs[str(u)] for u in range(len(ranked))], atol=1e-9)


def test_one_relevant_item_without_ties_is_the_same_in_both_settings():
    rng = np.random.default_rng(2)
    scores = rng.random((50, 20))
    target = rng.integers(0, 20, 50)
    ranked = np.argsort(-scores, axis=1)
    np.testing.assert_allclose(ranking.ndcg(scores, target, 5), ranking.ndcg_at(ranked, target[:, None], 5))
    np.testing.assert_allclose(ranking.hit_rate(scores, target, 5), ranking.recall_at(ranked, target[:, None], 5))
    np.testing.assert_allclose(ranking.mrr(scores, target), ranking.map_at(ranked, target[:, None], 20))


def test_padding_and_empty_rows_of_ranked_lists():
    ranked = np.array([[3, 7, -1, -1], [1, 2, 3, 4]])
    relevant = np.array([[7, -1], [-1, -1]])
    np.testing.assert_allclose(ranking.ndcg_at(ranked, relevant, 10), [1 / np.log2(3), np.nan])
    np.testing.assert_allclose(ranking.recall_at(ranked, relevant, 10), [1.0, np.nan])
    np.testing.assert_allclose(ranking.precision_at(ranked, relevant, 10), [0.1, np.nan])
    np.testing.assert_allclose(ranking.map_at(ranked, relevant, 10), [0.5, np.nan])


def test_an_item_of_one_row_is_no_hit_in_another():
    ranked = np.array([[0, 1], [2, 3]])
    np.testing.assert_allclose(ranking.recall_at(ranked, np.array([[2], [0]]), 2), [0.0, 0.0])


def test_ranked_lists_refuse_repeats_and_bad_cutoffs():
    with pytest.raises(ValueError, match="ranked lists an item twice"):
        ranking.ndcg_at(np.array([[1, 1]]), np.array([[1]]), 2)
    with pytest.raises(ValueError, match="relevant lists an item twice"):
        ranking.recall_at(np.array([[1, 2]]), np.array([[1, 1]]), 2)
    with pytest.raises(ValueError, match="cutoff"):
        ranking.map_at(np.array([[1, 2]]), np.array([[1]]), 0)
