"""Tokens that are numbers, and means over them by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from mma_jax.models.convert import L0_TINY
from mma_jax.models.tokenizer import load_tokenizer
from mma_jax.sampling.numbers import Numbers, find_numbers

# words, "2", "4", "x8,", "x0,"
NUMBERS = Numbers(jnp.array([0.0, 0, 2, 4, 8, 0]), jnp.array([0, 0, 1, 1, 2, 2], jnp.int32))


@pytest.mark.parametrize("allowed, expected", [(None, 3.5), ([1, 1, 0, 1, 1, 1], 4.0)])
def test_the_mean_is_over_what_is_of_a_kind_and_allowed(allowed, expected):
    logits = np.log(np.array([[9, 9, 1, 3, 9, 9]], np.float32))
    allowed = None if allowed is None else jnp.array([allowed], bool)
    np.testing.assert_allclose(NUMBERS.mean(logits, jnp.array([3]), allowed), [expected], rtol=1e-6)
    assert np.isnan(NUMBERS.mean(logits, jnp.array([1]), allowed)).all()


def test_rows_have_kinds_of_their_own():
    logits = np.zeros((3, 6), np.float32)
    found = NUMBERS.mean(logits, jnp.array([2, 5, 0]), None)
    np.testing.assert_allclose(found, [3, 4, np.nan])


def test_numbers_of_l0_tiny():
    tokenizer = load_tokenizer(L0_TINY)
    numbers = find_numbers(tokenizer, tokenizer.vocab_size + 5)
    assert numbers.value.shape == numbers.kind.shape == (tokenizer.vocab_size + 5,)
    (seven,), (two,) = (tokenizer.encode(text) for text in ('":7,"', '":2,"'))
    (bare,) = tokenizer.encode("7")
    assert [float(numbers.value[token]) for token in (seven, two, bare)] == [7, 2, 7]
    assert numbers.kind[seven] == numbers.kind[two] != numbers.kind[bare]
    assert (numbers.kind == numbers.kind[seven]).sum() == 101  # 0 to 100
    assert not numbers.kind[-5:].any() and not numbers.kind[tokenizer.encode("Score_Candidates")[0]]
