"""Fusion of sources, by hand."""

import warnings

import numpy as np

from mma_jax.retrieval.fuse import fuse, normalize

INF = np.inf


def test_normalize_by_hand():
    scores = np.array([[2.0, 4.0, 3.0, -INF], [5.0, 5.0, 5.0, 5.0], [-INF] * 4, [7.0, -INF, 7.0, -INF]], np.float32)
    expected = [[0, 1, 0.5, 0], [0] * 4, [0] * 4, [0] * 4]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = normalize(scores)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, expected)


def test_fuse_is_the_mean_of_normalized_sources():
    first = np.array([[0.0, 10.0, 5.0]], np.float32)
    second = np.array([[-1.0, -INF, -3.0]], np.float32)
    np.testing.assert_allclose(fuse([first, second]), [[0.5, 0.5, 0.25]])
    np.testing.assert_allclose(fuse([first]), [[0, 1, 0.5]])


def test_scale_of_a_source_does_not_matter():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 5, 40)).astype(np.float32)
    np.testing.assert_allclose(fuse([a, b]), fuse([100 * a - 3, 0.01 * b + 9]), atol=1e-4)
    assert fuse([a, b]).dtype == np.float32
