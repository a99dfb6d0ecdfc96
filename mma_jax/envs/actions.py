"""An agent's text -> an action, or the one kind of error it makes (MMA §3.2, Eq. 1).

The last non-empty line is one JSON object `{"tool": name, "args": {...}}`; what precedes it is reasoning.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Container, Mapping
from typing import Any, NoReturn

from mma_jax.envs.tools import TERMINAL
from mma_jax.envs.tools.schema import Tool

ERRORS = ("invalid_json", "unknown_tool", "bad_args", "malformed_terminal", "repeat_null")
"""Kinds of error. `repeat_null` is a well-formed call that the environment knows to be futile."""

_CUT_NAME = re.compile(r'"tool"\s*:\s*"(\w+)$')


@dataclasses.dataclass(frozen=True)
class Action:
    """A tool call; `tool` is "" if none could be read, `args` is {} unless they are valid."""

    tool: str
    args: dict[str, Any]
    error: str = ""  # "" or one of ERRORS


def parse(text: str, tools: Mapping[str, Tool], handles: Container[str]) -> Action:
    """Read an action; never raises, whatever the text.

    A terminal is malformed if its scores are not a non-empty map from handles of the pool to finite
    numbers, and also if the text cannot be read at all but names Score_Candidates, or breaks off inside
    that name. Repeated keys and NaN or Infinity, which JSON does not have, make a line unreadable.
    """
    text = text.strip()
    call = _decode(text.rpartition("\n")[2])
    if not _is_call(call):
        return Action("", {}, "malformed_terminal" if _names_terminal(text) else "invalid_json")
    name, args = call["tool"], call["args"]
    if name not in tools:
        return Action("", {}, "unknown_tool")
    if not tools[name].accepts(args, handles):
        return Action(name, {}, "malformed_terminal" if name == TERMINAL else "bad_args")
    return Action(name, args)


def _decode(line: str) -> Any:
    """The JSON value of `line`, or None if it is none."""
    try:
        return _DECODER.decode(line)
    except (ValueError, RecursionError):  # not JSON, or an endless integer; nested too deeply
        return None


def _is_call(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"tool", "args"}
        and isinstance(value["tool"], str)
        and isinstance(value["args"], dict)
    )


def _names_terminal(text: str) -> bool:
    cut = _CUT_NAME.search(text[-2 * len(TERMINAL) - 40 :])
    return TERMINAL in text or (cut is not None and TERMINAL.startswith(cut[1]))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise ValueError("a key occurs twice")
    return result


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse)
