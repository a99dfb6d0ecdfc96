"""What every part of the page is, and how the parts print protocols and figures."""

from __future__ import annotations

import dataclasses
from typing import Any

from mma_jax.reports.tables import Table

PROTOCOLS = {
    "ooma": (
        "One observed modality (OOMA), target-positive pool",
        "Only one modality survives, and the agent is not told which. The target is in every pool, so this measures "
        "the order within a pool and nothing about retrieval.",
    ),
    "lomo": (
        "Leave one modality out (LOMO), target-positive pool",
        "All modalities, or all but one. The target is in every pool.",
    ),
    "full_catalog": (
        "Full catalog, fixed pool",
        "The first stage’s top candidates as they are: a target that it did not find counts as zero, for every method "
        "alike, so recall at the pool’s size is the same for all that share it.",
    ),
    "interactive": (
        "With clarification questions",
        "Ask_User is allowed and answers from surviving evidence: an upper bound, not a deployment claim.",
    ),
    "stress_wrong": (
        "Stress: wrong evidence",
        "The episodes of OOMA with tools that lie: another user’s profile and neighbors, and the items’ facts permuted "
        "among the handles. Null stays Null and the prompt is unchanged.",
    ),
    "stress_stale": (
        "Stress: stale evidence",
        "The episodes of OOMA with tools that know the older half of the user’s history only.",
    ),
}
"""Title and lead of each protocol, in the order of the page."""


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the page; tables.md and tables.tex take its tables and leave the figures."""

    slug: str  # of a-z, 0-9 and hyphens: it becomes an id
    title: str
    lead: str  # shown above the parts, if there are any
    parts: tuple[Table | str, ...]  # tables, and HTML that is safe already
    absent: str = ""  # what is missing and which run makes it


def short(protocol: str) -> str:
    """Its name in captions."""
    return {"ooma": "OOMA", "lomo": "LOMO"}.get(protocol, protocol.replace("_", " ").capitalize())


def figure(value: Any, form: str = "{:.4f}") -> str:
    """A fraction in the given form, anything else in words, nothing for None and nan."""
    if value is None or value != value:
        return ""
    return form.format(value) if isinstance(value, float) else str(value)
