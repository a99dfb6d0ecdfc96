"""Evidence-linear: a logistic regression on what the tools answered (DESIGN §7, the cheapest first check).

The method of that name plays the route of RuleRouter-Fuse and differs from it in one thing only: how the same
evidence becomes a score. Its margin over the router is what a learned scorer can win; an agent that does not reach it
has not read its evidence.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import numpy as np
from scipy import sparse

from mma_jax.agents import choice, overlap, routers
from mma_jax.agents.notes import Notes
from mma_jax.agents.rollout import play
from mma_jax.envs.environment import Environment
from mma_jax.features.text import tokenize
from mma_jax.types import Episode, Policy

HASHED = 2048
"""Columns for single evidence words: which words of a profile predict, and how much, is learned."""


def dense_features(notes: Notes) -> np.ndarray:
    """First-stage score and rank, how often taken, each source's overlap: float64 [B, 6], zeros where silent."""
    taken = (notes.got("behavior") or {}).get("taken", {})
    columns = [
        notes.first_stage,
        1 / np.log2(1.0 + notes.ranks),
        np.log1p([taken.get(handle, 0) for handle in notes.handles]),
    ]
    for modality, scorer in overlap.SCORERS.items():
        columns.append(scorer(notes) if notes.got(modality) else np.zeros(len(notes.handles)))
    return np.stack(columns, axis=1).astype(float)


def matches(notes: Notes, n: int) -> dict[str, float]:
    """Named evidence of candidate n: profile words it shares (by field), weighted by their share of the profile."""
    found: dict[str, float] = {}
    if text := notes.got("text"):
        own = set(tokenize(overlap.candidate_text(notes, n)))
        for field, profile in text["profile"].items():
            total = sum(profile.values())
            shared = {word: count / total for word, count in profile.items() if word in own}
            found[f"text:{field}"] = sum(shared.values())
            found |= {f"text:{field}:{word}": share for word, share in shared.items()}
    if image := notes.got("image"):
        profile = image["profile"]
        total = max(sum(profile.values()), 1)
        for place, tag in enumerate(overlap.candidate_tags(notes, n)):
            share = profile.get(tag, 0) / total
            found["image"] = found.get("image", 0.0) + share
            found[f"image:{place}"] = share
            found[f"image:{tag}"] = share
    return found


def features(notes: Notes) -> sparse.csr_matrix:
    """All evidence of one pool, CSR [B, 6 + HASHED]."""
    rows, columns, values = [], [], []
    for n in range(len(notes.handles)):
        for name, value in matches(notes, n).items():
            rows.append(n)
            columns.append(zlib.crc32(name.encode()) % HASHED)
            values.append(value)
    hashed = sparse.csr_matrix((values, (rows, columns)), shape=(len(notes.handles), HASHED))
    return sparse.hstack([dense_features(notes), hashed]).tocsr()


def fit(
    env: Environment, train: Sequence[Episode], route: Callable[[routers.Scorer], Policy], l2: float = 100.0
) -> routers.Scorer:
    """The scorer that a route earns: play it on training episodes, fit the regression on what was heard.

    train: episodes with the target in the pool. route: scorer -> policy; what is fitted knows the evidence of that
    route.
    """
    heard: list[sparse.csr_matrix] = []

    def keep(notes: Notes) -> np.ndarray:
        heard.append(features(notes))
        return notes.first_stage

    play(route(keep), env, train, batch=1, label="evidence of training episodes")  # one by one, so in order
    targets = np.array([e.target_position for e in train])
    model = choice.fit(sparse.vstack(heard).tocsr(), targets, len(train[0].case.pool), l2)
    return lambda notes: model.scores(features(notes))
