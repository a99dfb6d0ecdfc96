"""Grammar-constrained decoding: every turn is free text and then one valid action, in one line (DESIGN §6.14).

    free text without "{"  ->  {"tool":"Score_Candidates","args":{"scores":{"1":7,...,"B":3}}}  ->  end token

A score map has each handle once, in the order 1..B, with whole scores from 0 to 100; a list of handles has any number
of them up to the tools' bound; strings are free but for what JSON would escape.

`automaton` alone decides which texts are valid. Its nodes between tokens, and the tokens that lead from one to the
next, are read off from lines that cover the grammar, as the tokenizer itself writes them: a model never saw anything
else. Where it cannot write them (it folds case, say), any token goes whose text the automaton takes. Tokens that do the
same in every state share a class, which keeps the tables small.

A state also knows the fewest tokens to the end: a token is allowed if a row that takes it can still end in time. Where
a single one is allowed, nothing is sampled.

V = tokens, S = states, C = classes, B = candidates.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mma_jax.envs.tools.schema import Tool, handles
from mma_jax.models.tokenizer import Tokenizer
from mma_jax.sampling.automaton import DEAD, SCORES, Automaton, alternatives
from mma_jax.types import InputError

RULED_OUT = -1e30
"""Logit of a token that may not come: finite, so that 0 * log 0 is 0."""

_NEVER = 1 << 30  # tokens to the end by a way that does not lead there
_WIDEST = 8  # tokens run through the model at once, at most
_THOUGHTS = ("x\n", "Why.\n")  # before an action: the tokens that begin a line, and a text
_STRINGS = ("", "x", "Which one?")

Edges = dict[int, dict[int, int]]
"""Node -> token -> the node after it."""


class Tables(NamedTuple):
    """What decoding looks up. State 0 allows everything."""

    classes: jax.Array  # int32 [V]
    need: jax.Array  # int32 [S, C], tokens to the end if one of the class comes next, itself included; _NEVER if none
    follow: jax.Array  # int32 [S, C], the state after it
    best: jax.Array  # int32 [S], a token that needs least
    second: jax.Array  # int32 [S], what the next best needs: with less room, the best is the only one

    def allowed(self, state: jax.Array, room: jax.Array) -> jax.Array:
        """Whether each token may come next, bool [..., V]. room: int32 [...], tokens left, this one included."""
        return (self.need[state] <= room[..., None])[..., self.classes]

    def forced(self, state: jax.Array, room: jax.Array) -> jax.Array:
        """Whether `best` is the only token that may come next, bool [...]."""
        return room < self.second[state]

    def after(self, state: jax.Array, token: jax.Array) -> jax.Array:
        """The state after an allowed token, int32 [...]."""
        return self.follow[state, self.classes[token]]


@dataclasses.dataclass(frozen=True, eq=False)
class Grammar:
    """The actions of an environment in the tokens of a model; made by `compile_grammar`."""

    tables: Tables
    least: np.ndarray  # int32 [S], tokens to the end
    automaton: Automaton
    states: Mapping[int, int]  # of the automaton's nodes between tokens

    def start(self, begun: str = "") -> int:
        """The state of a turn that begins with forced text.

        Raises:
            InputError: no action begins like that, or its next token would begin within the text.
        """
        state = self.states.get(self.automaton.walk(self.automaton.start, begun))
        if state is None:
            raise InputError(f"sampler.grammar=on cannot go on from {begun[-60:]!r}: end forced text behind a brace")
        return state

    def read(self, state: int, tokens: Iterable[int], room: int) -> tuple[list[int], list[bool], int]:
        """What was allowed where tokens stand.

        Args:
            state: before the first of them.
            tokens: allowed ones.
            room: tokens left before the first.

        Returns:
            For each token the rule that `allowed` takes, and whether it was the only one; the state after the last.
        """
        rules, forced = [], []
        for token in tokens:
            rules.append(state * self._rooms + min(room, self._rooms - 1))
            forced.append(bool(self._numpy.forced(state, room)))
            state, room = int(self._numpy.after(state, token)), room - 1
        return rules, forced, state

    def allowed(self, rules: jax.Array) -> jax.Array:
        """Which tokens might have stood there: int32 [...] of `read` -> bool [..., V]. Rule 0 allows all."""
        tables = Tables(*map(jnp.asarray, self._numpy))  # constants of the program, wherever it runs
        return tables.allowed(rules // self._rooms, rules % self._rooms)

    @functools.cached_property
    def width(self) -> int:
        """J, tokens that a step of decoding runs through the model: one that is sampled, and as many as are ever forced
        behind it in the longest action, a score map."""
        tables, state, runs = self._numpy, int(self.least.argmax()), [0]
        while self.least[state]:
            if tables.forced(state, _NEVER - 1):
                runs[-1] += 1
            else:
                runs.append(0)
            state = int(tables.after(state, tables.best[state]))
        return min(_WIDEST, 1 + max(runs))

    @functools.cached_property
    def _numpy(self) -> Tables:
        return jax.device_get(self.tables)

    @functools.cached_property
    def _rooms(self) -> int:
        """More room than that makes no difference."""
        return int(self.least.max()) + 2


def compile_grammar(
    tokenizer: Tokenizer, end: int, tools: Mapping[str, Tool], pool_size: int, vocab_size: int | None = None
) -> Grammar:
    """The grammar of actions for pools of one size.

    Args:
        tokenizer: the model's.
        end: the token that ends a turn.
        tools: of `tools.toolbox`.
        pool_size: B.
        vocab_size: V, the model's, where it has more tokens than the tokenizer.

    Raises:
        InputError: the tokenizer cannot write an action.
    """
    automaton, texts = Automaton(tools, pool_size), _texts(tokenizer)
    edges, openings = _written(automaton, tokenizer, texts, tools, pool_size) or _spelled(automaton, texts)
    for node in filter(automaton.is_free, range(len(automaton))):
        for token, text in enumerate(texts):
            if text and automaton.is_free(after := automaton.walk(node, text)):
                edges[node][token] = after
    over = len(automaton)
    edges[automaton.end] = {end: over}
    least = _least(edges, over)
    if automaton.start not in least:
        raise InputError("sampler.grammar=on: the tokenizer has no tokens for the actions; turn it off")
    states = _reachable(edges, [automaton.start, *openings], least)
    tables = _tabulate(edges, least, states, vocab_size or tokenizer.vocab_size)
    return Grammar(tables, np.array([0, *(least[node] for node in states)], np.int32), automaton, states)


def _texts(tokenizer: Tokenizer) -> list[str]:
    """What each token writes behind other text, "" for control tokens."""
    before = tokenizer.encode("x")
    skip = len(tokenizer.decode(before))
    texts = [tokenizer.decode([*before, token])[skip:] for token in range(tokenizer.vocab_size)]
    for token in tokenizer.stop_ids:
        texts[token] = ""
    return texts


def _written(
    automaton: Automaton, tokenizer: Tokenizer, texts: list[str], tools: Mapping[str, Tool], pool_size: int
) -> tuple[Edges, list[int]] | None:
    """The edges that the tokenizer takes when it writes actions, and nodes where forced text may end: behind the last
    brace that opens. None if it cannot write them."""
    edges, openings = defaultdict(dict), {}
    for line in _lines(tools, pool_size):
        brace = line.rindex("{") + 1
        opened = automaton.walk(automaton.start, line[:brace])
        openings[opened] = None
        for node, text in (
            (automaton.start, line),
            (opened, line[brace:]),
            *((automaton.start, thought + line) for thought in _THOUGHTS),
        ):
            for token in tokenizer.encode(text):
                after = automaton.walk(node, texts[token])
                if after == DEAD or not texts[token]:
                    return None
                edges[node][token] = after
                node = after
    return edges, list(openings)


def _spelled(automaton: Automaton, texts: list[str]) -> tuple[Edges, list[int]]:
    """Every edge that a token's text makes; forced text may end anywhere."""
    edges, beginning = defaultdict(dict), defaultdict(list)
    for token, text in enumerate(texts):
        beginning[text[:1]].append(token)
    for node in range(len(automaton)):
        for token in itertools.chain.from_iterable(beginning[first] for first in automaton.characters(node)):
            if (after := automaton.walk(node, texts[token])) != DEAD:
                edges[node][token] = after
    return edges, list(range(len(automaton)))


def _lines(tools: Mapping[str, Tool], pool_size: int) -> Iterator[str]:
    """Actions that cover the grammar: every handle and score in every place that they can have."""
    for tool in tools.values():
        kinds = [kind.text for kind in tool.parameters.values()]
        for values in itertools.product(*([*_values(kind, pool_size)] for kind in kinds)):
            args = ",".join(f'"{name}":{value}' for name, value in zip(tool.parameters, values, strict=True))
            yield f'{{"tool":"{tool.name}","args":{{{args}}}}}'


def _values(kind: str, pool_size: int) -> Iterator[str]:
    """Arguments of what `automaton.alternatives` says of a kind."""
    names = [f'"{handle}"' for handle in handles(pool_size)]
    for form, detail in alternatives(kind):
        if form == "map":
            yield from (f"{{{','.join(f'{name}:{score}' for name in names)}}}" for score in SCORES)
        elif form == "list":
            turned = [names[n:] + names[:n] for n in range(pool_size)]
            yield from (
                f"[{','.join(entries[:length])}]" for entries in turned for length in range(1, (detail or 3) + 1)
            )
        elif form == "handle":
            yield from names
        elif form == "string":
            yield from (f'"{text}"' for text in _STRINGS)
        else:
            yield from detail


def _least(edges: Edges, over: int) -> dict[int, int]:
    """Node -> the fewest tokens to the end, for those that lead there."""
    before = defaultdict(set)
    for node, leads in edges.items():
        for after in leads.values():
            before[after].add(node)
    least, waiting = {over: 0}, deque([over])
    while waiting:
        node = waiting.popleft()
        for previous in before[node] - least.keys():
            least[previous] = least[node] + 1
            waiting.append(previous)
    return least


def _reachable(edges: Edges, starts: Iterable[int], least: Mapping[int, int]) -> dict[int, int]:
    """Node -> state, for those on a way from a start to the end, numbered from 1."""
    waiting = deque(node for node in dict.fromkeys(starts) if node in least)
    states = {node: n for n, node in enumerate(waiting, start=1)}
    while waiting:
        for after in edges.get(waiting.popleft(), {}).values():
            if after in least and after not in states:
                states[after] = len(states) + 1
                waiting.append(after)
    return states


def _tabulate(edges: Edges, least: Mapping[int, int], states: Mapping[int, int], vocab_size: int) -> Tables:
    """The tables, tokens that do the same everywhere in one class."""
    does: list[list[tuple[int, int]]] = [[] for _ in range(vocab_size)]
    for node, state in states.items():
        for token, after in edges.get(node, {}).items():
            if after in least:
                does[token].append((state, after))
    kinds: dict[tuple[tuple[int, int], ...], int] = {}
    classes = np.array([kinds.setdefault(tuple(found), len(kinds)) for found in does], np.int32)
    need = np.full((len(states) + 1, len(kinds)), _NEVER, np.int32)
    follow = np.zeros_like(need)
    for kind, column in kinds.items():
        for state, after in kind:
            need[state, column], follow[state, column] = least[after] + 1, states[after]
    need[0] = 0
    _, token, size = np.unique(classes, return_index=True, return_counts=True)
    best = need.argmin(axis=1)
    second = np.where(size[best] > 1, need.min(axis=1), np.partition(need, 1, axis=1)[:, 1])
    second[need.min(axis=1) == _NEVER] = 0  # over: nothing is forced
    return Tables(*map(jnp.asarray, (classes, need, follow, token[best].astype(np.int32), second)))
