"""The two messages that open an episode, and the parser that reads them back (MMA §3.1).

The system message holds task, tools and rules; the user message one line per candidate, in the pool's order:

    12 3 .87 =nail polish #red, matte ~OPI lacquer

that is handle, first-stage rank, first-stage score, summary. A summary draws on the surviving modalities
only, each with its marker, so its form betrays the mask, as the paper's does; summaries "none" show nothing
of the kind, and then the prompt is the same under every mask.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import NamedTuple

from mma_jax.envs.evidence import Evidence
from mma_jax.envs.options import Options
from mma_jax.envs.tools import TERMINAL
from mma_jax.envs.tools.retrieve_graph import NO_TITLE
from mma_jax.envs.tools.schema import Tool
from mma_jax.types import MODALITIES, Case, History, Message

MARKERS = {"text": "=", "image": "#", "behavior": "~"}
"""First character of what each modality contributes to a summary; removed from the contributions themselves."""

LEAST_SUMMARY = 2
"""Tokens of the shortest contribution: a marker and a word."""

_REMEMBERED = 1 << 16
_MODALITY = {marker: modality for modality, marker in MARKERS.items()}
_LINE = re.compile(r"^(\d+) (\d+) (\d?\.\d\d)(?: (.+))?$", re.MULTILINE)
_PARTS = re.compile(r"([=#~])([^=#~]*)")
_UNMARK = str.maketrans(dict.fromkeys(MARKERS.values(), " "))


class Candidate(NamedTuple):
    """What the prompt says of one candidate."""

    handle: str
    rank: int
    score: float  # two digits of s0
    summary: str


def system_message(options: Options, tools: dict[str, Tool]) -> str:
    """Task, tool schemas and rules; the same for every case."""
    schemas = "\n".join(tool.schema for tool in tools.values())
    return (
        "Rerank the candidates for user u by how likely u takes each next. Evidence may be missing: a tool without "
        "any answers Null; asking it again is punished, so switch. Calls cost a little, invalid ones a lot.\n"
        "Think, then end every turn with one line that is one JSON object, one of:\n"
        f"{schemas}\n"
        f"Handles are strings. You have {options.turns} turns; use {TERMINAL} by the last."
    )


def user_header(options: Options, scored: int | None) -> str:
    """The line above the candidates. `scored`: how many the score map has room for, None for all."""
    limit = "" if scored is None else f"Score at most {scored}. "
    summary = ", summary" if options.summaries == "surviving" else ""
    return f"{limit}Candidates: handle, first-stage rank, first-stage score{summary}\n"


class PromptWriter:
    """Writes the opening messages of cases; remembers what it said of an item.

    Args:
        evidence: what is known about items.
        options: the environment's.
        tools: those of `tools.toolbox(options)`.
        count_tokens: str -> its number of tokens.
    """

    def __init__(
        self, evidence: Evidence, options: Options, tools: dict[str, Tool], count_tokens: Callable[[str], int]
    ):
        self._evidence = evidence
        self._options = options
        self._system = Message("system", system_message(options, tools))
        self._count = count_tokens
        self._text = functools.lru_cache(_REMEMBERED)(self._say_text)
        self._image = functools.lru_cache(_REMEMBERED)(self._say_image)
        self._neighbor = functools.lru_cache(_REMEMBERED)(self._say_neighbor)

    def write(self, case: Case, summary_tokens: int, scored: int) -> History:
        """System and user message.

        Args:
            case: the case, without a target.
            summary_tokens: of one candidate's summary; 0 for none.
            scored: how many candidates the score map has room for.
        """
        summaries = self._summaries(case, summary_tokens) if summary_tokens else [""] * len(case.pool)
        rows = zip(case.ranks.tolist(), case.scores.tolist(), summaries, strict=True)
        lines = [
            f"{handle} {rank} {f'{score:.2f}'.lstrip('0')}{summary}"
            for handle, (rank, score, summary) in enumerate(rows, start=1)
        ]
        header = user_header(self._options, scored if scored < len(case.pool) else None)
        return self._system, Message("user", header + "\n".join(lines))

    def _summaries(self, case: Case, tokens: int) -> list[str]:
        """Per candidate, " =... #... ~..." of the modalities that survive and have something to say."""
        shown = [m for m in MODALITIES if self._evidence.observes(case, m)][: tokens // LEAST_SUMMARY]
        share = tokens // len(shown) - 1 if shown else 0  # the marker takes one
        items = case.pool.tolist()
        columns = {
            "text": lambda: [self._text(i, share) for i in items],
            "image": lambda: [self._image(i, share) for i in items],
            "behavior": lambda: self._say_neighbors(items, share),
        }
        parts = [[f" {MARKERS[m]}{said}" if said else "" for said in columns[m]()] for m in shown]
        return ["".join(row) for row in zip(*parts, strict=True)] if parts else [""] * len(items)

    def _say_text(self, item: int, tokens: int) -> str:
        return self._fit((self._evidence.text_item(item) or {}).get("title", ""), tokens)

    def _say_image(self, item: int, tokens: int) -> str:
        return self._fit(", ".join(self._evidence.tags(item) or ()), tokens)

    def _say_neighbors(self, items: list[int], tokens: int) -> list[str]:
        """Per item, its nearest graph neighbour: the title or, without titles, the handle if it is a candidate."""
        if self._options.graph_titles:
            return [self._neighbor(i, tokens) for i in items]
        rows = {item: j for j, item in enumerate(items, start=1)}
        nearest = self._evidence.graph.neighbors[items, 0].tolist()
        return [str(rows.get(neighbor, NO_TITLE)) for neighbor in nearest]

    def _say_neighbor(self, item: int, tokens: int) -> str:
        neighbor = int(self._evidence.graph.neighbors[item, 0])
        return "" if neighbor < 0 else self._fit(self._evidence.title(neighbor), tokens)

    def _fit(self, text: str, tokens: int) -> str:
        """The first words of `text`, markers removed, that take at most so many tokens."""
        text = " ".join(text.translate(_UNMARK).split())
        while self._count(text) > tokens:
            text = text.rpartition(" ")[0] or text[: len(text) * 3 // 4]
        return text.rstrip(",")


def read_prompt(history: History) -> list[Candidate]:
    """The candidates in a prompt, in its order: (handle, first-stage rank, s0 to two digits, summary)."""
    lines = _LINE.findall(history[1].content)
    return [Candidate(handle, int(rank), float(score), summary) for handle, rank, score, summary in lines]


def read_summary(summary: str) -> dict[str, str]:
    """What each modality contributed to a summary; tags are separated by commas."""
    return {_MODALITY[marker]: said.strip() for marker, said in _PARTS.findall(summary)}
