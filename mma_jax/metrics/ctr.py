"""Click-through metrics over a set of labelled predictions."""

from __future__ import annotations

import numpy as np
from scipy import stats


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Area under the ROC curve: the chance that a positive outscores a negative, ties counting one half.

    The Mann-Whitney form, from average ranks, hence exact under ties.

    Args:
      labels: bool or 0/1 [N].
      scores: [N], higher means more likely; any monotone scale.

    Returns:
      nan if one of the two classes is absent.

    Raises:
      ValueError: shapes differ, a label is not 0 or 1, or a score is nan.
    """
    labels, scores = _paired(labels, scores)
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        return float("nan")
    wins = stats.rankdata(scores)[labels].sum() - positives * (positives + 1) / 2
    return float(wins / (positives * negatives))


def logloss(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean negative log-likelihood in nats. Arguments and errors as in `logloss_rows`; nan for no rows."""
    rows = logloss_rows(labels, probabilities)
    return float(rows.mean()) if len(rows) else float("nan")


def logloss_rows(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Negative log-likelihood of each label, in nats. float64 [N].

    Probabilities are clipped to [eps, 1 - eps] with the machine epsilon of their own dtype, as scikit-learn does.

    Args:
      labels: bool or 0/1 [N].
      probabilities: [N] of the positive class.

    Raises:
      ValueError: shapes differ, a label is not 0 or 1, or a probability is outside [0, 1] or nan.
    """
    labels, probabilities = _paired(labels, probabilities)
    if len(probabilities) and (probabilities.min() < 0 or probabilities.max() > 1):
        raise ValueError("probabilities must lie in [0, 1]")
    if not np.issubdtype(probabilities.dtype, np.floating):
        probabilities = probabilities.astype(np.float64)
    eps = np.finfo(probabilities.dtype).eps
    clipped = np.clip(probabilities, eps, 1 - eps).astype(np.float64)
    return -np.where(labels, np.log(clipped), np.log1p(-clipped))


def _paired(labels: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    labels, values = np.asarray(labels), np.asarray(values)
    if labels.shape != values.shape or labels.ndim != 1:
        raise ValueError(f"labels {labels.shape} and predictions {values.shape} must both be [N]")
    if not np.isin(labels, (0, 1)).all():
        raise ValueError("labels must be 0 or 1")
    if np.isnan(values).any():
        raise ValueError("predictions must not be nan")
    return labels.astype(bool), values
