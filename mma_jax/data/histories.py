"""What a user is known to have liked before an interaction (the user's own evidence)."""

from __future__ import annotations

import numpy as np

from mma_jax.types import FIT, TEST, TRAIN, VALID, Interactions


class Histories:
    """The users' positive interactions in time order, as CSR arrays; a lookup is two binary searches.

    Args:
      interactions: of N rows.
      positive: bool [N], from `splits.positives`.
      parts: int8 [N], from `splits.split`.
    """

    def __init__(self, interactions: Interactions, positive: np.ndarray, parts: np.ndarray):
        self._user, self._item = interactions.user, interactions.item
        self._ordered = interactions.order != "none"
        # Without an order, a part stands for the time: each part's targets look back on the training
        # slices before it, and never on the part itself.
        moment = interactions.time if self._ordered else parts
        self._limit = moment if self._ordered else _FIRST_HIDDEN_PART[parts]

        rows = np.flatnonzero(positive)
        rows = rows[np.lexsort((moment[rows], self._user[rows]))]
        n_users = int(self._user.max(initial=-1)) + 1
        self._start = np.searchsorted(self._user[rows], np.arange(n_users + 1))
        self._moments = moment[rows]
        self._items = self._item[rows]
        self._training = parts <= TRAIN
        self._from_training = self._training[rows]

        width = int(self._item.max(initial=0)) + 1
        rows = rows[np.argsort(parts[rows], kind="stable")]  # of a repeated pair, its earliest part counts
        pairs, first = np.unique(self._user[rows].astype(np.int64) * width + self._item[rows], return_index=True)
        self._known_start = np.searchsorted(pairs // width, np.arange(n_users + 1))
        self._known = (pairs % width).astype(np.int32)
        self._known_part = parts[rows][first]

    def before(self, row: int) -> np.ndarray:
        """int32 [H]: the items the same user liked strictly before interaction `row`, oldest first.

        Any part counts for a row in VALID or TEST; for one in FIT or TRAIN only these two, for a given split may hold
        out what came earlier. Equal times are not before; of a repeated item the latest occurrence stays.
        Where the interactions have no order: the user's FIT items for a row in FIT or TRAIN, FIT and
        TRAIN items for a row in VALID or TEST, in row order within a part, without the row's own item.
        """
        start, end = self._start[self._user[row] : self._user[row] + 2]
        end = start + np.searchsorted(self._moments[start:end], self._limit[row], "left")
        items = self._items[start:end]
        if self._training[row]:
            items = items[self._from_training[start:end]]
        items = _keep_latest(items)
        return items if self._ordered else items[items != self._item[row]]

    def known(self, user: int, part: int = TEST) -> np.ndarray:
        """int32 [K], sorted: every item the user likes in `part` or an earlier one, to be kept out of the negatives.

        What comes in later parts stays unknown: left out of a training pool, it would tell the parameters of it.
        """
        start, end = self._known_start[user : user + 2]
        return self._known[start:end][self._known_part[start:end] <= part]


_FIRST_HIDDEN_PART = np.zeros(4, np.int8)
_FIRST_HIDDEN_PART[[FIT, TRAIN]] = TRAIN
_FIRST_HIDDEN_PART[[VALID, TEST]] = VALID


def _keep_latest(items: np.ndarray) -> np.ndarray:
    """The items without repetition, each at its last place."""
    _, from_end = np.unique(items[::-1], return_index=True)
    return items[np.sort(len(items) - 1 - from_end)]
