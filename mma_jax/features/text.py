"""Text evidence: what an item says about itself, and what a user's history says about the user (MMA §3.1–3.2).

A document is an item's title, categories, brand and description in that order; each of the four is a field.
I = items, V = distinct words of the catalog, H = length of a history.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import re
import unicodedata

import numpy as np

from mma_jax.features import storage
from mma_jax.types import Catalog

FIELDS = ("title", "category", "brand", "description")
"""Order of the fields inside a document."""

PROFILE_WORDS = {"title": 8, "category": 6, "description": 6}
"""How many words of each field a user's profile keeps."""

LEAST_ITEMS = 2
"""A word that fewer training items share tells a profile nothing: no candidate could match it."""

DESCRIPTION_CHARS = 160
"""Longest description an item shows; longer ones are cut at a word boundary."""

_STOP_TEXT = """
a about after all an and are as at be been but by can for from had has have he her his i if in into
is it its more no not of on or our out s she so t than that the their them then there they this to
up was we were what when which who will with you your
"""
STOP_WORDS = frozenset(_STOP_TEXT.split())


def _marks() -> str:
    """Ranges of the marks that are part of a letter, for a regular expression's class: vowel signs, accents and the
    like, but not variation selectors, which choose between looks of one character."""
    first, last = 0x300, 0x1FFFF
    kinds = (unicodedata.category(chr(code)) for code in range(first, last + 1))
    found = "".join("m" if kind in ("Mn", "Mc") else " " for kind in kinds)
    runs = (run.span() for run in re.finditer("m+", found))
    ranges = "".join(f"{chr(first + start)}-{chr(first + end - 1)}" for start, end in runs)
    return ranges.replace("\ufe00-\ufe0f", "")


_ASCII_WORD = re.compile(r"[^\W_]+")
_WORD = re.compile(rf"[^\W_]+(?:[{_marks()}]+[^\W_]*)*")
_HAN = "\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_KANA = "\u3041-\u309a\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff"
_UNSPACED = re.compile(f"[{_HAN}{_KANA}]+")


def tokenize(text: str) -> list[str]:
    """Lower-case words of `text` in order, without stop words; no stemming.

    A word is a run of Unicode letters and digits, with the marks they carry (vowels of Hindi or Thai, among others),
    after NFKC normalization, so "Café" and its decomposed spelling agree. Chinese and Japanese put no blanks between
    words: each two neighbors in a run of their characters are one word, and so is a character alone.
    """
    if text.isascii():  # the same words, sooner: most of a catalog is
        words = _ASCII_WORD.findall(text.lower())
    else:
        # Lower-case İ is i with a dot of its own: İstanbul and istanbul are one word.
        text = unicodedata.normalize("NFKC", text).lower().replace("i\u0307", "i")
        words = _WORD.findall(_UNSPACED.sub(_pairs, text))
    return [word for word in words if word not in STOP_WORDS]


def _pairs(run: re.Match) -> str:
    """Each two neighbors of a run, between blanks; a character alone as it is."""
    characters = run[0]
    return f" {' '.join(map(''.join, itertools.pairwise(characters))) or characters} "


@dataclasses.dataclass(frozen=True, eq=False)
class TextStore:
    """All text evidence of a catalog. Field f of item i occupies slot 4 i + f of the ragged arrays."""

    texts: dict[str, list[str]]  # field -> I strings as shown, "" where absent
    vocabulary: list[str]  # V words, sorted
    words: np.ndarray  # int32 [n] words of all slots, in reading order
    starts: np.ndarray  # int64 [4 I + 1]: slot s is words[starts[s] : starts[s + 1]]
    distinct_words: np.ndarray  # int32 [m] the same without repeats inside a slot
    distinct_starts: np.ndarray  # int64 [4 I + 1]
    idf: np.ndarray  # float64 [4, V] per field, from training items only; 0 for words too rare to compare by

    @functools.cached_property
    def has(self) -> np.ndarray:
        """bool [I]: the item has at least one word of text."""
        return self.starts[4::4] > self.starts[:-4:4]

    @functools.cached_property
    def documents(self) -> list[list[str]]:
        """I lists of words: the corpus for BM25."""
        return [self._document(item) for item in range(len(self.has))]

    def item(self, item: int) -> dict[str, str]:
        """The fields of one item as the tools show them; absent fields are left out."""
        return {field: self.texts[field][item] for field in FIELDS if self.texts[field][item]}

    def profile(self, history: np.ndarray) -> dict[str, dict[str, int]]:
        """Per field, the words that mark a history: top tf-idf, each with the number of items it occurs in.

        `history` is int32 [H]. The tf of a word is its number of items, so one long description cannot shout the
        others down; ties go to the alphabetically first word. Fields without words are left out.
        """
        profile = {}
        for field, size in PROFILE_WORDS.items():
            column = FIELDS.index(field)
            words, counts = np.unique(self._distinct_words(history, column), return_counts=True)
            best = np.argsort(-counts * self.idf[column, words], kind="stable")[:size]
            if len(best):
                profile[field] = {self.vocabulary[words[j]]: int(counts[j]) for j in best}
        return profile

    def query(self, history: np.ndarray, max_items: int = 20) -> list[str]:
        """Words of the `max_items` most recent items of a history (int32 [H], oldest first), as a BM25 query.

        Descriptions speak only for items that have nothing else: as query words they drown the telling ones
        (validation recall@100 on ml-100k .141 with them, .201 without).
        """
        return list(itertools.chain.from_iterable(self._query_words(item) for item in history[-max_items:]))

    def common(self) -> list[str]:
        """All words, those of most items first; of as many, those of an earlier field (a title's before others')."""
        slots = np.repeat(np.arange(len(self.distinct_starts) - 1), np.diff(self.distinct_starts))
        items, fields = np.divmod(slots, len(FIELDS))
        pairs = np.unique(np.stack([self.distinct_words, items]), axis=1)
        counts = np.bincount(pairs[0], minlength=len(self.vocabulary))
        first = np.full(len(self.vocabulary), len(FIELDS))
        np.minimum.at(first, self.distinct_words, fields)
        return [self.vocabulary[word] for word in np.lexsort((first, -counts))]

    def save(self, directory: str | os.PathLike) -> None:
        """Writes the store to a folder, replacing what was there."""
        names = ("words", "starts", "distinct_words", "distinct_starts", "idf")
        arrays = {name: getattr(self, name) for name in names}
        storage.save(directory, arrays, {"texts": self.texts, "vocabulary": self.vocabulary})

    def _document(self, item: int) -> list[str]:
        slot = len(FIELDS) * item
        words = self.words[self.starts[slot] : self.starts[slot + len(FIELDS)]]
        return [self.vocabulary[word] for word in words.tolist()]

    def _query_words(self, item: int) -> list[str]:
        slot = len(FIELDS) * item
        description = self.starts[slot + FIELDS.index("description")]
        return self._document(item)[: description - self.starts[slot]] or self._document(item)

    def _distinct_words(self, history: np.ndarray, column: int) -> np.ndarray:
        slots = len(FIELDS) * np.asarray(history, np.int64) + column
        begins, ends = self.distinct_starts[slots].tolist(), self.distinct_starts[slots + 1].tolist()
        parts = [self.distinct_words[begin:end] for begin, end in zip(begins, ends, strict=True)]
        return np.concatenate(parts) if parts else np.zeros(0, np.int32)


def build(catalog: Catalog, train_items: np.ndarray) -> TextStore:
    """Tokenizes a catalog; document frequencies count only items of training interactions (`train_items` bool [I])."""
    texts = {
        "title": catalog.title,
        "category": catalog.categories,
        "brand": catalog.brand,
        "description": catalog.description,
    }
    slots = [tokenize(texts[field][item]) for item in range(len(catalog)) for field in FIELDS]
    vocabulary = sorted(set(itertools.chain.from_iterable(slots)))
    ids = {word: row for row, word in enumerate(vocabulary)}
    words = np.array([ids[word] for slot in slots for word in slot], np.int32)
    lengths = np.array([len(slot) for slot in slots], np.int64)
    slot_of_word = np.repeat(np.arange(len(slots)), lengths)
    distinct_slots, distinct_words = _unique_pairs(slot_of_word, words, len(vocabulary))
    shown = {field: [text.strip() for text in texts[field]] for field in FIELDS}
    shown["description"] = [_shorten(text) for text in shown["description"]]
    return TextStore(
        texts=shown,
        vocabulary=vocabulary,
        words=words,
        starts=_starts(lengths),
        distinct_words=distinct_words.astype(np.int32),
        distinct_starts=_starts(np.bincount(distinct_slots, minlength=len(slots))),
        idf=_idf(distinct_slots, distinct_words, train_items, len(vocabulary)),
    )


def load(directory: str | os.PathLike) -> TextStore:
    """Reads what `TextStore.save` wrote; the arrays stay on disk until touched."""
    arrays, strings = storage.load(directory)
    return TextStore(**arrays, **strings)


def _starts(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _unique_pairs(slots: np.ndarray, words: np.ndarray, n_words: int) -> tuple[np.ndarray, np.ndarray]:
    """Each (slot, word) once, by slot and then by word."""
    return np.divmod(np.unique(slots * np.int64(n_words) + words), max(n_words, 1))


def _idf(slots: np.ndarray, words: np.ndarray, train_items: np.ndarray, n_words: int) -> np.ndarray:
    """log((n + 1) / (df + 1)) per field, n = training items; words of all items or of too few weigh nothing."""
    items, columns = np.divmod(slots, len(FIELDS))
    seen = np.asarray(train_items, bool)[items]
    frequency = np.bincount(columns[seen] * n_words + words[seen], minlength=len(FIELDS) * n_words)
    frequency = frequency.reshape(len(FIELDS), n_words)
    return np.where(frequency < LEAST_ITEMS, 0.0, np.log((np.sum(train_items) + 1) / (frequency + 1)))


def _shorten(text: str) -> str:
    """At most DESCRIPTION_CHARS characters, cut after a whole word where there is one, marked by "…"."""
    if len(text) <= DESCRIPTION_CHARS:
        return text
    head = text[:DESCRIPTION_CHARS]  # one character goes to the ellipsis
    return (head[: head.rfind(" ")] if " " in head else head[:-1]).rstrip(" ,;:.") + "…"
