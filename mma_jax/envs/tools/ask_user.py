"""Ask_User: an idealized user who speaks only of what survives (MMA §3.2, MMA-Interactive)."""

from __future__ import annotations

from typing import Any, Literal

from mma_jax.envs.evidence import Evidence
from mma_jax.envs.tools.retrieve_graph import retrieve_graph
from mma_jax.types import Case

_WORDS = 5


def ask_user(
    evidence: Evidence,
    case: Case,
    modality_type: Literal["text", "image", "behavior"],
    query: str,
    *,
    graph_titles: bool,
) -> dict[str, Any] | None:
    """Ask the user about their taste; they answer from what is known of that modality. Costs most.

    Returns {"answer": sentence}, or None if the modality is missing. The sentence is made from the profile
    that the modality's own tool would show, and is the same however the `query` is worded.
    """
    if not evidence.observes(case, modality_type):
        return None
    if modality_type == "text":
        return {"answer": _about_text(evidence.text_profile(case.history))}
    if modality_type == "image":
        return {"answer": _about_image(evidence.image_profile(case.history))}
    return {
        "answer": _about_behavior(
            retrieve_graph(evidence, case, "u", graph_titles=graph_titles, graph_counts=False)["neighbors"]
        )
    }


def _about_text(profile: dict[str, dict[str, int]]) -> str:
    parts = [f"the {field} says {', '.join(list(words)[:_WORDS])}" for field, words in profile.items() if words]
    return f"In what I liked, {'; '.join(parts)}." if parts else "What I liked says nothing about it."


def _about_image(profile: dict[str, int]) -> str:
    tags = ", ".join(list(profile)[:_WORDS])
    return f"What I liked looks, most often first: {tags}." if tags else "What I liked shows nothing of it."


def _about_behavior(neighbors: list[dict[str, Any]]) -> str:
    parts = [f"{n['title']} (near {', '.join(n['near']) or 'none'})" for n in neighbors[:_WORDS]]
    return f"With what I liked, people also take: {'; '.join(parts)}." if parts else "Nothing goes with what I liked."
