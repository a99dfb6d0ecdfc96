"""What a scripted agent can know: the text of its own history, read back into structure. Nothing else."""

from __future__ import annotations

import dataclasses
import functools
import json
import re

import numpy as np

from mma_jax.envs.observations import read_observation
from mma_jax.envs.prompts import read_prompt, read_summary
from mma_jax.types import History, Message

_ITEM_ID = re.compile(r'"Analyze_Text","args":\{"item_id":([^}]*)\}')
_AT_MOST = re.compile(r"at most (\d+)")
_TURNS = re.compile(r"You have (\d+) turns")
TOOL_OF = {"text": "Analyze_Text", "image": "Analyze_Image", "behavior": "Retrieve_Graph"}

_REMEMBERED = 2048  # prompts and answers, enough for the episodes in play at a time


@dataclasses.dataclass
class Notes:
    """B candidates in the order of the prompt, and every answer so far."""

    handles: list[str]
    ranks: np.ndarray  # int [B]
    first_stage: np.ndarray  # float [B], as rounded in the prompt
    summaries: list[dict[str, str]]  # per candidate, what the prompt says of it by modality
    limit: int  # candidates that one Analyze call may name
    says_all: bool  # whether "all" names them
    turns_left: int  # this one included
    answers: dict[str, object] = dataclasses.field(default_factory=dict)  # tool -> answer, None for Null

    def was_called(self, modality: str) -> bool:
        return TOOL_OF[modality] in self.answers

    def got(self, modality: str):
        """The answer of a modality's tool, or None if it was Null, refused or never called."""
        return self.answers.get(TOOL_OF[modality])


def called_tool(text: str) -> str:
    """The tool a scripted agent named in its own action line, "" if it wrote none."""
    line = text.rpartition("\n")[2]
    return json.loads(line)["tool"] if line.startswith("{") else ""


@functools.lru_cache(_REMEMBERED)
def _opening(prompt: tuple[Message, ...]) -> dict:
    """What the prompt says, under the names of Notes; read once, not every turn."""
    rows, rules = read_prompt(prompt), prompt[0].content
    ids = _ITEM_ID.search(rules)[1]
    at_most = _AT_MOST.search(ids)
    return {
        "handles": [row.handle for row in rows],
        "ranks": np.array([row.rank for row in rows]),
        "first_stage": np.array([row.score for row in rows]),
        "summaries": [read_summary(row.summary) for row in rows],
        "limit": int(at_most[1]) if at_most else len(rows) if "[" in ids else 1,
        "says_all": '"all"' in ids,
        "turns_left": int(_TURNS.search(rules)[1]),
    }


_answer = functools.lru_cache(_REMEMBERED)(read_observation)


def read(history: History) -> Notes:
    """Parse a history: prompt, own actions, observations."""
    notes = Notes(**_opening(history[:2]))
    notes.turns_left -= (len(history) - 2) // 2
    for said, heard in zip(history[2::2], history[3::2], strict=False):
        tool = called_tool(said.content)
        answer = _answer(heard.content)
        notes.answers[tool] = answer if isinstance(answer, dict) else None
    return notes
