"""Sampling, saving and loading of episodes."""

import dataclasses

import numpy as np
import pytest

from mma_jax.evaluation import episodes
from mma_jax.types import FIT, TEST, TRAIN, VALID, Case, Episode, Interactions


def test_sample_targets_caps_users_and_counts():
    rows = np.arange(100, 400)
    users = np.zeros(400, int)
    users[100:400] = np.repeat(np.arange(30), 10)
    chosen = episodes.sample_targets(rows, users, 40, 2, seed=0)
    assert len(chosen) == 40 == len(set(chosen)) and set(chosen) <= set(rows)
    assert np.bincount(users[chosen]).max() <= 2
    everything = episodes.sample_targets(rows, users, 1000, 2, seed=0)
    assert (np.bincount(users[everything]) == 2).all()
    assert (episodes.sample_targets(rows, users, 40, 2, seed=0) == chosen).all()
    assert (episodes.sample_targets(rows, users, 40, 2, seed=1) != chosen).any()


def test_a_repeat_is_no_target():
    log = Interactions(
        user=np.array([0, 0, 0, 1, 1], np.int32),
        item=np.array([5, 6, 5, 5, 5], np.int32),
        rating=np.full(5, np.nan, np.float32),
        time=np.array([3.0, 2, 1, 7, 7]),
        order="timestamp",
    )
    first = episodes.first_occurrences(log, np.array([True] * 5), np.zeros(5, np.int8))
    assert first.tolist() == [False, True, True, True, False]
    disliked = episodes.first_occurrences(log, np.array([True, True, False, True, True]), np.zeros(5, np.int8))
    assert disliked.tolist() == [True, True, False, True, False]


@pytest.mark.parametrize("order", ["timestamp", "none"])
def test_a_repeat_in_a_split_against_time_is_no_target(order):
    """Item 5: the earlier row is in TEST, its repeat an edge of the held-out graph. Item 6: the earlier part is later,
    with the answer in its history. Item 7: a training target looks into no held-out part."""
    log = Interactions(
        user=np.zeros(6, np.int32),
        item=np.array([5, 5, 6, 6, 7, 7], np.int32),
        rating=np.full(6, np.nan, np.float32),
        time=np.array([1.0, 2, 1, 2, 1, 2]) if order == "timestamp" else np.full(6, np.nan),
        order=order,
    )
    parts = np.array([TEST, FIT, TEST, VALID, TEST, TRAIN], np.int8)
    first = episodes.first_occurrences(log, np.ones(6, bool), parts)
    assert first.tolist() == [False, True, False, order == "none", False, True]


def test_source_row_survives_a_name_with_colons():
    assert episodes.source_row(dataclasses.replace(make(0, []), episode_id="my:data:test:417:text_only")) == 417


def make(n, history):
    case = Case(
        np.arange(4, dtype=np.int32) + n, np.array([1, 0.5, 0.25, 0], np.float32), np.arange(1, 5, dtype=np.int32),
        np.array(history, np.int32), (False, True, False),
    )  # fmt: skip
    return Episode(f"é{n}", case, n, n + 2, "image_only", "ooma", recalled=n % 2 == 0, inserted=n % 2 == 1)


def test_round_trip(tmp_path):
    path = tmp_path / "deep" / "test_ooma.npz"
    assert episodes.load(path) is None
    written = [make(0, []), make(1, [5, 6, 7]), make(2, [9])]
    episodes.save(path, written)
    for a, b in zip(written, episodes.load(path), strict=True):
        for name in ("pool", "scores", "ranks", "history"):
            np.testing.assert_array_equal(getattr(a.case, name), getattr(b.case, name))
        assert a.case.mask == b.case.mask
        for name in ("episode_id", "user", "target", "family", "protocol", "recalled", "inserted"):
            assert getattr(a, name) == getattr(b, name)
    path.write_bytes(path.read_bytes()[:100])
    assert episodes.load(path) is None
