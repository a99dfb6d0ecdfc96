"""BLEU-4 and ROUGE-L against hand-computed examples and a plain dynamic programme."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mma_jax.metrics import text

HYPOTHESIS = ["the", "cat", "sat", "on", "the", "mat"]
REFERENCE = ["the", "cat", "is", "on", "the", "mat", "today"]
# n-grams of the hypothesis: 6, 5, 4, 3; common: the cat on the mat = 5; "the cat", "on the", "the mat" = 3;
# "on the mat" = 1; none of length four. Brevity penalty exp(1 - 7/6). Longest common subsequence: 5.
PENALTY = np.exp(1 - 7 / 6)


def test_sentence_bleu_by_hand():
    expected = PENALTY * (5 / 6 * 4 / 6 * 2 / 5 * 1 / 4) ** 0.25
    np.testing.assert_allclose(text.bleu4([HYPOTHESIS], [REFERENCE]), [expected])


def test_corpus_bleu_by_hand():
    assert text.bleu4_corpus([HYPOTHESIS], [REFERENCE]) == 0.0
    other = ["a", "b", "c", "d", "e"]
    # second row adds 5, 4, 3, 2 matches of as many n-grams, and its length to both sides
    expected = np.exp(1 - 12 / 11) * (10 / 11 * 7 / 9 * 4 / 7 * 2 / 5) ** 0.25
    assert text.bleu4_corpus([HYPOTHESIS, other], [REFERENCE, other]) == pytest.approx(expected)


def test_matches_are_clipped_by_the_reference():
    assert text.bleu4_corpus([["the"] * 5], [["the", "cat"]]) == 0.0
    expected = (1 / 5 * 1 / 5 * 1 / 4 * 1 / 3) ** 0.25
    np.testing.assert_allclose(text.bleu4([["the"] * 5], [["the", "cat"]]), [expected])


def test_identical_texts_score_one_and_disjoint_ones_zero():
    rows = [["good"], ["a", "much", "longer", "text", "than", "that"]]
    np.testing.assert_allclose(text.bleu4(rows, rows), 1.0)
    np.testing.assert_allclose(text.rouge_l(rows, rows), 1.0)
    np.testing.assert_allclose(text.bleu4([["x"], []], [["y"], ["y"]]), 0.0)
    np.testing.assert_allclose(text.rouge_l([["x"], [], []], [["y"], ["y"], []]), 0.0)


def test_a_longer_hypothesis_pays_no_brevity_penalty():
    np.testing.assert_allclose(text.bleu4([["a", "b"]], [["a"]]), [(1 / 2 * 1 / 2) ** 0.25])


def test_rouge_l_by_hand():
    precision, recall = 5 / 6, 5 / 7
    np.testing.assert_allclose(text.rouge_l([HYPOTHESIS], [REFERENCE]), [2 * precision * recall / (precision + recall)])


def longest_common(a, b):
    table = np.zeros((len(a) + 1, len(b) + 1), int)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1, j + 1] = table[i, j] + 1 if x == y else max(table[i, j + 1], table[i + 1, j])
    return table[-1, -1]


@given(st.lists(st.sampled_from("abcd"), max_size=80), st.lists(st.sampled_from("abcd"), max_size=20))
def test_bit_parallel_subsequence_equals_the_table(a, b):
    assert text.common_length(a, b) == longest_common(a, b)


def test_tokens():
    assert text.tokenize("It's GREAT, naïve\n10/10!") == ["it", "'", "s", "great", ",", "naïve", "10", "/", "10", "!"]


def test_row_counts_must_agree():
    for metric in (text.bleu4, text.bleu4_corpus, text.rouge_l):
        with pytest.raises(ValueError):
            metric([["a"]], [["a"], ["b"]])
