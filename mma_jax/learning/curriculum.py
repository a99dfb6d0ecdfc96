"""What the tiny base model learns before it sees an episode: generated text that teaches one skill after the other.

    match    a profile of words with numbers, then words, each followed by its number in the profile; 0 where neither it
             nor a synonym occurs
    reading  a profile of words with numbers, then entries. While it reads, the model is asked what it thinks: behind
             every word that word's number, and there and behind the entry the sum so far (count) and the handle. What
             it is asked is not in the text, so it costs no tokens and the text keeps the form that tools give it
    scoring  the same, and then the map of the entries' sums in the order of their handles
    lookup   the same with the sums written behind the entries, to be copied
    taken    a map of numbers, then lists of handles; answered by a map of the numbers' levels, more for the listed
    schema   one line of JSON that calls the tool asked for, by its name or by the mark of what it reads

The texts have the environment's own forms (JSON of tools, candidate lines, score maps) and the words of the generated
world's language, or those and a catalog's, drawn at random: no item, user, pool, route or reward is in them, and a
document never goes on from a tool call to a score.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from mma_jax.data.generated import DEPARTMENTS, FILLERS, LEXICON, PRODUCTS
from mma_jax.data.render import ATTRIBUTES
from mma_jax.envs.options import Options
from mma_jax.envs.prompts import MARKERS, system_message
from mma_jax.envs.tools import TERMINAL, toolbox
from mma_jax.features.tags import MOVIE_GENRES

LEVELS = (1, 2, 3, 4, 6, 8, 11, 15, 20)
"""A sum of numbers becomes a level 0..9: how many of these it reaches. Exact for small sums, coarse for large ones."""

SYNONYMS = tuple(tuple(line.split()) for lines in LEXICON.values() for line in lines)
_LOOKS = tuple(word for words in ATTRIBUTES.values() for word in words)
_PLAIN = (*PRODUCTS, *DEPARTMENTS, *FILLERS, *_LOOKS, *(word.lower() for word in MOVIE_GENRES if word.isalpha()))

TOPICS: tuple[tuple[str, ...], ...] = (
    *SYNONYMS,
    *((word,) for word in dict.fromkeys(_PLAIN) if all(word not in topic for topic in SYNONYMS)),
)
"""Words of one meaning, each word once; those with synonyms first."""

FIELDS = ("title", "category", "description")

OWNER, WORD, SUM, TOTAL, HANDLE = "owner", "word", "sum", "total", "handle"
"""Kinds of thoughts: the word that a number of the profile belongs to; a word's level, its entry's so far, its entry's
at the end, the entry's handle."""

MOST = 21
"""Entries of a document."""

EACH = 9
"""Topics with synonyms, and as many without, that a document of texts has."""

SAID = {
    WORD: [f" {n}" for n in range(10)],
    SUM: [f'":{n},"' for n in range(10)],
    TOTAL: [f'":{n},"' for n in range(10)],
    HANDLE: [str(n) for n in range(MOST + 1)],
}
"""The tokens among which a thought of each kind is one, by its number. An owner is the token before."""


class Thought(NamedTuple):
    """What the model is asked at the token that holds the character `at` of a message."""

    at: int
    kind: str
    number: int


class Said(NamedTuple):
    """A message. What the model is to write are the assistant's; of others it learns its thoughts."""

    role: str
    text: str
    thoughts: tuple[Thought, ...] = ()


Document = list[Said]


@dataclasses.dataclass(frozen=True)
class Stage:
    """How hard documents are, 0..1 each, growing over training."""

    numbers: float  # how large the numbers are; 0: all are 1
    synonyms: float  # share of documents that use several words of one meaning; in the others a word is itself
    words: tuple[str, ...] = ()  # of a catalog, that stand where the language's words without synonyms would

    @functools.cached_property
    def topics(self) -> tuple[tuple[str, ...], ...]:
        """Words of one meaning; those with synonyms first."""
        return (*SYNONYMS, *((word,) for word in self.words)) if self.words else TOPICS


EASY = Stage(0.0, 0.0)


def level(total: int) -> int:
    """0..9, see LEVELS."""
    return int(np.searchsorted(LEVELS, total, side="right"))


def _numbers(rng: np.random.Generator, stage: Stage, count: int) -> list[int]:
    largest = 1 + int(rng.integers(0, 1 + round(stage.numbers * (7 if rng.random() < 0.3 else 3))))
    return rng.integers(1, largest + 1, size=count).tolist()


def _dumps(value) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


class _World:
    """A profile and what is drawn to be compared with it. One part per field of text, a single one for tags."""

    def __init__(self, rng: np.random.Generator, stage: Stage, image: bool):
        self.rng, self.image = rng, image
        if image:
            pool = [(word,) for word in _LOOKS]
        else:  # half of them with synonyms, or these would be rare
            plain = len(SYNONYMS) + rng.choice(len(stage.topics) - len(SYNONYMS), EACH, replace=False)
            pool = [stage.topics[n] for n in (*rng.choice(len(SYNONYMS), EACH, replace=False), *plain)]
        rng.shuffle(pool)
        if rng.random() >= stage.synonyms:
            pool = [(topic[rng.integers(len(topic))],) for topic in pool]
        self.parts = [pool] if image else [pool[0:6], pool[6:12], pool[12:18]]
        self.weight: dict[tuple[str, ...], int] = {}
        profile = []
        for topics in self.parts:
            most = 8 if image else 4
            known = topics[: int(rng.integers(1, most + 1))]
            words = [w for topic in known for w in rng.permutation(topic)[: rng.integers(1, 4)].tolist()][:8]
            numbers = dict(zip(words, _numbers(rng, stage, len(words)), strict=True))
            profile.append(dict(sorted(numbers.items(), key=lambda kv: -kv[1])))
            for topic in known:
                self.weight[topic] = self.weight.get(topic, 0) + sum(numbers.get(w, 0) for w in topic)
        self.profile = profile[0] if image else dict(zip(FIELDS, profile, strict=True))

    def words(self, part: int, most: int) -> list[tuple[str, int]]:
        """Up to `most` words of a part, each with its number in the profile."""
        count, topics = int(self.rng.integers(1, 1 + most)), self.parts[part]
        chosen = [topics[i] for i in self.rng.choice(len(topics), count, replace=False)]
        if not self.image and len(chosen[0]) > 1 and self.rng.random() < 0.5:  # of one meaning, as in a title
            chosen[: count - 1] = [chosen[0]] * (count - 1)
        return [self.word(topic) for topic in chosen]

    def word(self, topic: tuple[str, ...]) -> tuple[str, int]:
        """One of a topic's words and its number in the profile."""
        return topic[self.rng.integers(0, len(topic))], self.weight.get(topic, 0)

    def fields(self) -> list[tuple[str, list[tuple[str, int]]]]:
        """An entry: its fields, in each words with their numbers."""
        if self.image:
            return [("", self.words(0, 5))]
        said = [("title", self.words(0, 4))]
        for part, (field, most) in enumerate((("category", 2), ("description", 4)), start=1):
            said.append((field, self.words(part, most)))
        return said


class _Writer:
    """Text under way, with what is thought at its last character."""

    def __init__(self, profile: str):
        self.text = profile
        self.thoughts = [Thought(found.end() - 1, OWNER, 0) for found in re.finditer(r'":\d+', profile)]

    def add(self, text: str, **thoughts: int) -> None:
        """Write; `thoughts` are numbers by kind."""
        self.text += text
        self.thoughts += [Thought(len(self.text) - 1, kind, number) for kind, number in thoughts.items()]

    def entry(self, handle: int, fields: list[tuple[str, list[tuple[str, int]]]]) -> int:
        """Write an entry, return its level."""
        total, image = 0, fields[0][0] == ""
        for number, (field, said) in enumerate(fields):
            if image:
                self.add('["')
            else:
                self.add(f'{{"{field}":"' if number == 0 else f'","{field}":"')
            for place, (word, value) in enumerate(said):
                if place:
                    self.add('","' if image else ", " if field == "category" else " ")
                total += value
                self.add(word, word=level(value), sum=level(total), handle=handle)
        self.add('"]' if image else '"}', total=level(total), handle=handle)
        return level(total)


def _answer(world: _World, size: int, shown: bool = False) -> tuple[Said, list[int]]:
    """A tool's answer about `size` entries, and their levels, which are written behind the entries if `shown`."""
    writer, levels = _Writer(f'{{"profile":{_dumps(world.profile)},"items":{{'), []
    for handle in range(1, size + 1):
        writer.add(f'{"," if handle > 1 else ""}"{handle}":')
        levels.append(writer.entry(handle, world.fields()))
        if shown:
            writer.add(f',"score":{levels[-1]}', handle=handle)
    writer.add("}}")
    return Said("tool", writer.text, tuple(writer.thoughts)), levels


def score_map(levels: Sequence[int]) -> str:
    """The terminal action over all handles in their order."""
    scores = {str(handle): number for handle, number in enumerate(levels, start=1)}
    return _dumps({"tool": TERMINAL, "args": {"scores": scores}})


def _size(rng: np.random.Generator) -> int:
    return int(rng.integers(3, MOST + 1))


def _draw(rng: np.random.Generator, stage: Stage) -> _World:
    return _World(rng, stage, rng.random() < 0.35)


def match(rng: np.random.Generator, stage: Stage) -> Document:
    """A profile, then words, each with its level written behind it: what to think, said aloud.

    Each word comes once. Where they came again, what was learned was to copy from the last time, which entries of a
    tool's answer do not allow.
    """
    world = _draw(rng, stage)
    writer = _Writer(_dumps({"profile": world.profile}) + "\n")
    topics = [topic for part in world.parts for topic in part]
    for n in rng.permutation(len(topics)):
        word, value = world.word(topics[n])
        writer.add(f" {word}", word=level(value))
        writer.add(f" {level(value)}")
    return [Said("tool", writer.text, tuple(writer.thoughts))]


def reading(rng: np.random.Generator, stage: Stage) -> Document:
    """A tool's answer alone."""
    return [_answer(_draw(rng, stage), _size(rng))[0]]


def lookup(rng: np.random.Generator, stage: Stage) -> Document:
    """Entries with levels behind them, then the map."""
    answer, levels = _answer(_draw(rng, stage), _size(rng), shown=True)
    return [answer, Said("assistant", score_map(levels))]


def scoring(rng: np.random.Generator, stage: Stage, size: int = 0) -> Document:
    """Entries, then the map; sometimes after the messages that open an episode."""
    size = size or _size(rng)
    answer, levels = _answer(_draw(rng, stage), size)
    options = Options()
    opening = [Said("system", system_message(options, toolbox(options))), Said("user", _candidates(rng, stage, size))]
    return [*(opening if rng.random() < 0.4 else []), answer, Said("assistant", score_map(levels))]


def taken(rng: np.random.Generator, stage: Stage) -> Document:
    """How often candidates were taken, and who is near them: a level for each."""
    size = _size(rng)
    numbers = rng.integers(0, (6, 12, 24)[rng.integers(3)], size).tolist()
    near = [rng.choice(size, rng.integers(0, 3), replace=False) + 1 for _ in range(10)]
    mentions = np.bincount(np.concatenate([np.zeros(1, int), *near]).astype(int), minlength=size + 1)[1:]
    titles = [_words(rng, stage, 4) for _ in near]
    neighbors = [{"title": t, "near": [str(h) for h in n.tolist()]} for t, n in zip(titles, near, strict=True)]
    writer, alone = _Writer('{"taken":{'), [level(number) for number in numbers]
    for handle, (number, own) in enumerate(zip(numbers, alone, strict=True), start=1):
        writer.add(f'{"," if handle > 1 else ""}"{handle}":{number}', word=own, handle=handle)
    writer.add(f'}},"neighbors":{_dumps(neighbors)}}}')
    levels = np.minimum(9, np.array(alone) + 2 * np.minimum(mentions, 2))
    return [Said("tool", writer.text, tuple(writer.thoughts)), Said("assistant", score_map(levels.tolist()))]


def _candidates(rng: np.random.Generator, stage: Stage, size: int) -> str:
    """Candidate lines as the environment writes them."""
    marker, ranks = list(MARKERS.values())[rng.integers(3)], rng.permutation(size) + 1
    lines = []
    for handle, rank in enumerate(ranks, start=1):
        words = _words(rng, stage, rng.integers(0, 5))
        summary = f" {marker}{words}" if words else ""
        lines.append(f"{handle} {rank} {f'{rng.random():.2f}'.lstrip('0')}{summary}")
    return "Candidates: handle, first-stage rank, first-stage score, summary\n" + "\n".join(lines)


def _words(rng: np.random.Generator, stage: Stage, count: int) -> str:
    return " ".join(stage.topics[i][0] for i in rng.choice(len(stage.topics), count))


def schema(rng: np.random.Generator, stage: Stage) -> Document:
    """The system message, candidates, an instruction, the line that follows it."""
    options = Options(interactive=bool(rng.random() < 0.3))
    size = _size(rng)
    everyone = rng.random() < 0.7
    handles = np.arange(size) if everyone else np.sort(rng.choice(size, int(rng.integers(1, size + 1)), replace=False))
    names = [str(h + 1) for h in handles]
    items = "all" if everyone else names[0] if len(names) == 1 else names
    modality = ("text", "image", "behavior")[rng.integers(3)]
    numbers = rng.integers(0, 10, len(names)).tolist()
    calls = {
        "Analyze_Text": {"item_id": items},
        "Analyze_Image": {"item_id": items},
        "Retrieve_Graph": {"user_id": "u"},
        "Ask_User": {"modality_type": modality, "query": "What do you look for?"},
        TERMINAL: {"scores": dict(zip(names, numbers, strict=True))},
    }
    name = list(toolbox(options))[rng.integers(len(toolbox(options)))]
    detail = {
        "Ask_User": f" about {modality}",
        "Retrieve_Graph": "",
        TERMINAL: ": " + " ".join(f"{h} {n}" for h, n in zip(names, numbers, strict=True)),
    }.get(name, "" if everyone else f" for {' '.join(names)}")
    mark = {"Analyze_Text": "text", "Analyze_Image": "image", "Retrieve_Graph": "behavior"}.get(name)
    asked = f"Read {MARKERS[mark]}" if mark and rng.random() < 0.5 else f"Call {name}"
    return [
        Said("system", system_message(options, toolbox(options))),
        Said("user", f"{_candidates(rng, stage, size)}\n{asked}{detail}"),
        Said("assistant", _dumps({"tool": name, "args": calls[name]})),
    ]


SKILLS: dict[str, Callable[[np.random.Generator, Stage], Document]] = {
    "match": match,
    "reading": reading,
    "lookup": lookup,
    "scoring": scoring,
    "taken": taken,
    "schema": schema,
}
