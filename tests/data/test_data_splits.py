import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mma_jax.data.splits import positives, resolve_kind, split
from mma_jax.types import FIT, TEST, TRAIN, VALID, InputError, Interactions


def log(user, time=None, order="timestamp", rating=None, given_split=None):
    n = len(user)
    return Interactions(
        np.array(user, np.int32),
        np.arange(n, dtype=np.int32),
        np.full(n, np.nan, np.float32) if rating is None else np.array(rating, np.float32),
        np.full(n, np.nan) if time is None else np.array(time, np.float64),
        order,
        None if given_split is None else np.array(given_split, np.int8),
    )


def everything(interactions):
    return np.ones(len(interactions), bool)


def test_positives_take_the_threshold_in_and_missing_ratings_as_positive():
    ratings = log([0] * 4, [0] * 4, rating=[3.5, 4, 5, np.nan])
    assert positives(ratings, 4.0).tolist() == [False, True, True, True]


def test_chronological_by_hand():
    time = np.random.default_rng(0).permutation(100)
    interactions = log([0] * 100, time)
    parts = split(interactions, everything(interactions))
    assert parts.dtype == np.int8
    assert parts[np.argsort(time)].tolist() == [FIT] * 70 + [TRAIN] * 10 + [VALID] * 10 + [TEST] * 10


def test_equal_times_at_a_boundary_go_to_the_earlier_part():
    time = np.arange(100)
    time[68:73] = 68  # FIT ends within
    time[77:84] = 77  # training ends within
    time[88:92] = 88  # validation ends within
    interactions = log([0] * 100, time)
    parts = split(interactions, everything(interactions))
    assert parts.tolist() == [FIT] * 74 + [TRAIN] * 10 + [VALID] * 8 + [TEST] * 8


@given(st.lists(st.integers(0, 60), min_size=30, max_size=120), st.data())
def test_chronological_parts_never_overlap_in_time(times, data):
    interactions = log([0] * len(times), times)
    try:
        parts = split(interactions, everything(interactions))
    except InputError:
        return
    n, sizes = len(times), np.bincount(parts, minlength=4)
    for earlier, later in ((FIT, TRAIN), (TRAIN, VALID), (VALID, TEST)):
        assert interactions.time[parts == earlier].max() < interactions.time[parts == later].min()
    assert sizes[FIT] + sizes[TRAIN] >= 0.8 * n
    assert sizes[TEST] <= 0.1 * n


def per_user_reference(interactions, positive):
    """The rule of the docstring, one user at a time."""
    parts = np.full(len(interactions), FIT)
    for user in set(interactions.user.tolist()):
        rows = np.flatnonzero(interactions.user == user).tolist()
        rows.sort(key=lambda row: (interactions.time[row], row))
        liked = [row for row in rows if positive[row]]
        labels = [FIT] * len(liked)
        if len(liked) >= 4:
            held = max(1, len(liked) // 10)
            labels[-held:] = [TEST] * held
            labels[-2 * held : -held] = [VALID] * held
        training = labels.count(FIT)
        if training >= 3:
            late = max(1, training // 8)
            labels[training - late : training] = [TRAIN] * late
        current = FIT
        for row in rows:
            if positive[row]:
                current = labels[liked.index(row)]
            parts[row] = current
    return parts


@pytest.mark.parametrize("order", ["position", "timestamp"])
def test_per_user_matches_the_slow_reference(order):
    rng = np.random.default_rng(1)
    user = rng.integers(0, 25, 600) ** 2 // 25  # users of very different sizes
    interactions = log(user, rng.integers(0, 50, 600), order)
    for share in (1.0, 0.6):
        positive = rng.random(600) < share
        parts = split(interactions, positive, "per_user")
        np.testing.assert_array_equal(parts, per_user_reference(interactions, positive))


def test_per_user_small_users_by_hand():
    user = [0] * 3 + [1] * 4 + [2] * 5 + [3] * 2 + [4] * 20
    interactions = log(user, np.concatenate([np.arange(n) for n in (3, 4, 5, 2, 20)]), "position")
    parts = split(interactions, everything(interactions))
    assert parts[:3].tolist() == [FIT, FIT, TRAIN]
    assert parts[3:7].tolist() == [FIT, FIT, VALID, TEST]
    assert parts[7:12].tolist() == [FIT, FIT, TRAIN, VALID, TEST]
    assert parts[12:14].tolist() == [FIT, FIT]
    assert parts[14:].tolist() == [FIT] * 14 + [TRAIN] * 2 + [VALID] * 2 + [TEST] * 2


def test_given_without_order_slices_at_random_with_the_seed():
    codes = np.array([TRAIN] * 80 + [VALID] * 10 + [TEST] * 10)
    interactions = log([0] * 100, order="none", given_split=codes)
    first, again, other = (split(interactions, everything(interactions), seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    np.testing.assert_array_equal(first[80:], codes[80:])
    assert np.bincount(first).tolist() == [70, 10, 10, 10]
    assert interactions.given_split.tolist() == codes.tolist()  # the source's column stays as it was


def test_given_with_order_slices_the_later_part():
    codes = [TEST, VALID] + [TRAIN] * 16
    clock = log([0] * 18, np.arange(18)[::-1], given_split=codes)
    assert split(clock, everything(clock)).tolist() == [TEST, VALID, TRAIN, TRAIN] + [FIT] * 14
    position = log([0] * 9 + [1] * 9, np.arange(18)[::-1], "position", given_split=codes)
    assert split(position, everything(position)).tolist() == [TEST, VALID, TRAIN] + [FIT] * 6 + [TRAIN] + [FIT] * 8


def test_auto_resolves_by_what_the_data_has():
    assert resolve_kind(log([0], [0], given_split=[TRAIN]), "auto") == "given"
    assert resolve_kind(log([0], [0]), "auto") == "chronological"
    assert resolve_kind(log([0], [0], "position"), "auto") == "per_user"
    assert resolve_kind(log([0], [0]), "per_user") == "per_user"


@pytest.mark.parametrize(
    ("interactions", "kind", "message"),
    [
        (log([0], order="none"), "auto", "neither timestamp, position nor split"),
        (log([0], [0], "position"), "chronological", "needs timestamps"),
        (log([0], order="none"), "chronological", "needs timestamps"),
        (log([0], order="none"), "per_user", "needs a timestamp or position"),
        (log([0], [0]), "given", "needs a split column"),
        (log([0], [0]), "random", "auto, chronological, per_user, given"),
        (log([0] * 100, [7] * 100), "auto", "no positive interaction in TRAIN, VALID, TEST"),
        (log([0, 1, 2], [0, 1, 2], "position"), "auto", "no positive interaction in TRAIN, VALID, TEST"),
        (log([0] * 9, order="none", given_split=[TRAIN] * 8 + [VALID]), "given", "no positive interaction in TEST"),
        (log([], []), "auto", "no positive interaction in FIT, TRAIN, VALID, TEST"),
    ],
)
def test_what_the_data_cannot_support_is_refused(interactions, kind, message):
    with pytest.raises(InputError, match=message) as error:
        split(interactions, everything(interactions), kind)
    assert "\n" not in str(error.value)


def test_a_part_without_positives_is_refused():
    interactions = log([0] * 100, np.arange(100))
    with pytest.raises(InputError, match="no positive interaction in TEST"):
        split(interactions, np.arange(100) < 90)
