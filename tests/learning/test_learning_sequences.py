import dataclasses

import learning_fixture as fixture
import numpy as np
import pytest

from mma_jax.learning import sequences
from mma_jax.types import InputError

SHORT = fixture.build([5, 6, 7], [([8, 9], [10]), ([11], [])], [-0.02, 0.5], episode="b")
LONG = fixture.build([5] * 10, [([8], [])], [1.0], episode="a")


def test_pad_by_hand():
    batch = sequences.pad([SHORT, LONG], (4, 12, 16), 3, rows=3)
    assert batch.tokens.shape == (3, 12)
    np.testing.assert_array_equal(batch.tokens[0], [5, 6, 7, 8, 9, 10, 11, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(batch.turn[0], [-1, -1, -1, 0, 0, -1, 1, -1, -1, -1, -1, -1])
    np.testing.assert_array_equal(batch.action, batch.turn >= 0)
    np.testing.assert_array_equal(batch.starts, [[2, 5, 0], [9, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(batch.turn_mask, [[1, 1, 0], [1, 0, 0], [0, 0, 0]])
    np.testing.assert_allclose(batch.rewards, [[-0.02, 0.5, 0], [1, 0, 0], [0, 0, 0]])


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match="11 tokens"):
        sequences.pad([LONG], (4, 8), 3)
    with pytest.raises(InputError, match="2 turns"):
        sequences.pad([SHORT], (16,), 1)


def test_siblings_share_a_number():
    assert sequences.siblings([SHORT, LONG, SHORT]).tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    "change",
    [
        {"starts": np.array([3, 5], np.int32)},
        {"rewards": np.zeros(1, np.float32)},
        {"action": np.zeros(7, bool)},
        {"turn": np.where(SHORT.turn == 1, 2, SHORT.turn)},
        {"tokens": np.zeros(8, np.int32)},
    ],
)
def test_contradictions_are_refused(change):
    with pytest.raises(ValueError, match="disagree"):
        dataclasses.replace(SHORT, **change)
