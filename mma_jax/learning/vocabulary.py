"""What L0-tiny's tokenizer is trained on: texts of one token each, and lines of text (DESIGN §7)."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence

from mma_jax.envs.options import Options
from mma_jax.envs.prompts import system_message
from mma_jax.envs.tools import TOOLS, toolbox
from mma_jax.features.text import STOP_WORDS
from mma_jax.learning.curriculum import SYNONYMS, TOPICS

REASONING = ("read", "call", "try", "text", "image", "behavior", "answers", "score", "nothing")
"""Words of instructions and of an agent's reasoning that are no evidence."""

CONTROL = ("<|begin|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|end|>")
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def known(words: Iterable[str], most: int) -> tuple[str, ...]:
    """The first of a catalog's words, at most `most`, without those that the curriculum uses as synonyms."""
    synonyms = {word for topic in SYNONYMS for word in topic}
    return tuple(itertools.islice((word for word in words if word not in synonyms), most))


def symbols(words: Sequence[str] = ()) -> list[str]:
    """Texts that are one token each for the tiny model: numbers in every form they take, the environment's JSON and
    its own sentences. This is what lets 20 candidates and their evidence fit a few hundred tokens.

    words: of a catalog; those with digits are symbols too, or the numbers would cut "1995" in two.
    """
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
                *(f"{blank}{word}" for word in words if re.search(r"\d", word) for blank in ("", "\u2581")),
                *(_MARKS if words else ()),
            ]
        )
    )


_JSON = (
    *("\u2581=", "\u2581#", "\u2581~", ",\u2581", '","', '":["', '"],"', '"],"score', '"]},"', '":[],"', "}}", "}}}"),
    *(
        '{"tool":"',
        '","args":{"item_id":"all"}}',
        '","args":{"item_id":["',
        '","args":{"item_id":"',
        '"]}}',
        '"}}',
        '","args":{"scores":{"',
    ),
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


_MARKS = ("\u2581(", ")", "'s", ".", "-", ":", "!", "\u2026")
"""What a catalog's texts have between their words."""


def _sentences() -> list[str]:
    """The fixed sentences of system and user messages, cut at what must keep its case (names of tools)."""
    texts = [system_message(options, toolbox(options)) for options in (Options(), Options(interactive=True))]
    texts.append("Candidates: handle, first-stage rank, first-stage score, summary")
    cut = re.compile("|".join([*TOOLS, "Null", r"\n", r"\d+"]))
    pieces = [piece for text in texts for piece in cut.split(text)]
    return [piece.lower().replace(" ", "\u2581") for piece in pieces if len(piece) > 12]


def corpus(words: Sequence[str] = ()) -> list[str]:
    """Lines for the tokenizer: every word, a catalog's too, alone and behind a blank, and the environment's English."""
    words = [*(word for topic in TOPICS for word in topic), *REASONING, *words, *(sorted(STOP_WORDS) if words else ())]
    tools = toolbox(Options(interactive=True))
    english = system_message(Options(interactive=True), tools).split()
    return [*words * 40, *(f" {w} {w}" for w in words * 20), *english * 10]
