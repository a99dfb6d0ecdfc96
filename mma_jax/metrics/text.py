"""Overlap of generated texts with one reference each: BLEU-4 and ROUGE-L.

All functions take token sequences; `tokenize` makes them from text. Values lie in [0, 1].
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

Tokens = Sequence[str]

ORDER = 4
_TOKEN = re.compile(r"\w+|[^\w\s]")


def tokenize(text: str) -> list[str]:
    """Lower-cased words and single punctuation marks."""
    return _TOKEN.findall(text.lower())


def bleu4_corpus(hypotheses: Sequence[Tokens], references: Sequence[Tokens]) -> float:
    """Corpus BLEU-4 without smoothing (Papineni et al., 2002): n-gram matches are summed over the corpus first.

    Returns 0 if some order n <= 4 has no match at all, nan for an empty corpus.

    Raises:
      ValueError: the numbers of hypotheses and references differ.
    """
    if not len(hypotheses):
        return float("nan")
    counts = [_matches(h, r) for h, r in zip(hypotheses, references, strict=True)]
    matches, totals = np.sum(counts, axis=0)
    if not matches.all():
        return 0.0
    lengths = sum(map(len, hypotheses)), sum(map(len, references))
    return float(_brevity(*lengths) * np.exp(np.mean(np.log(matches / totals))))


def bleu4(hypotheses: Sequence[Tokens], references: Sequence[Tokens]) -> np.ndarray:
    """BLEU-4 of each row, smoothed by add-one for n > 1 (Lin and Och, 2004). float64 [N].

    The precisions are m1/t1 and (mn + 1)/(tn + 1) for n = 2, 3, 4; a row without a common word, or empty, gets 0.

    Raises:
      ValueError: the numbers of hypotheses and references differ.
    """
    return np.array([_sentence_bleu(h, r) for h, r in zip(hypotheses, references, strict=True)], np.float64)


def rouge_l(hypotheses: Sequence[Tokens], references: Sequence[Tokens]) -> np.ndarray:
    """ROUGE-L F1 of each row (Lin, 2004, with beta = 1): from the longest common subsequence. float64 [N].

    Twice the subsequence's length over the sum of both lengths; 0 if both are empty.

    Raises:
      ValueError: the numbers of hypotheses and references differ.
    """
    pairs = zip(hypotheses, references, strict=True)
    return np.array([2 * common_length(h, r) / max(len(h) + len(r), 1) for h, r in pairs], np.float64)


def common_length(a: Tokens, b: Tokens) -> int:
    """Length of the longest common subsequence, bit-parallel over `a` (Hyyrö, 2004): one integer per row of the table.

    A zero bit i says that the subsequence grows at a[i]; adding carries each growth to the next free place.
    """
    places: dict[str, int] = {}
    for i, token in enumerate(a):
        places[token] = places.get(token, 0) | 1 << i
    full = (1 << len(a)) - 1
    row = full
    for token in b:
        found = row & places.get(token, 0)
        row = ((row + found) | (row - found)) & full
    return len(a) - row.bit_count()


def _sentence_bleu(hypothesis: Tokens, reference: Tokens) -> float:
    matches, totals = _matches(hypothesis, reference)
    if not matches[0]:
        return 0.0
    matches[1:] += 1
    totals[1:] += 1
    return float(_brevity(len(hypothesis), len(reference)) * np.exp(np.mean(np.log(matches / totals))))


def _matches(hypothesis: Tokens, reference: Tokens) -> np.ndarray:
    """int [2, 4]: clipped n-gram matches and n-grams of the hypothesis, n = 1..4."""
    matches, totals = [], []
    for n in range(1, ORDER + 1):
        ours, theirs = _ngrams(hypothesis, n), _ngrams(reference, n)
        matches.append((ours & theirs).total())
        totals.append(ours.total())
    return np.array([matches, totals])


def _ngrams(tokens: Tokens, n: int) -> Counter:
    return Counter(zip(*(tokens[i:] for i in range(n)), strict=False))


def _brevity(hypothesis: int, reference: int) -> float:
    """Brevity penalty from the two lengths; the hypothesis is not empty."""
    return float(np.exp(min(0.0, 1.0 - reference / hypothesis)))
