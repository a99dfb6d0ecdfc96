"""Dataset statistics, the columns of Table 2 of the MMA paper and what else a reader must know."""

from __future__ import annotations

import numpy as np

from mma_jax.data.records import TEXT_FIELDS
from mma_jax.types import FIT, TEST, TRAIN, VALID, Catalog, Dataset

PARTS = {"evidence (FIT)": FIT, "training targets (TRAIN)": TRAIN, "validation": VALID, "test": TEST}
FIELDS = (*TEXT_FIELDS, "images")


def statistics(dataset: Dataset, positive: np.ndarray, parts: np.ndarray) -> list[tuple[str, str]]:
    """Rows (label, value): Table 2's columns, positives, order, interactions per part, items per field, problems.

    Args:
      dataset: with N interactions.
      positive: bool [N], from `splits.positives`.
      parts: int8 [N], from `splits.split`.

    Sparsity is the share of (user, item) cells without an interaction, in percent.
    """
    n_users, n_items, log = len(dataset.users), len(dataset.catalog), dataset.interactions
    cells = len(np.unique(log.user.astype(np.int64) * n_items + log.item))  # a repeated interaction fills one
    return [
        ("dataset", dataset.name),
        ("#users", f"{n_users:,}"),
        ("#items", f"{n_items:,}"),
        ("#inter.", f"{len(log):,}"),
        ("sparsity", f"{1 - cells / (n_users * n_items):.2%}"),
        ("positives", f"{positive.sum():,} ({positive.mean():.1%})"),
        ("order", log.order),
        *((label, _part(positive[parts == part])) for label, part in PARTS.items()),
        *((f"items with {field}", _share(dataset.catalog, field)) for field in FIELDS),
        *(("problem", problem) for problem in dataset.problems or ("none",)),
    ]


def _part(positive: np.ndarray) -> str:
    return f"{len(positive):,} ({positive.sum():,} positive)"


def _share(catalog: Catalog, field: str) -> str:
    has = sum(map(bool, getattr(catalog, field)))
    return f"{has:,} ({has / len(catalog):.1%})"
