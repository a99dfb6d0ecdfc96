"""Statistics against scipy, brute force, hand-computed examples and simulated coverage."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from mma_jax.metrics import significance


@pytest.fixture
def pair():
    """400 episodes of 90 users; many ties, as NDCG@10 gives."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 6, (2, 400)) / 5
    return x + 0.05 * (x > 0.3), y, rng.integers(0, 90, 400)


@pytest.mark.parametrize("zero_method", ["wilcox", "pratt", "zsplit"])
def test_wilcoxon_equals_scipy(pair, zero_method):
    x, y, _ = pair
    expected = stats.wilcoxon(np.round(x - y, 12), zero_method=zero_method)
    assert significance.wilcoxon(x, y, zero_method) == (expected.statistic, expected.pvalue)


def test_the_zero_method_is_wilcoxons_own(pair):
    x, y, _ = pair
    changed = np.abs(x - y) > 1e-9
    assert significance.wilcoxon(x, y) == pytest.approx(stats.wilcoxon((x - y)[changed].round(12)))


def test_wilcoxon_and_rank_biserial_by_hand():
    # differences 1, 2, 3, -4, 5: the negative rank sum is 4; 7 sign patterns have one of at most 4, 7 of at least 11
    x, y = np.array([1.0, 2, 3, 0, 5]), np.array([0.0, 0, 0, 4, 0])
    assert significance.wilcoxon(x, y) == (4.0, pytest.approx(14 / 32))
    assert significance.rank_biserial(x, y) == pytest.approx((11 - 4) / 15)


def test_rank_biserial_ignores_zeros_and_is_bounded():
    x, y = np.array([1.0, 2, 7, 7]), np.array([0.0, 0, 7, 7])
    assert significance.rank_biserial(x, y) == 1.0
    assert significance.rank_biserial(y, x) == -1.0
    assert significance.rank_biserial(x, x) == 0.0


def test_differences_equal_on_paper_are_tied():
    x, y = np.array([0.1 + 0.2, 0.5, 0.1 + 0.2]), np.array([0.3, 0.2, 0.0])
    assert significance.compare(x, y, np.arange(3))["n_zero"] == 1
    assert significance.rank_biserial(x, y) == 1.0
    assert significance.cliffs_delta([0.1 + 0.2], [0.3]) == 0.0


def test_holm_by_hand():
    np.testing.assert_allclose(significance.holm([0.04, 0.01, 0.03, 0.02]), [0.06, 0.04, 0.06, 0.06])
    np.testing.assert_allclose(significance.holm([0.9, 0.001]), [0.9, 0.002])
    np.testing.assert_allclose(significance.holm([0.6, 0.7]), [1.0, 1.0])
    assert significance.holm([]).shape == (0,)


@settings(deadline=None)
@given(
    arrays(float, st.integers(1, 30), elements=st.integers(0, 5).map(float)),
    arrays(float, st.integers(1, 30), elements=st.integers(0, 5).map(float)),
)
def test_cliffs_delta_equals_all_pairs(x, y):
    assert significance.cliffs_delta(x, y) == pytest.approx(np.sign(x[:, None] - y[None]).mean(), abs=1e-12)


def slow_bootstrap(values, clusters, n_resamples, seed):
    """Resample users one by one and average all their rows."""
    users = np.unique(clusters)
    rng = np.random.default_rng(seed)
    means = []
    for _ in range(n_resamples):
        drawn = users[rng.integers(len(users), size=len(users))]
        means.append(np.concatenate([values[clusters == user] for user in drawn]).mean())
    return np.quantile(means, [0.025, 0.975])


def test_cluster_bootstrap_equals_its_slow_twin(pair, monkeypatch):
    x, _, users = pair
    expected = slow_bootstrap(x, users, 200, 3)
    np.testing.assert_allclose(significance.cluster_bootstrap(x, users, 200, 3), expected)
    monkeypatch.setattr(significance, "_BLOCK", 500)  # several blocks, the last one short
    np.testing.assert_allclose(significance.cluster_bootstrap(x, users, 200, 3), expected)
    names = np.array([f"user{u:03d}" for u in users])
    np.testing.assert_allclose(significance.cluster_bootstrap(x, names, 200, 3), expected)


def test_clusters_widen_the_interval_as_theory_says():
    rng = np.random.default_rng(0)
    user_effects = rng.normal(size=200)
    values, users = np.repeat(user_effects, 10), np.repeat(np.arange(200), 10)
    low, high = significance.cluster_bootstrap(values, users)
    assert high - low == pytest.approx(2 * 1.96 * user_effects.std() / np.sqrt(200), rel=0.1)
    low, high = significance.cluster_bootstrap(values, np.arange(2000))
    assert high - low == pytest.approx(2 * 1.96 * user_effects.std() / np.sqrt(2000), rel=0.1)


def test_the_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = []
    for trial in range(300):
        effects = rng.normal(size=80)
        users = np.repeat(np.arange(80), rng.integers(1, 5, 80))
        low, high = significance.cluster_bootstrap(effects[users] + rng.normal(size=len(users)), users, 300, trial)
        covered.append(low <= 0 <= high)
    assert 0.90 <= np.mean(covered) <= 0.98


def test_one_user_bounds_nothing():
    values, user = np.arange(10.0), np.zeros(10)
    assert np.isnan(significance.cluster_bootstrap(values, user)).all()
    assert np.isnan(significance.cluster_bootstrap(np.empty(0), np.empty(0))).all()
    assert significance.tost(values, values, 0.1, user) == 1.0
    found = significance.compare(values, values[::-1], user)
    assert np.isnan(found["ci_low"]) and found["p_same"] == 1.0 and found["n_clusters"] == 1


def test_paired_bootstrap_is_of_the_difference(pair):
    x, y, users = pair
    low, high = significance.paired_bootstrap(x, y, users, 500, 1)
    assert low <= (x - y).mean() <= high
    np.testing.assert_allclose(significance.paired_bootstrap(y, x, users, 500, 1), (-high, -low), atol=1e-12)


def test_equivalence_agrees_with_the_90_percent_interval():
    rng = np.random.default_rng(2)
    x = rng.normal(size=500)
    y = x + 0.02 + 0.2 * rng.normal(size=500)
    users = np.repeat(np.arange(100), 5)
    low, high = significance.cluster_bootstrap(x - y, users, level=0.90)
    edge = max(abs(low), abs(high))
    assert significance.tost(x, y, edge + 0.001, users) < 0.05 < significance.tost(x, y, edge - 0.001, users)
    assert significance.tost(x, x + 1.0, 0.5, users) == 1.0
    assert significance.tost(x, x, 0.1, users) == pytest.approx(1 / 2001)


def test_compare_gathers_the_single_functions(pair):
    x, y, users = pair
    row = significance.compare(x, y, users)
    assert row["mean_delta"] == pytest.approx((x - y).mean())
    assert row["p"] == significance.wilcoxon(x, y)[1]
    assert row["rank_biserial"] == significance.rank_biserial(x, y)
    assert row["cliffs_delta"] == significance.cliffs_delta(x, y)
    assert (row["ci_low"], row["ci_high"]) == significance.paired_bootstrap(x, y, users)
    assert row["p_same"] == significance.tost(x, y, significance.SAME, users)
    assert (row["n"], row["n_zero"], row["n_clusters"]) == (400, (np.abs(x - y) < 1e-9).sum(), len(set(users)))


def test_a_method_against_itself():
    x = np.arange(5.0)
    row = significance.compare(x, x, np.arange(5))
    assert (row["p"], row["rank_biserial"], row["cliffs_delta"], row["mean_delta"], row["n_zero"]) == (1, 0, 0, 0, 5)
    assert row["p_same"] < 0.001


def test_refusals():
    with pytest.raises(ValueError, match="matched by episode"):
        significance.compare([1.0, 2.0], [1.0], [0, 1])
    with pytest.raises(ValueError, match="must not be nan"):
        significance.wilcoxon([1.0, np.nan], [1.0, 2.0])
    with pytest.raises(ValueError, match="no matched episodes"):
        significance.wilcoxon([], [])
    with pytest.raises(ValueError, match="clusters"):
        significance.cluster_bootstrap([1.0, 2.0], [0])
    with pytest.raises(ValueError, match="positive"):
        significance.tost([1.0], [1.0], 0.0, [0])
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        significance.holm([0.5, np.nan])
    with pytest.raises(ValueError, match="both sides"):
        significance.cliffs_delta([], [1.0])
    assert np.isnan(significance.cluster_bootstrap([], [])).all()
