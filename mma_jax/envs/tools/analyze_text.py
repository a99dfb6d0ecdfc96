"""Analyze_Text: what items say about themselves (MMA §3.2)."""

from __future__ import annotations

from typing import Any

from mma_jax.envs.evidence import Evidence
from mma_jax.envs.tools.schema import All, Handle, asked
from mma_jax.types import Case

NO_TEXT = "no text"


def analyze_text(evidence: Evidence, case: Case, item_id: Handle | list[Handle] | All) -> dict[str, Any] | None:
    """Title, category, description of candidates; the first call adds the words of the user's history.

    Returns {"profile": {field: {word: count}}, "items": {handle: {field: text} | "no text"}}, or None if
    text is missing. Several ids in one call, or "all", are an extension of the paper's one.
    """
    if not evidence.observes(case, "text"):
        return None
    rows = asked(item_id, len(case.pool))
    items = {handle: evidence.text_item(int(case.pool[row])) or NO_TEXT for handle, row in rows.items()}
    return {"profile": evidence.text_profile(case.history), "items": items}
