"""What each score of a map was worth: advantages of single tokens from an episode's other samples.

Not in the papers, whose advantage is one number a turn (MMA Eq. 5): twenty scores then share the luck of all twenty.
The reward of a map (Eq. 3, NDCG of Eq. 2) is known for maps that nobody wrote, so for candidate c of sample k of an
episode

    A[k, c] = R(s_k) - mean over other samples j of R(s_k with the score of c taken from s_j)

a difference reward (Wolpert & Tumer 2001; the counterfactual baseline of COMA, Foerster et al. 2018, with siblings in
the critic's place). What it is measured against does not depend on the score itself, so it is no bias there; what a
score changes in the scores written after it is left out, which is one.
"""

from __future__ import annotations

import dataclasses
import itertools
import re

import numpy as np

from mma_jax.agents.language_model import Played
from mma_jax.envs.fusion import fuse
from mma_jax.envs.rewards import CUTOFF
from mma_jax.envs.tools.schema import handles
from mma_jax.learning.sequences import Sequence
from mma_jax.metrics.ranking import ndcg
from mma_jax.models.tokenizer import Tokenizer

_SCORE = re.compile(r'"(\d+)"\s*:\s*(-?[\d.]+(?:[eE][-+]?\d+)?)')


def by_candidate(played: list[Played], alpha: float, tokenizer: Tokenizer) -> list[Sequence]:
    """The episodes' sequences, with the worth of each score as `credit` of the tokens that wrote it.

    Args:
        played: samples of one episode next to each other.
        alpha: the reward's weight of the first stage.
        tokenizer: of the player.
    """
    sequences = []
    for _, samples in itertools.groupby(played, key=lambda one: one.trajectory.episode.episode_id):
        same = list(samples)
        episode = same[0].trajectory.episode
        scores = np.stack([one.trajectory.scores for one in same])
        worth = counterfactual(episode.case.scores, scores, episode.target_position, alpha)
        sequences += [_credited(one, mine, tokenizer) for one, mine in zip(same, worth, strict=True)]
    return sequences


def counterfactual(first_stage: np.ndarray, scores: np.ndarray, target: int, alpha: float) -> np.ndarray:
    """A[k, c] above, float64 [K, B]; samples that gave no score are no company.

    Args:
        first_stage: [B] normalized first-stage scores.
        scores: [K, B] raw scores of K samples, nan where there is none.
        target: row of the target in the pool, -1 if it is not there.
        alpha: weight of the first stage.

    Returns:
        nan in rows without scores, and everywhere if fewer than two samples have some.
    """
    worth = np.full(scores.shape, np.nan)
    rows = np.flatnonzero(np.isfinite(scores).any(1))
    if len(rows) < 2:
        return worth
    given = scores[rows]
    count, size = given.shape
    # swapped[k, j, c]: the map of k, with c's score from j
    swapped = np.broadcast_to(given[:, None, None], (count, count, size, size)).copy()
    swapped[:, :, np.arange(size), np.arange(size)] = given[None]
    earned = ndcg(fuse(first_stage, swapped, alpha), np.full(swapped.shape[:-1], target), CUTOFF)
    own = earned[np.arange(count), np.arange(count)]  # j = k changes nothing
    worth[rows] = own - (earned.sum(1) - own) / (count - 1)
    return worth


def _credited(one: Played, worth: np.ndarray, tokenizer: Tokenizer) -> Sequence:
    sequence, turn = one.sequence, one.trajectory.turns[-1]
    ends = [len(tokenizer.decode(turn.tokens[: n + 1])) for n in range(len(turn.tokens))]
    credit, first = np.full(len(sequence), np.nan, np.float32), len(sequence) - len(turn.tokens)
    text, place = tokenizer.decode(turn.tokens), handles(len(worth))
    for found in _SCORE.finditer(text, max(text.rfind('"scores"'), 0)):
        if found[1] in place:
            start, end = found.span(2)
            begun, ended = np.searchsorted(ends, start, side="right"), np.searchsorted(ends, end)
            credit[first + begun : first + ended + 1] = worth[place[found[1]]]
    return dataclasses.replace(sequence, credit=np.where(sequence.action, credit, np.nan))
