"""Where a score map's scores stand among the tokens that wrote it, and what they would be on average."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np

from mma_jax.envs.tools.schema import handles
from mma_jax.models.tokenizer import Tokenizer

_SCORE = re.compile(r'"(\d+)"\s*:\s*(-?[\d.]+(?:[eE][-+]?\d+)?)')


def written(tokens: Sequence[int], size: int, tokenizer: Tokenizer) -> Iterator[tuple[int, range]]:
    """(candidate's row, indices of the tokens that wrote its score) of a turn that ends in a map of `size` scores."""
    text = tokenizer.decode(tokens)
    ends, place = _ends(tokens, text, tokenizer), handles(size)
    for found in _SCORE.finditer(text, max(text.rfind('"scores"'), 0)):
        if found[1] in place:
            start, end = found.span(2)
            yield place[found[1]], range(np.searchsorted(ends, start, side="right"), np.searchsorted(ends, end) + 1)


def expected(scores: np.ndarray, tokens: Sequence[int], means: Sequence[float], tokenizer: Tokenizer) -> np.ndarray:
    """Each score as its number would be on average, not as the likeliest one: sum_l p(l) l (G-Eval, Liu et al. 2023,
    arXiv:2303.16634).

    Greedy decoding writes one level for all candidates where evidence is weak, though it leans towards some of them.
    Not in the paper. A score of several tokens stays as written. So does a map of equal scores: it says nothing, and
    Eq. 2 stretches whatever differs to [0, 1].

    Args:
        scores: float64 [B], as written, nan where there is none.
        tokens: of the turn.
        means: of the numbers that each token stood for, nan where it is no number (`sampling.numbers`).
        tokenizer: of the player.

    Returns:
        float64 [B]
    """
    if len(np.unique(scores[np.isfinite(scores)])) <= 1:
        return scores
    found = scores.copy()
    for candidate, (token, *more) in written(tokens, len(scores), tokenizer):
        if not more and np.isfinite(means[token]):
            found[candidate] = means[token]
    return found


def _ends(tokens: Sequence[int], text: str, tokenizer: Tokenizer) -> np.ndarray:
    """Where each token ends in the text that they are decoded to, exclusive, int [tokens]."""
    said = [tokenizer.decode([token]) for token in tokens]
    if "".join(said) != text:  # characters of several tokens
        return np.array([len(tokenizer.decode(tokens[: n + 1])) for n in range(len(tokens))])
    return np.cumsum([len(one) for one in said])
