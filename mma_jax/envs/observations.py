"""What a tool returned -> the one line the agent reads, within its budget, and back."""

from __future__ import annotations

import bisect
import functools
import itertools
import json
from collections.abc import Callable
from typing import Any

from mma_jax.envs.evidence import cut

NULL = "Null"
"""The observation of a missing modality, exactly (MMA §3.2)."""

ERROR = "Error: "
"""How the observation of a refused action begins."""

_SHORTER = (1.0, 0.5, 0.25, 0.0, None)
"""How much of a description is kept, the first that fits; None leaves the least of every entry."""

_SHORT_TITLE = 40  # characters of a title where only the least is left
_FEW = 4  # entries of a list there
_REMEMBERED = 1 << 16

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class Renderer:
    """Writes answers; remembers how each entry (an item's text, its tags) reads.

    Args:
        count_tokens: str -> its number of tokens.
    """

    def __init__(self, count_tokens: Callable[[str], int]):
        self._count = count_tokens
        self._write_entry = functools.lru_cache(_REMEMBERED)(_write_entry)

    def render(self, result: dict[str, Any] | None, tokens: int, words: int, description: int) -> str:
        """Compact JSON of at most `tokens` tokens on one line, or "Null".

        The profile keeps its first `words` words. A list or map (items, neighbours) first shortens its
        descriptions, of at most `description` characters, equally for all, then leaves each entry but the
        beginning of its title and of its lists; if that is not enough, whole entries are dropped from the
        end. What is left out of lists and maps is counted in "more". A sentence loses its last words.

        Args:
            result: a tool's JSON-able answer; None is Null. Its last list or map is the one that is shortened;
                another beside "profile" is left out if it would take more than half of the budget.
            tokens: the budget, of the whole line.
            words: of a profile.
            description: characters.
        """
        if result is None:
            return NULL
        head = {key: _shorten_profile(value, words) if key == "profile" else value for key, value in result.items()}
        body_keys = [k for k, value in head.items() if k != "profile" and isinstance(value, (dict, list))]
        if not body_keys:
            return self._render_sentences(head, tokens)
        for key in body_keys[:-1]:
            if self._count(_encode(head[key])) > tokens // 2:
                del head[key]
        body_key = body_keys[-1]
        body = head.pop(body_key)
        start = _encode({**head, body_key: type(body)()})[:-2]  # cut inside the empty list or map
        return self._render_body(start, body, tokens, description)

    def _render_body(self, start: str, body: dict[str, Any] | list[Any], tokens: int, description: int) -> str:
        """`start`, the entries that fit behind it, and the brackets that close them and the object around."""
        close = "]" if isinstance(body, list) else "}"
        keys = [""] * len(body) if isinstance(body, list) else [f"{_encode(key)}:" for key in body]
        entries = [_freeze(entry) for entry in (body if isinstance(body, list) else body.values())]

        def written(share: float | None, kept: int) -> str:
            chars = None if share is None else int(share * description)
            parts = (key + self._write_entry(entry, chars) for key, entry in zip(keys[:kept], entries, strict=False))
            more = f',"more":{len(body) - kept}' if kept < len(body) else ""
            return start + ",".join(parts) + close + more + "}"

        longest_first = [(share, len(body)) for share in _SHORTER] + [(None, n) for n in reversed(range(len(body)))]
        fits = bisect.bisect_left(longest_first, True, key=lambda one: self._count(written(*one)) <= tokens)
        return written(*longest_first[min(fits, len(longest_first) - 1)])

    def _render_sentences(self, result: dict[str, Any], tokens: int) -> str:
        while self._count(_encode(result)) > tokens and any(isinstance(v, str) and v for v in result.values()):
            result = {key: v.rpartition(" ")[0] if isinstance(v, str) else v for key, v in result.items()}
        return _encode(result)


def read_observation(observation: str) -> dict[str, Any] | str | None:
    """A tool's answer as a dict, None for Null, or the message of an error as it stands."""
    if observation == NULL:
        return None
    return json.loads(observation) if observation.startswith("{") else observation


def _write_entry(entry: Any, description: int | None) -> str:
    """The JSON of a frozen entry."""
    return _encode(_shorten_entry(_thaw(entry), description))


class _Map(tuple):
    """The items of a dict, hashable, and not to be taken for a list's."""


def _freeze(entry: Any) -> Any:
    """A hashable twin of a JSON value."""
    if isinstance(entry, dict):
        return _Map((key, _freeze(value)) for key, value in entry.items())
    return tuple(map(_freeze, entry)) if isinstance(entry, (list, tuple)) else entry


def _thaw(entry: Any) -> Any:
    if isinstance(entry, _Map):
        return {key: _thaw(value) for key, value in entry}
    return [_thaw(value) for value in entry] if isinstance(entry, tuple) else entry


def _shorten_entry(entry: Any, description: int | None) -> Any:
    if not isinstance(entry, dict):
        return entry
    if description is None:
        return _least(entry)
    kept = {**entry, "description": cut(entry.get("description", ""), description)}
    return {key: value for key, value in kept.items() if value != ""}


def _least(entry: dict[str, Any]) -> dict[str, Any]:
    """The beginnings of an entry's title and of its lists, and in "more" how much of the lists is missing."""
    lists = {key: value for key, value in entry.items() if isinstance(value, list)}
    missing = sum(max(0, len(value) - _FEW) for value in lists.values())
    return {
        **({"title": cut(entry["title"], _SHORT_TITLE)} if "title" in entry else {}),
        **{key: value[:_FEW] for key, value in lists.items()},
        **({"more": missing} if missing else {}),
    }


def _shorten_profile(profile: dict[str, Any], words: int) -> dict[str, Any]:
    """The first words of a profile, of which fields, if it has any, get equal parts."""
    if not any(isinstance(value, dict) for value in profile.values()):
        return dict(itertools.islice(profile.items(), words))
    share = max(1, words // len(profile))
    return {field: dict(itertools.islice(counts.items(), share)) for field, counts in profile.items()}
