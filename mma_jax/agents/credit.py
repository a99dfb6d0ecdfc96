"""What each score of a map was worth, where the paper's advantage is one number a turn (MMA Eq. 5) and twenty scores
share the luck of all twenty.

The reward of a map (Eq. 3, NDCG of Eq. 2) is known for maps that nobody wrote. So two credits are possible for the
score of candidate c in sample k of an episode. `by_candidate` compares it with what its siblings wrote,

    A[k, c] = R(s_k) - mean over other samples j of R(s_k with the score of c taken from s_j)

a difference reward (Wolpert & Tumer 2001; the counterfactual baseline of COMA, Foerster et al. 2018, with siblings in
the critic's place). `by_level` tells what every level would have earned,

    R[k, c, l] = R(s_k with l for the score of c)

so that the policy's own probabilities, not its samples, weigh the levels (`objective.expected_surrogate`). Neither is
biased by what it is measured against; both leave out what a score changes in the scores written after it.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from collections.abc import Iterator

import numpy as np

from mma_jax.agents import maps
from mma_jax.agents.language_model import Played
from mma_jax.envs.fusion import fuse
from mma_jax.envs.rewards import CUTOFF
from mma_jax.learning.sequences import Sequence
from mma_jax.metrics.ranking import ndcg
from mma_jax.models.tokenizer import Tokenizer

_NUMBER = re.compile(r"\d+")


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
        for one, mine in zip(same, worth, strict=True):
            credit = np.full(len(one.sequence), np.nan, np.float32)
            for candidate, tokens in _written(one, tokenizer):
                credit[tokens] = mine[candidate]
            sequences.append(dataclasses.replace(one.sequence, credit=np.where(one.sequence.action, credit, np.nan)))
    return sequences


def by_level(played: list[Played], alpha: float, tokenizer: Tokenizer, levels: int) -> list[Sequence]:
    """The episodes' sequences, with the tokens that could stand in a score's place and what each would have earned.

    A score that is not one token, or whose token has no twin for every level, has none; neither has a map that was not
    accepted, whose tokens share the turn's penalty. What else stands in the turn of an accepted map gets a credit of 0:
    it is in every map alike, so its turn's advantage is the luck of the scores (what that luck does to a gradient:
    notebooks/LOG.md).

    Args:
        played: any samples of any episodes.
        alpha: the reward's weight of the first stage.
        tokenizer: of the player.
        levels: scores are 0 .. levels - 1.
    """
    twins, sequences = functools.cache(functools.partial(_twins, tokenizer, levels)), []
    for one in played:
        length, episode = len(one.sequence), one.trajectory.episode
        choices, worth = np.full((length, levels), -1, np.int32), np.full((length, levels), np.nan, np.float32)
        earned = alternatives(episode.case.scores, one.trajectory.scores, episode.target_position, alpha, levels)
        accepted = np.isfinite(one.trajectory.scores).any()
        last = one.sequence.turn == len(one.sequence.starts) - 1
        own = np.where(last & accepted, 0.0, np.nan).astype(np.float32)
        for candidate, (token, *more) in _written(one, tokenizer) if accepted else ():
            found = () if more or not one.sequence.action[token] else twins(int(one.sequence.tokens[token]))
            if found:
                choices[token], worth[token] = found, earned[candidate]
        sequences.append(dataclasses.replace(one.sequence, choices=choices, worth=worth, credit=own))
    return sequences


def alternatives(first_stage: np.ndarray, scores: np.ndarray, target: int, alpha: float, levels: int) -> np.ndarray:
    """R[c, l] above, float64 [B, levels]: the terminal reward of a map whose score of c were l.

    Args: as for `counterfactual`, of one sample: `scores` is [B].
    """
    size = len(scores)
    changed = np.broadcast_to(scores, (size, levels, size)).copy()
    changed[np.arange(size), :, np.arange(size)] = np.arange(levels)
    return ndcg(fuse(first_stage, changed, alpha), np.full(changed.shape[:-1], target), CUTOFF)


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


def _written(one: Played, tokenizer: Tokenizer) -> Iterator[tuple[int, range]]:
    """(candidate's row, indices of the sequence's tokens) of each score in the last turn's map."""
    tokens = one.trajectory.turns[-1].tokens
    first = len(one.sequence) - len(tokens)
    for candidate, found in maps.written(tokens, len(one.trajectory.scores), tokenizer):
        yield candidate, range(first + found.start, first + found.stop)


def _twins(tokenizer: Tokenizer, levels: int, token: int) -> tuple[int, ...]:
    """The tokens that say what `token` says with each level for its number; () unless every one is a token."""
    text = tokenizer.decode([token])
    said = [tokenizer.encode(_NUMBER.sub(str(level), text)) for level in range(levels)]
    exact = all(len(ids) == 1 for ids in said) and token in {ids[0] for ids in said}
    return tuple(ids[0] for ids in said) if exact else ()
