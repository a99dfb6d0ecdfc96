"""Samples of one episode begin alike: their common beginning is computed once.

A packed row is that beginning followed by what each sample goes on with, [beginning | rest of 1 | rest of 2 | ...]. A
rest attends to the beginning and to itself, at the positions it would have alone, so every hidden state is the one that
the sample has in a row of its own. Where four samples of the demo share the prompt, the call and the tool's answer (574
of 626 tokens), 16 rows of 640 become 4 of 832; samples that part at their first word stay apart.

N = sequences, T = tokens of the longest, P = packed rows, L = tokens of a packed row.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from mma_jax.learning.sequences import bucket_of
from mma_jax.models.attention import SHARED

WORTH, WIDER = 0.7, 1.25
"""What a packed row may have: so much of its samples' tokens apart, and the bucket that holds so much more than the
longest. Beyond, attention over the row costs more than sharing saves."""


class Packed(NamedTuple):
    """What the model computes, and where in it the sequences are."""

    tokens: np.ndarray  # int32 [P, L]
    position: np.ndarray  # int32 [P, L]
    segment: np.ndarray  # int32 [P, L], as `attention.causal` takes it
    place: np.ndarray  # int32 [N, T], index of each token in the P x L packed ones


def share(tokens: np.ndarray, lengths: np.ndarray, group: np.ndarray, rows: int, buckets: Iterable[int]) -> Packed:
    """Packs sequences of the same group.

    Args:
        tokens: int32 [N, T], padded on the right.
        lengths: int [N], tokens of each; 0 for rows of nothing.
        group: int [N], the same number for sequences that may share.
        rows: P, at least; a group that parts early, or would be too long, takes several. P is doubled
            until all have a place, so that few shapes are compiled.
        buckets: values of L that may be compiled.
    """
    buckets = sorted(buckets)
    most = next((bucket for bucket in buckets if bucket >= WIDER * lengths.max()), buckets[-1])
    members = [np.flatnonzero((group == g) & (lengths > 0)) for g in np.unique(group)]
    packs = [pack for found in members if len(found) for pack in _fitting(tokens, lengths, found, most)]
    width = bucket_of(max((_size(lengths, *pack) for pack in packs), default=1), buckets)
    while rows < len(packs):
        rows *= 2
    shape = (rows, width)
    packed = Packed(
        np.zeros(shape, np.int32),
        np.zeros(shape, np.int32),
        np.full(shape, SHARED, np.int32),
        np.zeros(tokens.shape, np.int32),
    )
    for row, (chosen, common) in enumerate(packs):
        packed.tokens[row, :common] = tokens[chosen[0], :common]
        packed.position[row, :common] = np.arange(common)
        end = common
        for n in chosen:
            start, end = end, end + lengths[n] - common
            packed.tokens[row, start:end] = tokens[n, common : lengths[n]]
            packed.position[row, start:end] = np.arange(common, lengths[n])
            packed.segment[row, start:end] = n
            packed.place[n, :common] = row * width + np.arange(common)
            packed.place[n, common : lengths[n]] = row * width + np.arange(start, end)
    return packed


def _fitting(tokens: np.ndarray, lengths: np.ndarray, members: np.ndarray, most: int) -> list[tuple[np.ndarray, int]]:
    """(sequences, tokens they have in common) of each packed row, of at most `most` tokens."""
    common = _common(tokens, lengths, members)
    size = _size(lengths, members, common)
    if len(members) == 1 or (size <= most and size <= WORTH * lengths[members].sum()):
        return [(members, common)]
    half = len(members) // 2
    return [*_fitting(tokens, lengths, members[:half], most), *_fitting(tokens, lengths, members[half:], most)]


def _common(tokens: np.ndarray, lengths: np.ndarray, members: np.ndarray) -> int:
    shortest = lengths[members].min()
    differs = (tokens[members, :shortest] != tokens[members[0], :shortest]).any(0)
    return int(differs.argmax()) if differs.any() else int(shortest)


def _size(lengths: np.ndarray, members: np.ndarray, common: int) -> int:
    return int(common + (lengths[members] - common).sum())
