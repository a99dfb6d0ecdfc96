"""Tiny hand-made evidence: eight items whose every field is known, for tests that need no data."""

from __future__ import annotations

import numpy as np

from mma_jax.envs.evidence import Evidence
from mma_jax.types import FAMILIES, Case, Episode

TITLES = ("red nail polish", "blue nail polish", "lip balm", "hair dryer", "", "eye liner", "face cream", "sun screen")
TAGS = (
    ("red", "gloss", "bottle", "small", "cap"),
    ("blue", "gloss", "bottle", "small", "cap"),
    ("white", "tube", "matte", "small", "round"),
    ("black", "metal", "cord", "large", "grip"),
    ("green", "plain", "box", "flat", "wide"),
    (),
    ("white", "jar", "round", "plain", "lid"),
    ("orange", "tube", "matte", "tall", "cap"),
)
NEIGHBORS = np.array(
    [[1, 2, -1], [0, -1, -1], [6, 0, -1], [-1, -1, -1], [7, -1, -1], [6, 2, -1], [2, 5, 7], [6, -1, -1]], np.int32
)
FORBIDDEN = "the-hidden-answer"


class TextDouble:
    """Item 4 has no text."""

    def __init__(self, titles=TITLES, description="good and long lasting"):
        self.titles = titles
        self.description = description
        self.has = np.array([bool(title) for title in titles])

    def item(self, i):
        return {"title": self.titles[i], "category": "Beauty > Care", "description": self.description, "brand": "B"}

    def profile(self, history):
        counts: dict[str, int] = {}
        for i in history:
            for word in self.titles[i].split():
                counts[word] = counts.get(word, 0) + 1
        return {"title": counts, "category": {"care": len(history)}, "description": {}}


class ImageDouble:
    """Item 5 has no picture."""

    has = np.array([bool(tags) for tags in TAGS])

    def tags(self, i):
        return list(TAGS[i])

    def profile(self, history):
        counts: dict[str, int] = {}
        for i in history:
            for tag in TAGS[i]:
                counts[tag] = counts.get(tag, 0) + 1
        return counts


class GraphDouble:
    neighbors = NEIGHBORS
    popularity = np.array([5, 3, 2, 0, 1, 7, 4, 6] + 92 * [0], np.int32)


def search_graph(history, k):
    """The neighbours of the history's items, the history itself first, as an index would."""
    found = [*history, *(n for i in history for n in NEIGHBORS[i] if n >= 0)]
    unique = list(dict.fromkeys(int(i) for i in found))[:k]
    return np.array(unique + [-1] * (k - len(unique)), np.int32)


def evidence() -> Evidence:
    return Evidence(TextDouble(), ImageDouble(), GraphDouble(), search_graph)


def case(pool=(3, 1, 4, 6), history=(0, 2), mask=(True, True, True), scores=None) -> Case:
    scores = np.linspace(1, 0, len(pool)) if scores is None else np.asarray(scores)
    return Case(
        pool=np.array(pool, np.int32),
        scores=scores.astype(np.float32),
        ranks=np.arange(1, len(pool) + 1, dtype=np.int32),
        history=np.array(history, np.int32),
        mask=mask,
    )


def episode(target=1, family="full", protocol="ooma", **changes) -> Episode:
    """Pool (3, 1, 4, 6) with handles 1 to 4 and s0 1, 2/3, 1/3, 0; the default target is handle 2."""
    changes.setdefault("mask", FAMILIES[family])
    return Episode(
        episode_id=FORBIDDEN,
        case=case(**changes),
        user=0,
        target=target,
        family=family,
        protocol=protocol,
        recalled=True,
    )
