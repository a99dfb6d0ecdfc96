"""Tiny hand-made evidence: eight items whose every field is known, for tests that need no data; and a language model
that says what a test tells it to."""

from __future__ import annotations

import types
from collections.abc import Callable

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


class CharTokenizer:
    """One id per ASCII character, behind the control tokens; a template like Llama 3's."""

    control = ("<s>", "<end>", "<system>", "<user>", "<assistant>", "<tool>", "<stop>")
    vocab_size = len(control) + 128
    stop_ids = (1, 6)
    names = {"bos_token": "<s>", "eos_token": "<end>"}  # noqa: RUF012
    template = (
        "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )

    def encode(self, text):
        return [len(self.control) + ord(character) % 128 for character in text]

    def encode_control(self, text):
        for n, name in enumerate(self.control):
            if name in text:
                before, _, after = text.partition(name)
                return [*self.encode_control(before), n, *self.encode_control(after)]
        return self.encode(text)

    def decode(self, ids):
        return "".join(chr(i - len(self.control)) for i in ids if i >= len(self.control))

    def show(self, ids):
        """Like `decode`, with the control tokens' names."""
        return "".join(self.control[i] if i < len(self.control) else chr(i - len(self.control)) for i in ids)


class ScriptedSampler:
    """A sampler whose completions are `say(what the row has read and written)`; an end token follows if there is room.

    `sessions` are those opened. Each has `ids`, per row all that a cache would hold or get with the next extension,
    and `calls`, (rows, keys, temperature) of every sampling.
    """

    tokenizer = CharTokenizer()

    def __init__(self, say: Callable[[str], str]):
        self.say, self.sessions = say, []

    def open(self, state, rows, slots):
        self.sessions.append(ScriptedSession(self.say, rows, slots))
        return self.sessions[-1]


class ScriptedSession:
    def __init__(self, say, rows, slots):
        self.say, self.slots = say, slots
        self.ids = [[] for _ in range(rows)]
        self.calls = []

    def extend(self, rows, tokens):
        for row, ids in zip(rows, tokens, strict=True):
            self.ids[row] += ids

    def copy(self, sources, rows):
        for row, ids in zip(rows, [list(self.ids[source]) for source in sources], strict=True):
            self.ids[row] = ids

    def length(self, row):
        return len(self.ids[row])

    def truncate(self, rows, lengths):
        for row, length in zip(rows, lengths, strict=True):
            assert length <= len(self.ids[row])
            self.ids[row] = self.ids[row][:length]

    def sample(self, rows, keys, max_new, temperature):
        self.calls.append((list(rows), keys, temperature))
        limits = np.broadcast_to(max_new, len(rows))
        return [self._complete(row, limit) for row, limit in zip(rows, limits, strict=True)]

    def _complete(self, row, max_new):
        text = self.say(CharTokenizer().show(self.ids[row]))
        value = float(len(self.ids[row]))
        tokens = [*CharTokenizer().encode(text), CharTokenizer.stop_ids[0]][:max_new]
        self.ids[row] += tokens
        assert len(self.ids[row]) <= self.slots
        finished = tokens[-1] in CharTokenizer.stop_ids
        logprobs, forced, rules = [-0.5] * len(tokens), [False] * len(tokens), [0] * len(tokens)
        return types.SimpleNamespace(
            tokens=tokens, logprobs=logprobs, finished=finished, value=value, forced=forced, rules=rules
        )
