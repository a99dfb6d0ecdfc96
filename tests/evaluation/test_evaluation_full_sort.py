"""Full-sort metrics beside a twin that tries every order of the catalog."""

import itertools
import math

import numpy as np
import pytest

from mma_jax.baselines.corpus import ALL, Corpus
from mma_jax.evaluation import full_sort
from mma_jax.evaluation.full_sort import Held, Lists, evaluate, lists
from mma_jax.metrics import ranking
from mma_jax.types import InputError

ITEMS = 6


def as_lists(rows) -> Lists:
    return Lists(np.cumsum([0, *map(len, rows)]), np.array([item for row in rows for item in row], np.int32))


def corpus(users: int, items: int = ITEMS) -> Corpus:
    """Every user has item 0 and 1."""
    return Corpus(
        n_users=users,
        n_items=items,
        users=np.repeat(np.arange(users, dtype=np.int32), 2),
        items=np.tile(np.arange(2, dtype=np.int32), users),
        before=np.tile(np.arange(2, dtype=np.int32), users),
        content={},
        has={},
        families=(ALL,),
    )


def held(seen, targets) -> Held:
    return Held(np.arange(len(targets)), as_lists(seen), as_lists(seen), as_lists(targets))


def constant(table):
    """A scorer that looks a user's scores up."""
    return lambda query, items: table[query.user]


def slow(scores, seen, targets, k) -> dict[str, float]:
    """The mean of each metric over all orders of the catalog, of those that the scores allow."""
    found = {name: [] for name in ("hr", "recall", "ndcg", "mrr")}
    for order in itertools.permutations(range(len(scores))):
        ranked = [item for item in sorted(order, key=lambda item: -scores[item]) if item not in seen]
        ranks = sorted(ranked.index(target) + 1 for target in targets)
        inside = [rank for rank in ranks if rank <= k]
        ideal = sum(1 / math.log2(rank + 1) for rank in range(1, min(len(targets), k) + 1))
        found["hr"].append(bool(inside))
        found["recall"].append(len(inside) / len(targets))
        found["ndcg"].append(sum(1 / math.log2(rank + 1) for rank in inside) / ideal)
        found["mrr"].append(1 / ranks[0] if inside else 0)
    return {f"{name}@{k}": np.mean(values) for name, values in found.items()}


CASES = {  # levels of score, seen, targets
    "one target": (9, [[], [0], [1, 4]], [[2], [3], [0]]),
    "one target, ties": (2, [[], [0], [1, 4]], [[2], [3], [0]]),
    "several targets": (9, [[], [5], [1]], [[2, 0], [3, 0, 1], [0, 2, 3, 4, 5]]),
    "several targets, ties": (2, [[], [5], [1]], [[2, 0], [3, 0, 1], [0, 2, 3, 4, 5]]),
    "all else seen": (3, [[0, 1, 2, 3, 4]], [[5]]),
    "taken twice": (9, [[0, 0, 4, 0, 0]], [[3]]),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("k", [1, 2, 3, 10])
def test_every_order_of_the_catalog_agrees(case, k):
    levels, seen, targets = CASES[case]
    for seed in range(2):
        rng = np.random.default_rng(seed)
        draw = rng.permuted(np.tile(np.arange(ITEMS), (len(seen), 1)), axis=1) if levels == 9 else None
        table = (rng.integers(levels, size=(len(seen), ITEMS)) if draw is None else draw).astype(np.float32)
        found = evaluate(constant(table), corpus(len(seen)), held(seen, targets), (k,))
        for user in range(len(seen)):
            best = sorted(table[user, targets[user]])[::-1]
            for name, value in slow(table[user], seen[user], targets[user], k).items():
                if name[:2] in ("hr", "mr") and len(best) > 1 and best[0] == best[1]:
                    continue  # stated: the best-scored target alone
                assert found[name][user] == pytest.approx(value), (name, user, seed)


def test_one_target_is_what_the_ranking_metrics_say():
    rng = np.random.default_rng(0)
    table = rng.integers(20, size=(40, 50)).astype(np.float32)
    targets = rng.integers(2, 50, size=40)
    found = evaluate(constant(table), corpus(40, 50), held([[0, 1]] * 40, targets[:, None].tolist()), (5, 20))
    masked = table.copy()
    masked[:, :2] = -np.inf
    for k in (5, 20):
        np.testing.assert_allclose(found[f"ndcg@{k}"], ranking.ndcg(masked, targets, k))
        np.testing.assert_allclose(found[f"hr@{k}"], ranking.hit_rate(masked, targets, k))
        np.testing.assert_array_equal(found[f"hr@{k}"], found[f"recall@{k}"])


def test_several_targets_are_what_the_ranking_metrics_say():
    rng = np.random.default_rng(1)
    table = rng.permuted(np.tile(np.arange(50, dtype=np.float32), (30, 1)), axis=1)
    targets = [rng.permutation(np.arange(2, 50))[: 1 + user % 7] for user in range(30)]
    found = evaluate(constant(table), corpus(30, 50), held([[0, 1]] * 30, targets), (5, 20))
    ranked = np.argsort(-np.where(np.arange(50) < 2, -1, table), axis=1)
    relevant = np.stack([np.pad(row, (0, 7 - len(row)), constant_values=-1) for row in targets])
    for k in (5, 20):
        np.testing.assert_allclose(found[f"recall@{k}"], ranking.recall_at(ranked, relevant, k))
        np.testing.assert_allclose(found[f"ndcg@{k}"], ranking.ndcg_at(ranked, relevant, k))


def test_the_size_of_a_chunk_changes_nothing_and_bounds_what_is_scored_at_once():
    rng = np.random.default_rng(2)
    table = rng.normal(size=(23, 40)).astype(np.float32)
    asked = held([[0, 1]] * 23, rng.integers(2, 40, size=(23, 1)).tolist())
    sizes = []

    def score(query, items):
        sizes.append(len(query.user))
        return table[query.user]

    whole = evaluate(score, corpus(23, 40), asked, chunk=512)
    parts = evaluate(score, corpus(23, 40), asked, chunk=5)
    assert sizes == [23] + [5] * 5
    for name in whole:
        np.testing.assert_array_equal(whole[name], parts[name])


def test_models_see_the_end_of_the_history():
    given = Held(np.arange(2), as_lists([[3, 0, 1, 0], [1]]), as_lists([[], []]), as_lists([[2], [2]]))
    queries = []

    def score(query, items):
        queries.append(query)
        return np.zeros((len(query.user), ITEMS), np.float32)

    evaluate(score, corpus(2), given, history=3)
    np.testing.assert_array_equal(queries[0].history, [[0, 1, 0], [-1, -1, 1]])
    np.testing.assert_array_equal(queries[0].user, [0, 1])
    assert items_are_asked_for_with_nothing_hidden(queries[0])


def items_are_asked_for_with_nothing_hidden(query) -> bool:
    return bool(query.mask.all())


def test_lists_keep_their_order_and_leave_others_out():
    made = lists(np.array([1, 4, 7]), np.array([4, 1, 9, 4, 1]), np.array([5, 6, 7, 8, 9]))
    np.testing.assert_array_equal(made.starts, [0, 2, 4, 4])
    np.testing.assert_array_equal(made.items, [6, 9, 5, 8])


@pytest.mark.parametrize(
    "seen, targets, value, why",
    [
        ([[0]], [[]], 0.0, "target of every user"),
        ([[0]], [[0]], 0.0, "taken before"),
        ([[0]], [[1]], np.nan, "nan"),
    ],
)
def test_what_cannot_be_judged_is_refused(seen, targets, value, why):
    score = constant(np.full((1, ITEMS), value, np.float32))
    with pytest.raises(InputError, match=why):
        full_sort.evaluate(score, corpus(1), held(seen, targets))
