"""Analyze_Image: the top-5 zero-shot tags of items' pictures (MMA §3.2)."""

from __future__ import annotations

from typing import Any

from mma_jax.envs.evidence import Evidence
from mma_jax.envs.tools.schema import All, Handle, asked
from mma_jax.types import Case

NO_IMAGE = "no image"


def analyze_image(evidence: Evidence, case: Case, item_id: Handle | list[Handle] | All) -> dict[str, Any] | None:
    """Tags of candidates' pictures; the first call adds the tags of the user's history.

    Returns {"profile": {tag: count}, "items": {handle: [tag, ...] | "no image"}}, or None if images are
    missing. Several ids in one call, or "all", are an extension of the paper's one.
    """
    if not evidence.observes(case, "image"):
        return None
    rows = asked(item_id, len(case.pool))
    items = {handle: evidence.tags(int(case.pool[row])) or NO_IMAGE for handle, row in rows.items()}
    return {"profile": evidence.image_profile(case.history), "items": items}
