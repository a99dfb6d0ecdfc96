"""Paired comparisons of two methods over the same episodes (MMA §4, Table 6; statistics of the whole benchmark).

Rows are matched: x[i] and y[i] are two methods on episode i, already averaged over seeds. Episodes of one user are
not independent, so intervals and the equivalence test resample users ("clusters"). The Wilcoxon test treats episodes
as independent, as the paper does; read it together with the clustered interval.
"""

from __future__ import annotations

import numpy as np
from scipy import stats

ZERO_METHOD = "wilcox"
"""Episodes on which both methods score the same are left out of the ranking (Wilcoxon's own rule and scipy's default).
`compare` reports how many they were."""

RESAMPLES = 2000

SAME = 0.01
"""Means that are less than this apart are taken for equal, in units of the metric (an NDCG of 0 to 1)."""

_DECIMALS = 12
"""Values that are equal on paper differ by rounding after averaging over seeds; past this digit they count as tied."""

_BLOCK = 1 << 20  # cluster draws held at once


def wilcoxon(x: np.ndarray, y: np.ndarray, zero_method: str = ZERO_METHOD) -> tuple[float, float]:
    """Two-sided paired signed-rank test, by scipy.

    Args:
      x, y: [N] matched values.
      zero_method: "wilcox", "pratt" or "zsplit", as in `scipy.stats.wilcoxon`.

    Returns:
      statistic (the smaller of the two rank sums) and p. Two methods that never differ give (0, 1).

    Raises:
      ValueError: x and y are not matched, are empty, or hold a nan.
    """
    delta = _delta(x, y)
    if not len(delta):
        raise ValueError("nothing to compare: no matched episodes")
    if not delta.any():
        return 0.0, 1.0
    result = stats.wilcoxon(delta, zero_method=zero_method)
    return float(result.statistic), float(result.pvalue)


def holm(pvalues: np.ndarray) -> np.ndarray:
    """Holm's step-down adjusted p-values over one declared family (Holm, 1979). float64 [M], in the order given.

    Raises:
      ValueError: a value is nan or outside [0, 1].
    """
    pvalues = np.asarray(pvalues, np.float64)
    if not ((pvalues >= 0) & (pvalues <= 1)).all():
        raise ValueError("p-values must lie in [0, 1]")
    order = np.argsort(pvalues, kind="stable")
    scaled = pvalues[order] * np.arange(len(pvalues), 0, -1)
    adjusted = np.empty_like(pvalues)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return adjusted


def rank_biserial(x: np.ndarray, y: np.ndarray) -> float:
    """Matched-pairs rank-biserial correlation: (W+ - W-) / (W+ + W-), zeros left out (Kerby, 2014).

    In [-1, 1], positive where x is better; 0 if the methods never differ. Errors as in `wilcoxon`, empty gives 0.
    """
    delta = _delta(x, y)
    delta = delta[delta != 0]
    ranks = stats.rankdata(np.abs(delta))
    return float((ranks * np.sign(delta)).sum() / ranks.sum()) if len(delta) else 0.0


def cliffs_delta(x: np.ndarray, y: np.ndarray) -> float:
    """Cliff's delta: P(X > Y) - P(X < Y) over all pairs of a row of x and a row of y, matched or not.

    O((n + m) log m) by sorting y. In [-1, 1]; the pairing is ignored, so compare it with `rank_biserial`.

    Raises:
      ValueError: x or y is empty or holds a nan.
    """
    x, y = (np.round(np.asarray(side, np.float64), _DECIMALS) for side in (x, y))
    if not len(x) or not len(y) or np.isnan(x).any() or np.isnan(y).any():
        raise ValueError("Cliff's delta needs values without nan on both sides")
    y = np.sort(y)
    below = np.searchsorted(y, x, side="left")
    above = len(y) - np.searchsorted(y, x, side="right")
    return float((below - above).mean() / len(y))


def cluster_bootstrap(
    values: np.ndarray, clusters: np.ndarray, n_resamples: int = RESAMPLES, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of the mean over rows, resampling whole clusters with replacement.

    Args:
      values: [N].
      clusters: [N] of anything sortable (user rows, user names).
      n_resamples: bootstrap samples.
      seed: the same seed and clusters draw the same resamples for any values.
      level: coverage.

    Returns:
      low, high; (nan, nan) of fewer than two clusters, which say nothing of how clusters differ.

    Raises:
      ValueError: shapes differ or a value is nan.
    """
    values = np.asarray(values, np.float64)
    if not len(values):
        return float("nan"), float("nan")
    means = _resampled_means(values, clusters, n_resamples, seed)
    if len(np.unique(clusters)) < 2:
        return float("nan"), float("nan")
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_bootstrap(
    x: np.ndarray, y: np.ndarray, clusters: np.ndarray, n_resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """95% percentile interval of the mean difference x - y over clusters. Arguments as in `cluster_bootstrap`."""
    return cluster_bootstrap(_delta(x, y), clusters, n_resamples, seed)


def tost(
    x: np.ndarray,
    y: np.ndarray,
    margin: float,
    clusters: np.ndarray,
    n_resamples: int = RESAMPLES,
    seed: int = 0,
) -> float:
    """p-value of "the means differ by margin or more": two one-sided tests on the cluster bootstrap.

    The larger of the shares of resampled mean differences at or below -margin and at or above +margin, with one added
    to the counts so that p is never 0. p <= .05 says, to that one count, that the 90% percentile interval lies
    inside (-margin, margin): the methods are equivalent up to the margin. One cluster tells nothing: p = 1.

    Raises:
      ValueError: margin is not positive, x and y are not matched, are empty, or hold a nan.
    """
    if not margin > 0:
        raise ValueError("the equivalence margin must be positive")
    delta = _delta(x, y)
    if not len(delta):
        raise ValueError("nothing to compare: no matched episodes")
    means = _resampled_means(delta, clusters, n_resamples, seed)
    if len(np.unique(clusters)) < 2:
        return 1.0
    outside = max((means <= -margin).sum(), (means >= margin).sum())
    return float((outside + 1) / (n_resamples + 1))


def compare(x: np.ndarray, y: np.ndarray, clusters: np.ndarray, n_resamples: int = RESAMPLES, seed: int = 0) -> dict:
    """Everything one line of Table 6 needs, and what stands behind it.

    Args:
      x, y: [N] matched values of methods a and b; positive differences favour x.
      clusters: [N] the user of each episode.

    Returns:
      mean_delta, p (Wilcoxon, unadjusted; apply `holm` over the family), rank_biserial, cliffs_delta, ci_low and
      ci_high (95%, clustered), p_same (`tost` with SAME), n, n_zero (episodes without a difference), n_clusters.

    Raises:
      ValueError: as `wilcoxon`.
    """
    delta = _delta(x, y)
    _, p = wilcoxon(x, y)
    low, high = cluster_bootstrap(delta, clusters, n_resamples, seed)
    return {
        "mean_delta": float(delta.mean()),
        "p": p,
        "rank_biserial": rank_biserial(x, y),
        "cliffs_delta": cliffs_delta(x, y),
        "ci_low": low,
        "ci_high": high,
        "p_same": tost(x, y, SAME, clusters, n_resamples, seed),
        "n": len(delta),
        "n_zero": int((delta == 0).sum()),
        "n_clusters": len(np.unique(clusters)),
    }


def _delta(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"x {x.shape} and y {y.shape} must both be [N], matched by episode")
    delta = np.round(x - y, _DECIMALS)
    if np.isnan(delta).any():
        raise ValueError("matched values must not be nan")
    return delta


def _resampled_means(values: np.ndarray, clusters: np.ndarray, n_resamples: int, seed: int) -> np.ndarray:
    """float64 [n_resamples]: the mean over all rows of G clusters drawn with replacement from the G there are."""
    clusters = np.asarray(clusters)
    if values.shape != clusters.shape or values.ndim != 1:
        raise ValueError(f"values {values.shape} and clusters {clusters.shape} must both be [N]")
    if np.isnan(values).any():
        raise ValueError("values must not be nan")
    _, index = np.unique(clusters, return_inverse=True)
    totals, sizes = np.bincount(index, weights=values), np.bincount(index)
    rng = np.random.default_rng(seed)
    means = np.empty(n_resamples)
    rows = max(1, _BLOCK // len(totals))
    for start in range(0, n_resamples, rows):
        draw = rng.integers(len(totals), size=(min(rows, n_resamples - start), len(totals)))
        means[start : start + rows] = totals[draw].sum(axis=1) / sizes[draw].sum(axis=1)
    return means
