"""Controls read no evidence; Rank-only finds whatever rank alone gives away."""

import numpy as np

from mma_jax.agents import controls
from mma_jax.metrics import ranking
from mma_jax.types import Case, Episode


def episode(target_rank, n, size=10):
    rng = np.random.default_rng(n)
    ranks = rng.permutation(size).astype(np.int32) + 1
    pool = rng.permutation(100)[:size].astype(np.int32)
    scores = ((size - ranks) / (size - 1)).astype(np.float32)
    case = Case(pool, scores, ranks, np.empty(0, np.int32), (True, False, False))
    return Episode(str(n), case, n, int(pool[ranks == target_rank][0]), "text_only", "ooma", True)


def value(scores, episodes):
    return ranking.ndcg(np.stack(scores), np.array([e.target_position for e in episodes]), 10).mean()


def test_rank_only_learns_that_the_last_wins():
    rng = np.random.default_rng(0)
    train, test = (
        [episode(10 if rng.random() < 0.7 else 1 + n % 9, n) for n in r] for r in (range(400), range(400, 600))
    )
    learned = value(controls.rank_only(train)(test), test)
    assert learned > 0.7 > value([controls.first_stage(e.case) for e in test], test)


def test_reverse_rank_mirrors_the_first_stage():
    last = [episode(10, n) for n in range(5)]
    assert value([controls.reverse_rank(e.case) for e in last], last) == 1.0


def test_popularity_is_constant_where_behavior_is_missing():
    case = episode(1, 0).case
    counts = np.arange(100)
    assert (controls.popularity_scores(case, counts) == 0).all()
    seen = Case(case.pool, case.scores, case.ranks, case.history, (False, False, True))
    assert (controls.popularity_scores(seen, counts) == case.pool).all()
