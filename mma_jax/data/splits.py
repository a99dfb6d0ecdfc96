"""Which interactions are evidence, training targets, validation and test.

The training part is FIT + TRAIN. TRAIN is its later slice: training episodes take their targets there and
build their evidence from FIT alone, so that no training target sits in the graph that retrieves it.
"""

from __future__ import annotations

import numpy as np

from mma_jax.types import FIT, TEST, TRAIN, VALID, InputError, Interactions

KINDS = ("auto", "chronological", "per_user", "given")

HELD_OUT = 10  # validation and test take one in ten each (MMA §4.1: 80/10/10)
SLICE = 8  # TRAIN takes one in eight of the training part
MIN_TO_HOLD_OUT = 4  # a user with fewer positives is training only (per_user)
MIN_TO_SLICE = 3  # a user with fewer training positives gives evidence only (per_user)

PART_NAMES = {FIT: "FIT", TRAIN: "TRAIN", VALID: "VALID", TEST: "TEST"}


def positives(interactions: Interactions, threshold: float) -> np.ndarray:
    """bool [N]: rating >= threshold. An interaction without a rating is a positive."""
    return np.isnan(interactions.rating) | (interactions.rating >= threshold)


def resolve_kind(interactions: Interactions, kind: str) -> str:
    """The kind of split that `kind` means for these interactions: "chronological", "per_user" or "given".

    "auto" is the source's own split if it has one, else chronological where there is a clock, else
    per user where there is an order. Raises InputError where the data cannot support the kind.
    """
    if kind not in KINDS:
        raise InputError(f"unknown split {kind!r}; data.split is one of {', '.join(KINDS)}")
    if kind == "auto":
        if interactions.given_split is not None:
            return "given"
        if interactions.order == "none":
            raise InputError("the interactions have neither timestamp, position nor split; add one of these columns")
        return "chronological" if interactions.order == "timestamp" else "per_user"
    if kind == "given" and interactions.given_split is None:
        raise InputError("split 'given' needs a split column in the interactions; choose another data.split")
    if kind == "chronological" and interactions.order != "timestamp":
        raise InputError(
            "split 'chronological' needs timestamps: a position orders one user's interactions but does not"
            " compare users in time; use data.split=auto"
        )
    if kind == "per_user" and interactions.order == "none":
        raise InputError("split 'per_user' needs a timestamp or position column; use data.split=auto")
    return kind


def split(interactions: Interactions, positive: np.ndarray, kind: str = "auto", seed: int = 0) -> np.ndarray:
    """int8 [N] of FIT, TRAIN, VALID, TEST.

    chronological: the earliest 80% of all interactions train, the next 10% validate, the latest 10% test
      (MMA §4.1). Interactions that share a boundary's timestamp go to the earlier part. TRAIN is the
      last eighth of the training part in time.
    per_user: of each user's positives in order, the last tenth (at least one) tests, the tenth before
      (at least one) validates; users with fewer than 4 positives only train. TRAIN is the last eighth
      (at least one) of a user's training positives, where there are 3 or more. An interaction that is
      not positive goes with the positive before it.
    given: the source's own. TRAIN is sliced by time or per user as above where there is an order, else
      it is a random eighth drawn with `seed`.

    Raises InputError where the data cannot support the kind, or a part would hold no positive.
    """
    kind = resolve_kind(interactions, kind)
    if kind == "chronological":
        parts = _chronological(interactions)
    elif kind == "per_user":
        parts = _per_user(interactions, positive)
    else:
        parts = np.where(interactions.given_split == TRAIN, FIT, interactions.given_split).astype(np.int8)

    training = parts == FIT
    if interactions.order == "none":
        late = _random_slice(training, seed)
    elif interactions.order == "timestamp" and kind != "per_user":
        late = _late_slice(interactions.time, training)
    else:
        late = _late_slice_per_user(interactions, positive & training)
    parts[training & late] = TRAIN
    _require_all_parts(parts[positive], kind)
    return parts


def _chronological(interactions: Interactions) -> np.ndarray:
    time = interactions.time
    parts = np.full(len(time), FIT, np.int8)
    parts[time > _quantile(time, HELD_OUT - 2, HELD_OUT)] = VALID
    parts[time > _quantile(time, HELD_OUT - 1, HELD_OUT)] = TEST
    return parts


def _quantile(time: np.ndarray, numerator: int, denominator: int) -> float:
    """The time of the last interaction in the earliest numerator/denominator of them (rounded up)."""
    count = -(-len(time) * numerator // denominator)
    return np.partition(time, count - 1)[count - 1] if len(time) else np.inf


def _per_user(interactions: Interactions, positive: np.ndarray) -> np.ndarray:
    rank, total = _user_ranks(interactions, positive)
    held_out = np.where(total >= MIN_TO_HOLD_OUT, np.maximum(1, total // HELD_OUT), 0)
    parts = np.full(len(interactions), FIT, np.int8)
    parts[rank > total - 2 * held_out] = VALID
    parts[rank > total - held_out] = TEST
    return parts


def _late_slice(time: np.ndarray, training: np.ndarray) -> np.ndarray:
    return time > _quantile(time[training], SLICE - 1, SLICE)


def _late_slice_per_user(interactions: Interactions, counted: np.ndarray) -> np.ndarray:
    rank, total = _user_ranks(interactions, counted)
    late = np.where(total >= MIN_TO_SLICE, np.maximum(1, total // SLICE), 0)
    return rank > total - late


def _random_slice(training: np.ndarray, seed: int) -> np.ndarray:
    rows = np.flatnonzero(training)
    late = np.zeros(len(training), bool)
    late[np.random.default_rng(seed).choice(rows, len(rows) // SLICE, replace=False)] = True
    return late


def _user_ranks(interactions: Interactions, counted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """rank [N]: how many of the user's counted interactions lie at or before this one; total [N]: how many in all.

    Order is by time, and by row where times are equal.
    """
    order = np.lexsort((interactions.time, interactions.user))
    user = interactions.user[order]
    running = np.concatenate([[0], np.cumsum(counted[order])])
    before = running[np.searchsorted(user, user, "left")]
    rank, total = np.empty((2, len(user)), np.int64)
    rank[order] = running[1:] - before
    total[order] = running[np.searchsorted(user, user, "right")] - before
    return rank, total


def _require_all_parts(parts: np.ndarray, kind: str) -> None:
    empty = [name for part, name in PART_NAMES.items() if not (parts == part).any()]
    if empty:
        raise InputError(
            f"the {kind} split leaves no positive interaction in {', '.join(empty)}:"
            " too few interactions, too many equal times, or too high a rating threshold"
        )
