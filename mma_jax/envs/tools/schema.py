"""From a plain typed function to a tool: its schema, and the check of the arguments an agent writes.

A tool is `f(evidence, case, argument: type, ..., *, setting)`. What follows `evidence` and `case` is written
by the agent, keyword-only parameters are filled from the environment's `Options` by name, and the first
line of the docstring is what the agent reads.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import operator
import sys
import types
import typing
from collections.abc import Callable, Collection, Container
from typing import Any, Literal, NamedTuple, NewType

Handle = NewType("Handle", str)
"""A candidate's name within its episode, "1".."B"."""

_LARGEST = sys.float_info.max


All = Literal["all"]
"""In place of handles: every candidate. Twenty of them are forty tokens of the same list in every call."""


@functools.cache
def handles(pool_size: int) -> dict[str, int]:
    """Handle -> row of the pool: {"1": 0, ..., "B": B - 1}."""
    return {str(j + 1): j for j in range(pool_size)}


def asked(item_id: str | list[str], pool_size: int) -> dict[str, int]:
    """The candidates that an argument names, handle -> row of the pool."""
    rows = handles(pool_size)
    if item_id == "all":
        return rows
    return {handle: rows[handle] for handle in ([item_id] if isinstance(item_id, str) else item_id)}


class Kind(NamedTuple):
    """A type: how it reads in the prompt, as JSON with a word for what varies, and how to check values of it."""

    text: str
    accept: Callable[[Collection[Any], Container[str]], bool]  # (JSON values, the pool's handles): all of the type


@dataclasses.dataclass(frozen=True)
class Tool:
    """A callable tool with its schema."""

    name: str
    about: str
    parameters: dict[str, Kind]
    call: Callable[..., Any]  # (evidence, case, **arguments)

    @property
    def schema(self) -> str:
        """The action to write, with a type in place of each argument, and what it is for."""
        args = ",".join(f'"{name}":{kind.text}' for name, kind in self.parameters.items())
        return f'{{"tool":"{self.name}","args":{{{args}}}}} {self.about}'

    def accepts(self, args: dict[str, Any], handles: Container[str]) -> bool:
        """Whether `args` are exactly this tool's arguments, each of its type."""
        return args.keys() == self.parameters.keys() and all(
            kind.accept((args[name],), handles) for name, kind in self.parameters.items()
        )


def make_tool(name: str, function: Callable[..., Any], options: Any) -> Tool:
    """The tool that `function` describes, its keyword-only parameters bound to the options of that name."""
    hints = typing.get_type_hints(function)
    parameters = list(inspect.signature(function).parameters.values())[2:]
    settings = {p.name: getattr(options, p.name) for p in parameters if p.kind is p.KEYWORD_ONLY}
    return Tool(
        name=name,
        about=inspect.getdoc(function).partition("\n")[0],
        parameters={p.name: _kind(hints[p.name], options.max_items) for p in parameters if p.name not in settings},
        call=lambda evidence, case, **args: function(evidence, case, **args, **settings),
    )


def _kind(hint: Any, max_items: int | None) -> Kind:
    """The `Kind` of a type annotation. A list holds 1 to `max_items` entries (None: no bound)."""
    if hint in _SIMPLE:
        return _SIMPLE[hint]
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        text = "|".join(f'"{choice}"' for choice in inner)
        return Kind(text, lambda values, _: _all_strings(values) and set(values) <= set(inner))
    if origin in (typing.Union, types.UnionType):
        return _union_kind([_kind(h, max_items) for h in inner if _may_be_said(typing.get_origin(h), max_items)])
    if origin is list:
        return _list_kind(_kind(inner[0], max_items), max_items)
    if origin is dict:
        return _dict_kind(*(_kind(h, max_items) for h in inner))
    raise TypeError(f"a tool's argument cannot be of type {hint}")


def _may_be_said(origin: Any, max_items: int | None) -> bool:
    """One item a call (the paper) leaves nothing for a list to say, and any bound nothing for a word like "all"."""
    return not ((origin is list and max_items == 1) or (origin is Literal and max_items is not None))


def _union_kind(kinds: list[Kind]) -> Kind:
    def accept(values: Collection[Any], handles: Container[str]) -> bool:
        return all(any(kind.accept((value,), handles) for kind in kinds) for value in values)

    return Kind(" or ".join(kind.text for kind in kinds), accept)


def _list_kind(entry: Kind, max_items: int | None) -> Kind:
    bound = "" if max_items is None else f" at most {max_items}"
    longest = sys.maxsize if max_items is None else max_items

    def accept(values: Collection[Any], handles: Container[str]) -> bool:
        return all(isinstance(v, list) and 0 < len(v) <= longest and entry.accept(v, handles) for v in values)

    return Kind(f"[{entry.text},...]{bound}", accept)


def _dict_kind(key: Kind, entry: Kind) -> Kind:
    def accept(values: Collection[Any], handles: Container[str]) -> bool:
        return all(
            isinstance(v, dict) and v and key.accept(v, handles) and entry.accept(v.values(), handles) for v in values
        )

    return Kind(f"{{{key.text}:{entry.text},...}}", accept)


def _all_strings(values: Collection[Any]) -> bool:
    return set(map(type, values)) <= {str}


def _all_handles(values: Collection[Any], handles: Container[str]) -> bool:
    return _all_strings(values) and all(map(handles.__contains__, values))


def _all_numbers(values: Collection[Any], _: Container[str]) -> bool:
    """Finite numbers; JSON's true is none, nor are nan and an integer beyond the floats."""
    finite = set(map(type, values)) <= {int, float} and not any(map(operator.ne, values, values))
    return finite and min(values) >= -_LARGEST and max(values) <= _LARGEST


def _all_encodable(values: Collection[Any], _: Container[str]) -> bool:
    """Strings, but none with half a surrogate pair, which JSON can spell and no file can hold."""
    try:
        return _all_strings(values) and all(value.encode() is not None for value in values)
    except UnicodeEncodeError:
        return False


_SIMPLE = {
    Handle: Kind('"handle"', _all_handles),
    str: Kind('"string"', _all_encodable),
    float: Kind("number", _all_numbers),
}
