import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mma_jax.data.histories import Histories
from mma_jax.types import FIT, TEST, TRAIN, VALID, Interactions


def log(user, item, time, order):
    n = len(user)
    return Interactions(
        np.array(user, np.int32), np.array(item, np.int32), np.ones(n, np.float32), np.array(time, np.float64), order
    )


def before_by_hand(interactions, positive, parts, row):
    """The rule, one row at a time."""
    n = range(len(interactions))
    mine = [r for r in n if interactions.user[r] == interactions.user[row] and positive[r]]
    if interactions.order == "none":
        allowed = (FIT,) if parts[row] in (FIT, TRAIN) else (FIT, TRAIN)
        mine = [r for r in mine if parts[r] in allowed and interactions.item[r] != interactions.item[row]]
        mine.sort(key=lambda r: (parts[r], r))
    else:
        allowed = (FIT, TRAIN) if parts[row] in (FIT, TRAIN) else (FIT, TRAIN, VALID, TEST)
        mine = [r for r in mine if parts[r] in allowed and interactions.time[r] < interactions.time[row]]
        mine.sort(key=lambda r: (interactions.time[r], r))
    items = []
    for r in mine:
        item = int(interactions.item[r])
        if item in items:
            items.remove(item)
        items.append(item)
    return items


ROWS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 6), st.integers(0, 8), st.booleans(), st.sampled_from([0, 1, 2, 3])),
    min_size=1,
    max_size=40,
)


@given(ROWS, st.sampled_from(["timestamp", "position", "none"]))
def test_matches_brute_force(rows, order):
    user, item, time, positive, parts = map(np.array, zip(*rows, strict=True))
    interactions = log(user, item, np.full(len(rows), np.nan) if order == "none" else time, order)
    histories = Histories(interactions, positive, parts.astype(np.int8))
    for row in range(len(rows)):
        before = histories.before(row)
        assert before.dtype == np.int32
        assert before.tolist() == before_by_hand(interactions, positive, parts, row)
    for u in set(user.tolist()):
        known = histories.known(u)
        assert known.dtype == np.int32
        assert known.tolist() == sorted(set(item[(user == u) & positive].tolist()))
        for part in (FIT, TRAIN, VALID, TEST):
            mine = (user == u) & positive & (parts <= part)
            assert histories.known(u, part).tolist() == sorted(set(item[mine].tolist()))


def test_equal_times_are_not_before_and_negatives_are_not_history():
    interactions = log([0, 0, 0, 0, 1], [9, 8, 7, 6, 5], [10, 20, 20, 30, 5], "timestamp")
    histories = Histories(interactions, np.array([1, 1, 1, 0, 1], bool), np.full(5, TEST, np.int8))
    assert histories.before(0).tolist() == []
    assert histories.before(1).tolist() == [9]
    assert histories.before(2).tolist() == [9]
    assert histories.before(3).tolist() == [9, 8, 7]  # a row need not be positive to be looked back from
    assert histories.known(0).tolist() == [7, 8, 9]


def test_a_training_target_never_looks_back_on_what_is_held_out():
    """A given split may hold out what came first."""
    interactions = log([0] * 5, [1, 2, 3, 4, 1], [1, 2, 3, 4, 5], "timestamp")
    histories = Histories(interactions, np.ones(5, bool), np.array([FIT, TEST, VALID, TRAIN, TEST], np.int8))
    assert histories.before(3).tolist() == [1]
    assert histories.before(2).tolist() == [1, 2] and histories.before(4).tolist() == [1, 2, 3, 4]


def test_a_repeated_item_stays_at_its_latest_place():
    interactions = log([0] * 4, [1, 2, 1, 3], [1, 2, 3, 4], "position")
    assert Histories(interactions, np.ones(4, bool), np.zeros(4, np.int8)).before(3).tolist() == [2, 1]


def test_without_order_training_targets_see_fit_and_held_out_targets_see_all_training():
    interactions = log([0] * 6, [1, 2, 3, 4, 5, 2], [np.nan] * 6, "none")
    parts = np.array([FIT, TRAIN, VALID, TEST, FIT, FIT], np.int8)
    histories = Histories(interactions, np.ones(6, bool), parts)
    assert histories.before(0).tolist() == [5, 2]
    assert histories.before(1).tolist() == [1, 5]  # item 2, the target, is also a FIT row
    assert histories.before(2).tolist() == histories.before(3).tolist() == [1, 5, 2]


def test_a_user_without_positives():
    histories = Histories(log([0, 1], [3, 3], [1, 2], "timestamp"), np.array([False, True]), np.zeros(2, np.int8))
    assert histories.known(0).tolist() == []
    assert histories.before(0).tolist() == []
    assert histories.before(1).tolist() == []
