"""The automaton over characters that takes exactly the turns of the grammar: free text, then one action in one line.

It is built from the schemas that the tools show the agent, so a new tool is in it. Nodes are numbers, B = candidates.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mma_jax.envs.tools.schema import Tool, handles

DEAD = -1
SCORES = range(101)
_CONTROL = tuple(map(chr, range(32)))


def alternatives(kind: str) -> Iterator[tuple[str, Any]]:
    """What `schema.Kind.text` says that an argument may be: (form, detail).

    Forms: map, handle, string; list, with the most entries or 0; words, with these as JSON.
    """
    for text in kind.split(" or "):
        if text == '{"handle":number,...}':
            yield "map", None
        elif text.startswith('["handle",...]'):
            yield "list", int(text.partition(" at most ")[2] or 0)
        elif text in ('"handle"', '"string"'):
            yield text.strip('"'), None
        elif text.startswith('"'):
            yield "words", text.split("|")
        else:
            raise TypeError(f"no grammar for an argument of type {text}")


class Automaton:
    """Deterministic.

    Args:
        tools: of `tools.toolbox`.
        pool_size: B.

    Attributes:
        start: before the first character. end: behind the last brace.
    """

    def __init__(self, tools: Mapping[str, Tool], pool_size: int):
        self._handles = list(handles(pool_size))
        self._edges: list[dict[str, int]] = []
        self._other: list[int] = []  # where characters without an edge lead
        self.end, thought = self._node(), self._node()
        self.start = self._node(other=thought)  # of a line: blanks may follow
        self._other[thought] = thought
        self._edges[thought] |= {"\n": self.start, "{": DEAD}
        self._edges[self.start] |= {"\n": self.start, " ": self.start}
        for tool in tools.values():
            self._action(tool)

    def __len__(self) -> int:
        return len(self._edges)

    def walk(self, node: int, text: str) -> int:
        """The node after a text, DEAD if it is not taken."""
        for character in text:
            if node == DEAD:
                break
            node = self._edges[node].get(character, self._other[node])
        return node

    def characters(self, node: int) -> list[str]:
        """Those that have a place of their own to lead to."""
        return [character for character, after in self._edges[node].items() if after != DEAD]

    def is_free(self, node: int) -> bool:
        """Whether almost any character may come next."""
        return node != DEAD and self._other[node] != DEAD

    def _node(self, other: int = DEAD) -> int:
        self._edges.append({})
        self._other.append(other)
        return len(self._edges) - 1

    def _say(self, node: int, text: str, end: int | None = None) -> int:
        """Let `text` lead from a node to `end`, None for wherever it leads."""
        *before, last = text
        for character in before:
            node = self._next(node, character)
        if end is None:
            return self._next(node, last)
        if self._edges[node].setdefault(last, end) != end:
            raise ValueError(f"{text!r} leads to two places: the grammar of the tools is ambiguous")
        return end

    def _next(self, node: int, character: str) -> int:
        if character not in self._edges[node]:
            self._edges[node][character] = self._node()
        return self._edges[node][character]

    def _action(self, tool: Tool) -> None:
        node = self._say(self.start, f'{{"tool":"{tool.name}","args":{{')
        for n, (name, kind) in enumerate(tool.parameters.items()):
            value, end = self._say(node, f'{"," if n else ""}"{name}":'), self._node()
            self._value(value, kind.text, end)
            node = end
        self._say(node, "}}", self.end)

    def _value(self, node: int, kind: str, end: int) -> None:
        for form, detail in alternatives(kind):
            if form == "map":
                self._map(node, end)
            elif form == "list":
                self._list(node, detail, end)
            elif form == "handle":
                self._any(node, [f'"{handle}"' for handle in self._handles], end)
            elif form == "string":
                self._string(node, end)
            else:
                self._any(node, detail, end)

    def _any(self, node: int, texts: list[str], end: int) -> None:
        for text in texts:
            self._say(node, text, end)

    def _map(self, node: int, end: int) -> None:
        """Every handle once, in order: the node is the register that counts entries."""
        key = self._say(node, "{")
        for handle in self._handles:
            last = handle == self._handles[-1]
            value, key = self._say(key, f'"{handle}":'), end if last else self._node()
            self._score(value, "}" if last else ",", key)

    def _score(self, node: int, close: str, after: int) -> None:
        """A whole number from 0 to 100, and the character that closes it."""
        one, ten, tens, done = (self._node() for _ in range(4))
        self._edges[node] |= {"0": done, "1": one, **dict.fromkeys("23456789", tens)}
        self._edges[one] |= {"0": ten, **dict.fromkeys("123456789", done)}
        self._edges[ten]["0"] = done
        self._edges[tens] |= dict.fromkeys("0123456789", done)
        for written in (one, ten, tens, done):
            self._edges[written][close] = after

    def _list(self, node: int, most: int, end: int) -> None:
        """One to `most` handles, 0 for any number."""
        node = self._say(node, "[")
        for left in range(most or 1, 0, -1):
            entry = self._node()
            self._any(node, [f'"{handle}"' for handle in self._handles], entry)
            self._say(entry, "]", end)
            if left > 1:
                node = self._say(entry, ",")
        if not most:
            self._say(entry, ",", node)

    def _string(self, node: int, end: int) -> None:
        """Any characters that JSON need not escape."""
        inside = self._say(node, '"')
        self._other[inside] = inside
        self._edges[inside] |= {'"': end, "\\": DEAD, **dict.fromkeys(_CONTROL, DEAD)}
