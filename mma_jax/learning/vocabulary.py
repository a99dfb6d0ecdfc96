"""What L0-tiny's tokenizer is trained on: texts of one token each, and lines of text (DESIGN §7)."""

from __future__ import annotations

import re

from mma_jax.envs.options import Options
from mma_jax.envs.prompts import system_message
from mma_jax.envs.tools import TOOLS, toolbox
from mma_jax.learning.curriculum import TOPICS

REASONING = ("read", "call", "try", "text", "image", "behavior", "answers", "score", "nothing")
"""Words of instructions and of an agent's reasoning that are no evidence."""

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


def _sentences() -> list[str]:
    """The fixed sentences of system and user messages, cut at what must keep its case (names of tools)."""
    texts = [system_message(options, toolbox(options)) for options in (Options(), Options(interactive=True))]
    texts.append("Candidates: handle, first-stage rank, first-stage score, summary")
    cut = re.compile("|".join([*TOOLS, "Null", r"\n", r"\d+"]))
    pieces = [piece for text in texts for piece in cut.split(text)]
    return [piece.lower().replace(" ", "\u2581") for piece in pieces if len(piece) > 12]


def corpus() -> list[str]:
    """Lines for the tokenizer: every word alone and behind a blank, and the environment's English."""
    words = [*(word for topic in TOPICS for word in topic), *REASONING]
    tools = toolbox(Options(interactive=True))
    english = system_message(Options(interactive=True), tools).split()
    return [*words * 40, *(f" {w} {w}" for w in words * 20), *english * 10]
