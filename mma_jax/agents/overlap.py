"""Deterministic evidence scorers: lexical, tag and neighbour overlap (RuleRouter-Fuse, MMA §4.1 (5)).

Each reads only what the agent's own history says and returns float64 [B], one score per candidate.
"""

from __future__ import annotations

import re

import numpy as np

from mma_jax.agents.notes import Notes
from mma_jax.features.text import tokenize

_LISTED = re.compile(r"(?:says|first:) ([^;.]+)")


def candidate_text(notes: Notes, n: int) -> str:
    """What is known of a candidate's text: the tool's answer if it was given, else the prompt's summary."""
    answer = notes.got("text") or {}
    item = answer.get("items", {}).get(notes.handles[n])
    return " ".join(item.values()) if isinstance(item, dict) else notes.summaries[n].get("text", "")


def candidate_tags(notes: Notes, n: int) -> list[str]:
    """What is known of a candidate's image tags, best first."""
    answer = notes.got("image") or {}
    item = answer.get("items", {}).get(notes.handles[n])
    if isinstance(item, list):
        return item
    return [tag.strip() for tag in notes.summaries[n].get("image", "").split(",") if tag.strip()]


def said(notes: Notes) -> set[str]:
    """What the user named when asked (MMA-Interactive): the lists in "the title says a, b; …" or "…first: a, b"."""
    answer = (notes.answers.get("Ask_User") or {}).get("answer", "")
    return {part.strip() for listed in _LISTED.findall(answer) for part in listed.split(",")}


def lexical(notes: Notes) -> np.ndarray:
    """Shared distinct words of profile and candidate, over the root of the candidate's length."""
    profile = {word for field in notes.got("text")["profile"].values() for word in field} | said(notes)
    scores = np.zeros(len(notes.handles))
    for n in range(len(scores)):
        own = set(tokenize(candidate_text(notes, n)))
        scores[n] = len(own & profile) / max(len(own), 1) ** 0.5
    return scores


def tags(notes: Notes) -> np.ndarray:
    """How often the candidate's tags occur in the user's visual profile."""
    profile, stressed = notes.got("image")["profile"], said(notes)
    return np.array(
        [
            sum(profile.get(tag, 0) + (tag in stressed) for tag in candidate_tags(notes, n))
            for n in range(len(notes.handles))
        ]
    )


def neighbors(notes: Notes) -> np.ndarray:
    """Neighbours of the user that stand near the candidate in the graph, nearer neighbours counting more."""
    place = {handle: n for n, handle in enumerate(notes.handles)}
    scores = np.zeros(len(place))
    for order, neighbor in enumerate(notes.got("behavior")["neighbors"]):
        for handle in neighbor["near"]:
            scores[place[handle]] += 1 / (1 + order)
    return scores


SCORERS = {"text": lexical, "image": tags, "behavior": neighbors}


def fused(notes: Notes) -> np.ndarray:
    """Sum of the min–max normalised scores of every source that answered; zeros if none did."""
    total = np.zeros(len(notes.handles))
    for modality, scorer in SCORERS.items():
        if notes.got(modality):
            scores = scorer(notes).astype(float)
            span = scores.max() - scores.min()
            total += (scores - scores.min()) / span if span > 0 else 0.0
    return total
