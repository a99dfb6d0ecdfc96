"""From trajectories to rows: fusion weight, metrics and subsets against hand-computed values."""

import numpy as np
import pytest

from mma_jax.agents.rollout import judged
from mma_jax.evaluation import judge
from mma_jax.evaluation.compare import compare_all
from mma_jax.types import Case, Episode


def trajectory(n, agent, target=0, family="text_only", recalled=True, inserted=False, first=(1.0, 0.5, 0.0)):
    pool = np.arange(len(first), dtype=np.int32) + 10
    case = Case(
        pool, np.array(first, np.float32), np.arange(1, len(first) + 1, dtype=np.int32), np.empty(0, np.int32),
        (True, False, False),
    )  # fmt: skip
    episode = Episode(f"e{n}", case, n, int(pool[target]), family, "ooma", recalled, inserted)
    return judged(episode, np.array(agent, float))


def test_alpha_grid():
    np.testing.assert_allclose(judge.alpha_grid(0.05), np.arange(21) / 20)


def test_fusion_by_hand():
    fused = judge.fused_scores([trajectory(0, [0, 5, 10])], 0.25)
    np.testing.assert_allclose(fused, [[0.25, 0.125 + 0.375, 0.75]])
    unscored = judge.fused_scores([trajectory(0, [np.nan] * 3)], 0.25)
    np.testing.assert_allclose(unscored, [[1.0, 0.5, 0.0]])


def test_what_is_not_fused_stands_for_itself():
    """A control that says nothing is at chance, as DESIGN §5.6 has a constant scorer; silence in Eq. 2 is s0."""
    played = [
        trajectory(0, [7, 7, 7]),
        trajectory(1, [-3, 9, 2]),
        trajectory(2, [np.nan] * 3),
        trajectory(3, [1, 2, np.nan]),
    ]
    own = judge.fused_scores(played, None)
    np.testing.assert_allclose(own, [[7, 7, 7], [-3, 9, 2], [1.0, 0.5, 0.0], [0, 1, 0]])
    np.testing.assert_allclose(judge.fused_scores(played, 0.0)[0], [1.0, 0.5, 0.0])
    rows = judge.episode_rows(played[:1], None)
    assert rows[0]["ndcg@10"] == pytest.approx((1 + 1 / np.log2(3) + 1 / 2) / 3)
    results = {(r["subset"], r["metric"]): r["value"] for r in judge.result_rows(rows, None)}
    assert results["all", "alpha"] == 0.0


def test_alpha_is_the_smallest_of_the_best():
    right = [trajectory(n, [0, 0, 1], target=2) for n in range(3)]
    assert judge.choose_alpha(right, 0.05) == (0.0, 1.0)
    wrong = [trajectory(n, [0, 1, 2], target=0) for n in range(3)]
    # the first stage wins once alpha > 1 - alpha; at one half they tie
    assert judge.choose_alpha(wrong, 0.05)[0] == 0.55


def test_rows_and_subsets():
    played = [
        trajectory(0, [0, 0, 1], target=2),
        trajectory(1, [0, 1, 0], target=0, family="image_only", recalled=False),
    ]
    rows = judge.episode_rows(played, 0.0)
    second = (1 / np.log2(3) + 1 / 2) / 2  # tied on the second and third place
    np.testing.assert_allclose([row["ndcg@10"] for row in rows], [1.0, second])
    np.testing.assert_allclose([row["mrr"] for row in rows], [1.0, (1 / 2 + 1 / 3) / 2])
    results = {(r["subset"], r["metric"]): (r["value"], r["n"]) for r in judge.result_rows(rows, 0.0)}
    np.testing.assert_allclose(results[("all", "ndcg@10")], ((1 + second) / 2, 2))
    np.testing.assert_allclose(results[("image_only", "ndcg@10")], (second, 1))
    np.testing.assert_allclose(results[("all/recalled", "ndcg@10")], (1, 1))
    assert results[("all", "recall@3")] == (0.5, 2)
    assert results[("all", "alpha")] == (0.0, 2)
    assert "all/inserted" not in {subset for subset, _ in results}  # recalled among negatives is nobody's insertion


def test_inserted_targets_are_those_the_pools_rule_placed():
    played = [
        trajectory(0, [0, 0, 1], target=2),
        trajectory(1, [0, 1, 0], recalled=False),
        trajectory(2, [1, 0, 0], recalled=False, inserted=True),
    ]
    rows = judge.result_rows(judge.episode_rows(played, 0.0), 0.0)
    counts = {row["subset"]: row["n"] for row in rows if row["metric"] == "ndcg@10"}
    assert counts == {"all": 3, "text_only": 3, "all/recalled": 1, "all/inserted": 1}


def test_expected_ndcg_by_hand():
    """Three candidates whose ranks are 1 and, tied, 2 or 3; each could have been the target."""
    tied = (1 / np.log2(3) + 1 / 2) / 2
    belief = np.array([[0.5, 0.3, 0.2], [0.0, 0.1, 0.9]])
    played = [trajectory(n, scores) for n, scores in enumerate(([2, 1, 1], [0, 0, 1]))]
    rows = judge.episode_rows(played, 0.0, belief)
    expected = [0.5 + 0.5 * tied, 0.1 * tied + 0.9]
    np.testing.assert_allclose([row[judge.EXPECTED] for row in rows], expected)
    results = {(r["subset"], r["metric"]): r["value"] for r in judge.result_rows(rows, 0.0)}
    np.testing.assert_allclose(results[("all", judge.EXPECTED)], np.mean(expected))
    assert judge.EXPECTED not in judge.episode_rows(played, 0.0)[0]
    named = [
        row | {"dataset": "d", "protocol": "ooma", "method": method} for row in rows for method in ("ref", "other")
    ]
    (line, _) = compare_all([*named, {"dataset": "d", "protocol": "full_catalog"}], "ref", 50, judge.EXPECTED)
    assert line["metric"] == judge.EXPECTED and line["family"] == "ooma/all/" + judge.EXPECTED and line["n"] == 2


def test_comparison_averages_seeds_and_matches_episodes():
    def lines(method, values, seeds=(0,)):
        return [
            {"dataset": "d", "protocol": "ooma", "subset": "text_only", "method": method, "seed": seed,
             "episode_id": f"e{n}", "user": n, "ndcg@10": value + 0.01 * seed}
            for seed in seeds for n, value in enumerate(values)
        ]  # fmt: skip

    rng = np.random.default_rng(0)
    base = rng.random(40) / 2
    episodes = lines("ref", base) + lines("better", base + 0.1, seeds=(0, 1)) + lines("same", base)
    rows = {(r["a"], r["subset"]): r for r in compare_all(episodes, "ref", 200)}
    assert set(rows) == {("better", "all"), ("better", "text_only"), ("same", "all"), ("same", "text_only")}
    np.testing.assert_allclose(rows[("better", "all")]["mean_delta"], 0.105)
    assert rows[("better", "all")]["p_holm"] < 1e-6 and rows[("same", "all")]["p_holm"] == 1
