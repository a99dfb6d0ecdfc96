"""What the tiny base model learns before it sees an episode: generated text that teaches one skill after the other.

    match    a word's number in a list of words with numbers: 0 where neither it nor a synonym occurs (dense: a number
             after every word)
    count    an entry's words found in a profile, their numbers summed, written behind the entry
    lookup   numbers standing behind entries, copied to a map in the order of the handles
    scoring  both at once: a profile, entries without numbers, and the map of their scores
    taken    a map of large numbers, answered by a map of their levels
    schema   one line of JSON that calls the tool asked for

The texts have the environment's own forms (JSON of tools, candidate lines, score maps) and the words of the generated
world's language, drawn at random: no catalogue, user, pool, route or reward is in them, and a document never goes on
from a tool call to a score.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Sequence

import numpy as np

from mma_jax.data.generated import DEPARTMENTS, FILLERS, LEXICON, PRODUCTS
from mma_jax.data.render import ATTRIBUTES
from mma_jax.envs.options import Options
from mma_jax.envs.prompts import system_message
from mma_jax.envs.tools import TERMINAL, TOOLS, toolbox
from mma_jax.features.tags import MOVIE_GENRES
from mma_jax.models.tokenizer import Tokenizer

LEVELS = (1, 2, 3, 4, 6, 8, 11, 15, 20)
"""A sum of numbers becomes a level 0..9: how many of these it reaches. Exact for small sums, coarse for large ones."""

_SYNONYMS = tuple(tuple(line.split()) for lines in LEXICON.values() for line in lines)
_LOOKS = tuple(word for words in ATTRIBUTES.values() for word in words)
_PLAIN = (*PRODUCTS, *DEPARTMENTS, *FILLERS, *_LOOKS, *(word.lower() for word in MOVIE_GENRES))

TOPICS: tuple[tuple[str, ...], ...] = (
    *_SYNONYMS,
    *((word,) for word in dict.fromkeys(_PLAIN) if all(word not in topic for topic in _SYNONYMS)),
)
"""Words of one meaning, each word once; those with synonyms first."""

FIELDS = ("title", "category", "description")

Document = list[tuple[str, str]]
"""(role, content) of its messages. What the model is to learn are the assistant's, and in a message of role "drill"
every number that follows a word."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """How hard documents are, 0..1 each, growing over training."""

    numbers: float  # how large the numbers are; 0: all are 1
    synonyms: float  # share of documents that use several words of one meaning; in the others a word is itself
    size: float  # how many entries


def level(total: int) -> int:
    """0..9, see LEVELS."""
    return int(np.searchsorted(LEVELS, total, side="right"))


def _numbers(rng: np.random.Generator, stage: Stage, count: int) -> list[int]:
    largest = 1 + int(rng.integers(0, 1 + round(stage.numbers * (11 if rng.random() < 0.3 else 3))))
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
            plain = len(_SYNONYMS) + rng.choice(len(TOPICS) - len(_SYNONYMS), 9, replace=False)
            pool = [TOPICS[n] for n in (*rng.choice(len(_SYNONYMS), 9, replace=False), *plain)]
        rng.shuffle(pool)
        if rng.random() >= stage.synonyms:
            pool = [(topic[rng.integers(len(topic))],) for topic in pool]
        self.parts = [pool] if image else [pool[0:6], pool[6:12], pool[12:18]]
        self.weight: dict[tuple[str, ...], int] = {}
        profile = []
        for topics in self.parts:
            known = topics[: int(rng.integers(2, 9 if image else 5))]
            words = [w for topic in known for w in rng.permutation(topic)[: rng.integers(1, 4)].tolist()][:8]
            numbers = dict(zip(words, _numbers(rng, stage, len(words)), strict=True))
            profile.append(dict(sorted(numbers.items(), key=lambda kv: -kv[1])))
            for topic in known:
                self.weight[topic] = self.weight.get(topic, 0) + sum(numbers.get(w, 0) for w in topic)
        self.profile = profile[0] if image else dict(zip(FIELDS, profile, strict=True))

    def words(self, part: int, count: int) -> tuple[list[str], int]:
        """Words of a part, and the sum of their numbers in the profile."""
        topics = self.parts[part]
        chosen = [topics[i] for i in self.rng.integers(0, len(topics), count)]
        if count > 2 and len(chosen[0]) > 1 and self.rng.random() < 0.7:  # several words of one meaning, as in a title
            chosen[: count - 1] = [chosen[0]] * (count - 1)
        words = [topic[self.rng.integers(0, len(topic))] for topic in chosen]
        return words, sum(self.weight.get(topic, 0) for topic in chosen)

    def entry(self) -> tuple[object, int]:
        """An entry of a tool's answer and its sum."""
        if self.image:
            chosen = self.rng.choice(len(self.parts[0]), int(self.rng.integers(3, 6)), replace=False)
            tags = [self.parts[0][i] for i in chosen]
            return [tag[0] for tag in tags], sum(self.weight.get(tag, 0) for tag in tags)
        title, first = self.words(0, int(self.rng.integers(1, 5)))
        category, second = self.words(1, int(self.rng.integers(1, 3)))
        description, third = self.words(2, int(self.rng.integers(1, 5)))
        entry = {"title": " ".join(title), "category": ", ".join(category), "description": " ".join(description)}
        return entry, first + second + third


def match(rng: np.random.Generator, stage: Stage) -> Document:
    """Profile, then words with their numbers."""
    world = _World(rng, stage, rng.random() < 0.3)
    text = []
    for _ in range(int(rng.integers(10, 40))):
        word, total = world.words(int(rng.integers(len(world.parts))), 1)
        text.append(f"{word[0]} {level(total)}")
    return [("drill", _dumps({"profile": world.profile}) + "\n" + " ".join(text))]


def _answer(entries: Sequence[tuple[object, int]], world: _World, shown: bool) -> str:
    """A tool's answer; shown: the level behind every entry."""
    items = []
    for handle, (entry, total) in enumerate(entries, start=1):
        text = f'"{handle}":{_dumps(entry)}'
        items.append(f'{text},"score":{level(total)}' if shown else text)
    return f'{{"profile":{_dumps(world.profile)},"items":{{{",".join(items)}}}}}'


def score_map(levels: Sequence[int]) -> str:
    """The terminal action over all handles in their order."""
    scores = {str(handle): number for handle, number in enumerate(levels, start=1)}
    return _dumps({"tool": TERMINAL, "args": {"scores": scores}})


def _size(rng: np.random.Generator, stage: Stage) -> int:
    return int(rng.integers(3, 4 + round(stage.size * 18)))


def count(rng: np.random.Generator, stage: Stage) -> Document:
    """Entries with their levels behind them."""
    world = _World(rng, stage, rng.random() < 0.35)
    return [("drill", _answer([world.entry() for _ in range(_size(rng, stage))], world, shown=True))]


def lookup(rng: np.random.Generator, stage: Stage) -> Document:
    """Entries with levels behind them, then the map."""
    world = _World(rng, stage, rng.random() < 0.35)
    entries = [world.entry() for _ in range(_size(rng, stage))]
    return [("tool", _answer(entries, world, shown=True)), ("assistant", score_map([level(n) for _, n in entries]))]


def scoring(rng: np.random.Generator, stage: Stage, size: int = 0) -> Document:
    """Entries, then the map; sometimes after a list of candidates."""
    world = _World(rng, stage, rng.random() < 0.35)
    entries = [world.entry() for _ in range(size or _size(rng, stage))]
    opening = [("user", _candidates(rng, len(entries)))] if rng.random() < 0.4 else []
    answer = _answer(entries, world, shown=False)
    return [*opening, ("tool", answer), ("assistant", score_map([level(n) for _, n in entries]))]


def taken(rng: np.random.Generator, stage: Stage) -> Document:
    """How often candidates were taken, and who is near them: a level for each."""
    size = _size(rng, stage)
    numbers = rng.integers(0, 60, size).tolist()
    near = [rng.choice(size, rng.integers(0, 3), replace=False) + 1 for _ in range(10)]
    mentions = np.bincount(np.concatenate([np.zeros(1, int), *near]).astype(int), minlength=size + 1)[1:]
    titles = [" ".join(TOPICS[i][0] for i in rng.choice(len(TOPICS), 4)) for _ in near]
    neighbors = [{"title": t, "near": [str(h) for h in n.tolist()]} for t, n in zip(titles, near, strict=True)]
    answer = {"taken": {str(h): n for h, n in enumerate(numbers, start=1)}, "neighbors": neighbors}
    levels = np.minimum(9, np.array(numbers) // 10 + 2 * np.minimum(mentions, 2))
    return [("tool", _dumps(answer)), ("assistant", score_map(levels.tolist()))]


def _candidates(rng: np.random.Generator, size: int) -> str:
    """Candidate lines as the environment writes them."""
    marker, ranks = "=#~"[rng.integers(3)], rng.permutation(size) + 1
    lines = []
    for handle, rank in enumerate(ranks, start=1):
        words = " ".join(TOPICS[i][0] for i in rng.choice(len(TOPICS), rng.integers(0, 5)))
        summary = f" {marker}{words}" if words else ""
        lines.append(f"{handle} {rank} {f'{rng.random():.2f}'.lstrip('0')}{summary}")
    return "Candidates: handle, first-stage rank, first-stage score, summary\n" + "\n".join(lines)


def schema(rng: np.random.Generator, stage: Stage) -> Document:
    """The system message, an instruction, the line that follows it."""
    options = Options(interactive=bool(rng.random() < 0.3))
    handles = sorted(rng.choice(20, int(rng.integers(1, 21)), replace=False) + 1)
    names = [str(h) for h in handles]
    items = names[0] if len(names) == 1 else names
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
    }.get(name, f" for {' '.join(names)}")
    return [
        ("system", system_message(options, toolbox(options))),
        ("user", f"Call {name}{detail}"),
        ("assistant", _dumps({"tool": name, "args": calls[name]})),
    ]


SKILLS: dict[str, Callable[[np.random.Generator, Stage], Document]] = {
    "match": match,
    "count": count,
    "lookup": lookup,
    "scoring": scoring,
    "taken": taken,
    "schema": schema,
}

CONTROL = ("<|begin|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|end|>")
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def symbols() -> list[str]:
    """Texts that are one token each for the tiny model: numbers in every form they take, the environment's JSON and
    its own sentences. This is what lets 20 candidates and their evidence fit a few hundred tokens."""
    numbers = [str(n) for n in range(101)]
    return list(
        dict.fromkeys(
            [
                "\n",
                *TOOLS,
                "Null",
                *numbers,
                *(f"0{n}" for n in range(10)),
                *(f"\u2581{n}" for n in numbers),
                *(f"\u2581.{n:02d}" for n in range(100)),
                "\u25811.00",
                *(f'":{n},"' for n in numbers),
                *(f'":{n}}}' for n in numbers),
                *_JSON,
                *_sentences(),
            ]
        )
    )


_JSON = (
    *("\u2581=", "\u2581#", "\u2581~", ",\u2581", '","', '":["', '"],"', '"],"score', '"]},"', '":[],"', "}}", "}}}"),
    *('{"tool":"', '","args":{"item_id":["', '","args":{"item_id":"', '"]}}', '"}}', '","args":{"scores":{"'),
    *('","args":{"user_id":"u"}}', '","args":{"modality_type":"', '","query":"'),
    *('{"profile":{"title":{"', '{"profile":{"', ',"category":{"', ',"description":{"', '},"items":{"', '"items":{"'),
    *('":{"title":"', '","category":"', '","description":"', '"},"', '"}}}', '"},"score', '"]}}', '{"taken":{"'),
    *(
        ',"neighbors":[{"title":"',
        '","near":["',
        '","near":[]},{"title":"',
        '"]},{"title":"',
        '"]}]}',
        '","near":[]}]}',
    ),
    *('{"answer":"', '"}'),
)


def _sentences() -> list[str]:
    """The fixed sentences of system and user messages, cut at what must keep its case (names of tools)."""
    texts = [system_message(options, toolbox(options)) for options in (Options(), Options(interactive=True))]
    texts.append("Candidates: handle, first-stage rank, first-stage score, summary")
    cut = re.compile("|".join([*TOOLS, "Null", r"\n", r"\d+"]))
    pieces = [piece for text in texts for piece in cut.split(text)]
    return [piece.lower().replace(" ", "\u2581") for piece in pieces if len(piece) > 12]


def corpus() -> list[str]:
    """Lines for the tokenizer: every word alone, behind a blank and behind a quote, and the environment's English."""
    words = [word for topic in TOPICS for word in topic]
    tools = toolbox(Options(interactive=True))
    english = system_message(Options(interactive=True), tools).split()
    return [*words * 40, *(f" {w} {w}" for w in words * 20), *english * 10]


def value_tokens(tokenizer: Tokenizer) -> np.ndarray:
    """bool [V]: tokens that carry a number a document asks for."""
    numbers = [text for n in range(10) for text in (f" {n}", f'":{n},"', f'":{n}}}')]
    wanted = np.zeros(tokenizer.vocab_size, bool)
    for text in numbers:
        ids = tokenizer.encode(text)
        wanted[ids] = len(ids) == 1
    return wanted
