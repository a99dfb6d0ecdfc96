"""CTR metrics against scikit-learn and hand-computed numbers."""

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from mma_jax.metrics import ctr


@pytest.mark.parametrize("levels", [3, 50, 10**6])
def test_auc_equals_scikit_learn_with_and_without_ties(levels):
    rng = np.random.default_rng(levels)
    scores = rng.integers(0, levels, 500) / levels
    labels = rng.random(500) < scores
    assert ctr.auc(labels, scores) == pytest.approx(sklearn_metrics.roc_auc_score(labels, scores), abs=1e-12)


def test_auc_by_hand():
    assert ctr.auc([1, 0, 1, 0], [0.9, 0.5, 0.5, 0.1]) == (1 + 1 + 0.5 + 1) / 4
    assert ctr.auc([1, 0], [0.2, 0.2]) == 0.5
    assert np.isnan(ctr.auc([1, 1], [0.1, 0.2]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_logloss_equals_scikit_learn_including_certain_predictions(dtype):
    rng = np.random.default_rng(0)
    probabilities = rng.random(300).astype(dtype)
    probabilities[:4] = [0, 1, 0, 1]
    labels = rng.random(300) < 0.4
    labels[:4] = [0, 1, 1, 0]
    expected = sklearn_metrics.log_loss(labels, probabilities)
    assert ctr.logloss(labels, probabilities) == pytest.approx(expected, rel=1e-6 if dtype == np.float32 else 1e-12)


def test_logloss_by_hand():
    np.testing.assert_allclose(ctr.logloss_rows([1, 0], [0.5, 0.75]), [np.log(2), np.log(4)])
    assert np.isnan(ctr.logloss([], []))


def test_refusals():
    with pytest.raises(ValueError, match=r"must both be \[N\]"):
        ctr.auc([1, 0], [0.5])
    with pytest.raises(ValueError, match="0 or 1"):
        ctr.auc([2, 0], [0.5, 0.1])
    with pytest.raises(ValueError, match="nan"):
        ctr.auc([1, 0], [0.5, np.nan])
    with pytest.raises(ValueError, match="0, 1"):
        ctr.logloss([1, 0], [0.5, 1.1])
