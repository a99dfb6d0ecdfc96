"""What the environment knows about items and users, cleaned and remembered.

No leak by construction: everything here is a function of items and of a `Case`, and a `Case` holds no
target. Tools get `(evidence, case)` and never the `Episode` that knows the answer (MMA §3.1).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Protocol

import numpy as np

from mma_jax.types import MODALITIES, Case

TITLE_CHARS = 120
CATEGORY_CHARS = 120
DESCRIPTION_CHARS = 160
TOP_NEIGHBORS = 10
UNTITLED = "untitled"

_FIELD_CHARS = {"title": TITLE_CHARS, "category": CATEGORY_CHARS, "description": DESCRIPTION_CHARS}
_TEMPLATE_MARKER = re.compile(r"<\|[^<>|]*\|>")
_ITEMS_REMEMBERED = 1 << 16
_HISTORIES_REMEMBERED = 1 << 14


class TextSource(Protocol):
    """Item text. `has` bool [I]; `item` gives fields among title, category, description, brand."""

    has: np.ndarray

    def item(self, i: int) -> dict[str, str]: ...
    def profile(self, history: np.ndarray) -> dict[str, dict[str, int]]: ...


class ImageSource(Protocol):
    """Item pictures. `has` bool [I]; `tags` are an item's top-5 zero-shot tags, `profile` counts them."""

    has: np.ndarray

    def tags(self, i: int) -> list[str]: ...
    def profile(self, history: np.ndarray) -> dict[str, int]: ...


class GraphSource(Protocol):
    """Item-item collaborative graph. `neighbors` int32 [I, M], strongest first, padded with -1; `popularity`
    int [I], how often each item was taken in training."""

    neighbors: np.ndarray
    popularity: np.ndarray


GraphSearch = Callable[[np.ndarray, int], np.ndarray]
"""(history int32 [H], k) -> int32 [<= k] items, most relevant first; -1 where there are no more."""


def clean(text: str) -> str:
    """One printable line: no control characters, no line breaks, no chat-template markers `<|...|>`.

    A marker becomes a space, so that removing one cannot join its surroundings into another; what is
    left of an unbalanced one is pulled apart.
    """
    text = _TEMPLATE_MARKER.sub(" ", text).replace("<|", "< |").replace("|>", "| >")
    if not text.isprintable():
        text = "".join(c if c.isprintable() else " " for c in text)
        # Between the two halves of a marker there may have been an unprintable character.
        text = text.replace("<|", "< |").replace("|>", "| >")
    return " ".join(text.split())


def cut(text: str, chars: int) -> str:
    """The first `chars` characters of `text`, ending with a whole word where there is one."""
    if len(text) <= chars:
        return text
    return text[: chars + 1].rpartition(" ")[0] or text[:chars]


class Evidence:
    """The stores of a dataset, any of which may be None, behind caches keyed by item or by history.

    Every string it hands out is clean and bounded. What it returns is shared: do not modify it.
    """

    def __init__(
        self,
        text: TextSource | None = None,
        image: ImageSource | None = None,
        graph: GraphSource | None = None,
        search_graph: GraphSearch | None = None,
    ):
        self.graph = graph
        self._text = text
        self._image = image
        self._search_graph = search_graph
        self._has_text = text.has if text is not None else None  # once: a store may compute it
        self._has_image = image.has if image is not None else None
        self._present = (text is not None, image is not None, graph is not None and search_graph is not None)
        remember_items = functools.lru_cache(_ITEMS_REMEMBERED)
        remember_histories = functools.lru_cache(_HISTORIES_REMEMBERED)
        self.text_item = remember_items(self._text_item)
        self.tags = remember_items(self._tags)
        self._text_profiles = remember_histories(self._text_profile)
        self._image_profiles = remember_histories(self._image_profile)
        self._neighbors = remember_histories(self._search)

    def observes(self, case: Case, modality: str) -> bool:
        """Whether `modality` survives in this case: its mask is 1 and the dataset has it at all."""
        k = MODALITIES.index(modality)
        return case.mask[k] and self._present[k]

    def _text_item(self, i: int) -> dict[str, str] | None:
        """Title, category and description of item i, those it has; None without any text."""
        if not self._has_text[i]:
            return None
        fields = self._text.item(i)
        cleaned = {name: cut(clean(fields[name]), chars) for name, chars in _FIELD_CHARS.items() if name in fields}
        return {name: value for name, value in cleaned.items() if value}

    def _tags(self, i: int) -> list[str] | None:
        """The tags of item i's picture; None without a picture."""
        return [clean(tag) for tag in self._image.tags(i)] if self._has_image[i] else None

    def title(self, i: int) -> str:
        """Item i's title, "untitled" if it has none. Graph answers show it even where text is masked (§3.2)."""
        fields = self.text_item(i) if self._text is not None else None
        return (fields or {}).get("title", UNTITLED)

    def text_profile(self, history: np.ndarray) -> dict[str, dict[str, int]]:
        """Per field, the words of the user's earlier items with their counts, most telling first."""
        return self._text_profiles(_key(history))

    def image_profile(self, history: np.ndarray) -> dict[str, int]:
        """Tags of the user's earlier items with their counts, most frequent first."""
        return self._image_profiles(_key(history))

    def neighbors(self, history: np.ndarray) -> np.ndarray:
        """int32 [<= 10]: the ANN neighbours of the user's earlier items, none of which is among them."""
        return self._neighbors(_key(history))

    def linked(self, items: np.ndarray, pool: np.ndarray) -> np.ndarray:
        """bool [n, B]: items[k] is pool[j], or one of the two is among the graph neighbours of the other."""
        graph = self.graph.neighbors
        same = items[:, None] == pool
        forward = (graph[items][:, :, None] == pool).any(1)
        backward = (graph[pool] == items[:, None, None]).any(2)
        return same | forward | backward

    def counts(self, pool: np.ndarray) -> dict[str, int]:
        """Handle -> how often that candidate was taken in training, or, where pairs are the graph, how many list it."""
        return {str(j): int(n) for j, n in enumerate(self.graph.popularity[pool], start=1)}

    def _text_profile(self, key: bytes) -> dict[str, dict[str, int]]:
        profile = self._text.profile(np.frombuffer(key, np.int32))
        return {clean(field): _counts(words) for field, words in profile.items()}

    def _image_profile(self, key: bytes) -> dict[str, int]:
        return _counts(self._image.profile(np.frombuffer(key, np.int32)))

    def _search(self, key: bytes) -> np.ndarray:
        history = np.frombuffer(key, np.int32)
        # Ask for enough to be left with ten when the search returns the history itself.
        found = np.asarray(self._search_graph(history, TOP_NEIGHBORS + len(history)), np.int32)
        return found[(found >= 0) & ~np.isin(found, history)][:TOP_NEIGHBORS]


def _key(history: np.ndarray) -> bytes:
    return np.ascontiguousarray(history, np.int32).tobytes()


def _counts(words: dict[str, int]) -> dict[str, int]:
    return {clean(word): int(count) for word, count in words.items()}
