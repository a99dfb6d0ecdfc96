"""A language model plays: many episodes side by side in one session of the sampler.

A row grows by ids alone (DESIGN §6.3): the opening, what was sampled, the ids of the reply, and so on. What the session
has in its cache is never fed again and what was sampled is never tokenized again, so the trainer reads the very ids the
policy wrote.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from mma_jax.agents import maps
from mma_jax.envs.environment import Environment
from mma_jax.learning.sequences import Sequence
from mma_jax.models.tokenizer import Chat
from mma_jax.sampling.grammar import Grammar
from mma_jax.types import Episode, History, InputError, Message, Trajectory, Turn


class Forced(NamedTuple):
    """Text that a turn begins with instead of sampling it; `complete`: it is the whole turn."""

    text: str
    complete: bool


Script = Callable[[Episode, int, History], Forced | None]
"""(episode, 0-based turn, history) -> what to force there: counterfactual replay and value-of-information probes."""


@dataclasses.dataclass(frozen=True, eq=False)
class Played:
    """A played episode: as evaluation reads it, and as learning does.

    `sequence` is None if a turn was forced whole: nothing of it was sampled, so there is nothing to reinforce.
    """

    trajectory: Trajectory
    sequence: Sequence | None


def play(
    sampler,
    state,
    chat: Chat,
    env: Environment,
    episodes: list[Episode],
    *,
    batch: int,
    key: tuple[int, int],
    temperature: float,
    max_new: int,
    context: int,
    label: str = "",
    samples: int = 1,
    script: Script | None = None,
    grammar: Grammar | None = None,
    lanes: int = 1,
    expected: bool = False,
) -> list[Played]:
    """Play episodes with a policy; results in the order of `episodes`, samples of one episode next to each other.

    An episode ends by the environment's rules or, with stop reason "context_limit", where a row has no room for the
    reply and another token; its last call keeps its reward and it is evaluated as first stage.

    Args:
        sampler: a `sampling.sampler.Sampler`.
        state: the policy's weights, as `sampler.open` takes them.
        batch: rows of a session; where an episode ends the next one begins.
        key: (seed, iteration), from which every sampling key derives (DESIGN §6.15).
        temperature: 0 is greedy.
        max_new: tokens of a turn, its end token included; a longer turn is cut off there, or where the context ends.
        context: tokens of a row, the session's slots.
        label: of a progress bar; "" for none.
        samples: how often each episode is played.
        script: what to force; None for nothing.
        grammar: of the environment's actions, that turns are held to; None for free text.
        lanes: sessions that the rows are shared out to, each in a thread of its own: while the device works for one,
            the environment steps for the others. What is played does not depend on it (DESIGN §6.15).
        expected: trajectories have the mean of each score in its place, see `maps.expected`; rewards are those of what
            was written.

    Raises:
        InputError: an opening and one turn do not fit the context, or a shortest action not max_new.
    """
    games = [(episode, sample) for episode in episodes for sample in range(samples)]
    lanes = max(1, min(lanes, batch, len(episodes)))

    def begin(game: tuple[Episode, int]) -> _Row:
        episode, sample = game
        row = _Row(chat, env, episode, (*key, sample), expected)
        _check_room(len(row.transcript), max_new, context, f"episode {episode.episode_id}")
        return row

    def lane(games: list[tuple[Episode, int]]) -> list[Played]:
        played: list[Played | None] = [None] * len(games)
        seats = list(range(min(batch // lanes, len(games))))  # the game in each row
        rows, waiting = [begin(games[game]) for game in seats], iter(range(len(seats), len(games)))
        session = sampler.open(state, rows=batch // lanes, slots=context)
        _share_openings(session, rows)
        while still := [n for n, row in enumerate(rows) if row.open]:
            _play_turn(session, rows, temperature, max_new, context, script, grammar)
            ended = [n for n in still if not rows[n].open]
            for n in ended:
                played[seats[n]] = rows[n].played()
            bar.update(len(ended))
            for n, game in zip(ended, waiting, strict=False):
                seats[n], new = game, begin(games[game])
                _reseat(session, n, rows[n], new)
                rows[n] = new
        return played

    with tqdm(total=len(games), desc=label, leave=False, disable=not label) as bar:
        if lanes == 1:  # in this thread, which Ctrl-C reaches at once
            return lane(games)
        share = -(-len(episodes) // lanes) * samples  # samples of an episode stay together
        parts = [games[start : start + share] for start in range(0, len(games), share)]
        with ThreadPoolExecutor(lanes) as pool:
            return [one for part in pool.map(lane, parts) for one in part]


def generate(
    sampler, state, chat: Chat, histories: list[History], *, batch: int, max_new: int, context: int, label: str = ""
) -> list[str]:
    """Greedy completions of single prompts, in order.

    histories: system and user message and, where a completion is to begin in a given way, an assistant's message with
    that beginning; it is not repeated in what is returned. Raises InputError if one does not fit the context.
    """
    texts: list[str] = []
    for start in tqdm(range(0, len(histories), batch), desc=label, leave=False, disable=not label):
        part = histories[start : start + batch]
        prompts = [opening(chat, history) for history in part]
        _check_room(max(map(len, prompts)), max_new, context, "a prompt")
        session, rows = sampler.open(state, rows=batch, slots=context), range(len(part))
        session.extend(rows, prompts)
        completions = session.sample(rows, np.zeros((len(part), 2), np.uint32), max_new, 0.0)
        texts += [chat.tokenizer.decode(completion.tokens) for completion in completions]
    return texts


def opening(chat: Chat, history: History) -> list[int]:
    """Ids of a history that `generate` takes."""
    begun = [token for message in history[2:] for token in chat.tokenizer.encode(message.content)]
    return chat.open(history[:2]) + begun


def sampling_key(seed: int, iteration: int, sample: int, turn: int, episode_id: str) -> np.ndarray:
    """Raw key of a turn, uint32 [2]: a hash, so it depends on neither batch nor row, and no two turns share one.

    The sampler folds each token's position in (DESIGN §6.15).
    """
    digest = hashlib.sha256(f"{seed}/{iteration}/{sample}/{turn}/{episode_id}".encode()).digest()
    return np.frombuffer(digest[:8], "<u4").astype(np.uint32)


class Transcript:
    """An episode as ids, each marked with the turn that wrote it."""

    def __init__(self):
        self.tokens: list[int] = []
        self.turn: list[int] = []
        self.logprobs: list[float] = []
        self.rules: list[int] = []
        self.end = 0  # behind the last completion

    def __len__(self) -> int:
        return len(self.tokens)

    def read(self, ids: list[int]) -> None:
        """Append what the policy reads: prompt, observation, forced text."""
        self.tokens += ids
        self.turn += [-1] * len(ids)
        self.logprobs += [0.0] * len(ids)
        self.rules += [0] * len(ids)

    def write(
        self, turn: int, ids: list[int], logprobs: list[float], forced: list[bool], rules: list[int] | None = None
    ) -> None:
        """Append what the policy wrote; a token that the grammar forced was not its choice. rules: None where there was
        no grammar."""
        self.rules += rules or [0] * len(ids)
        self.tokens += ids
        self.turn += [-1 if by_grammar else turn for by_grammar in forced]
        self.logprobs += logprobs
        self.end = len(self.tokens)

    def sequence(self, episode: Episode, rewards: list[float], values: list[float] = ()) -> Sequence:
        """For learning, up to the last completion: what was read after it no turn has seen.

        Every turn must have written something. values: of the turns, nan without a value head; () if nobody asked it.
        """
        turn = np.array(self.turn[: self.end], np.int32)
        return Sequence(
            tokens=np.array(self.tokens[: self.end], np.int32),
            action=turn >= 0,
            turn=turn,
            starts=np.array([np.argmax(turn == n) - 1 for n in range(len(rewards))], np.int32),
            rewards=np.array(rewards, np.float32),
            logprobs=np.array(self.logprobs[: self.end], np.float32),
            rules=np.array(self.rules[: self.end], np.int32),
            values=np.array(values, np.float32) if np.isfinite(values).all() and len(values) else None,
            episode=episode.episode_id,
            family=episode.family,
        )


def _share_openings(session, rows: list[_Row]) -> None:
    """Compute once what all openings begin with, and once the opening of each episode's samples."""
    alike = itertools.takewhile(lambda column: len(set(column)) == 1, zip(*(row.unread for row in rows), strict=False))
    common = [column[0] for column in alike]
    session.extend([0], [common])
    if len(rows) > 1:
        session.copy([0] * (len(rows) - 1), range(1, len(rows)))
    for row in rows:
        row.unread = row.unread[len(common) :]
    _read_unread(session, rows, range(len(rows)))


def _reseat(session, n: int, old: _Row, new: _Row) -> None:
    """Give row n to another episode; what the session has of the old one and both begin with stays."""
    held = old.transcript.tokens[: session.length(n)]  # less than the transcript, where nothing was sampled
    pairs = zip(held, new.transcript.tokens[:-1], strict=False)  # the last token is always run
    common = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
    session.truncate([n], [common])
    new.unread = new.unread[common:]


def _read_unread(session, rows: list[_Row], numbers: Iterable[int]) -> None:
    """Give the session what rows have not been computed of; what is the same text from its beginning, once."""
    numbers, sources = [n for n in numbers if rows[n].unread], {}
    if not numbers:
        return
    for n in numbers:
        sources.setdefault(tuple(rows[n].transcript.tokens), n)
    firsts = list(sources.values())
    session.extend(firsts, [rows[n].unread for n in firsts])
    if copies := sorted(set(numbers) - set(firsts)):
        session.copy([sources[tuple(rows[n].transcript.tokens)] for n in copies], copies)
    for n in numbers:
        rows[n].unread = []


def _play_turn(
    session,
    rows,
    temperature: float,
    max_new: int,
    context: int,
    script: Script | None,
    grammar: Grammar | None,
) -> None:
    """One turn of every open row."""
    sampling = [n for n, row in enumerate(rows) if row.open and row.begin(script, context, grammar)]
    if not sampling:
        return
    _read_unread(session, rows, sampling)
    keys = np.stack([rows[n].key() for n in sampling])
    limits = [min(max_new, context - len(rows[n].transcript)) for n in sampling]
    watched = (grammar, [rows[n].rule for n in sampling]) if grammar else ()
    for n, completion in zip(sampling, session.sample(sampling, keys, limits, temperature, *watched), strict=True):
        rows[n].complete(completion)


def _check_room(prompt: int, max_new: int, context: int, what: str) -> None:
    if prompt + max_new > context:
        raise InputError(
            f"{what} opens with {prompt} tokens and a turn may take {max_new}, more than the context of {context}: "
            "raise config.env.context and the largest of config.sampler.slots, or lower config.pool.size"
        )


class _Row:
    """One episode in play. key: (seed, iteration, sample). expected: as in `play`."""

    def __init__(self, chat: Chat, env: Environment, episode: Episode, key: tuple[int, int, int], expected: bool):
        self.chat, self.env, self.episode, self._key, self._expected = chat, env, episode, key, expected
        self.state, self.prompt = env.reset(episode)
        self.history: History = self.prompt
        self.turns: list[Turn] = []
        self.scores = np.full(len(episode.case.pool), np.nan)
        self.stop_reason = ""
        self.transcript = Transcript()
        self.unread: list[int] = []  # ids that the session has not been given yet
        self.begun: list[int] = []  # forced ids of this turn
        self.rule = 0  # the grammar's state behind them
        self._read(chat.open(self.prompt))

    @property
    def open(self) -> bool:
        return self.stop_reason == ""

    def key(self) -> np.ndarray:
        return sampling_key(*self._key, len(self.turns), self.episode.episode_id)

    def begin(self, script: Script | None, context: int, grammar: Grammar | None) -> bool:
        """Take what the script forces. Whether there is something left to sample in this turn."""
        forced = script(self.episode, len(self.turns), self.history) if script else None
        whole = forced is not None and forced.complete
        self.begun = self.chat.tokenizer.encode(forced.text) if forced else []
        least = 0 if whole else 1
        if grammar and not whole:
            self.rule = grammar.start(forced.text if forced else "")
            least = grammar.least[self.rule]
        if len(self.transcript) + len(self.begun) + least > context:
            self.stop_reason = "context_limit"
            return False
        self._read(self.begun)
        if whole:
            self._step(forced.text, closed=False)
        return not whole

    def complete(self, completion) -> None:
        """Take what was sampled; its end token, if it has one, is the policy's own."""
        wrote = completion.tokens, completion.logprobs, completion.forced, completion.rules
        self.transcript.write(len(self.turns), *wrote)
        text = self.chat.tokenizer.decode([*self.begun, *completion.tokens])
        self._step(text, completion.finished, tuple(completion.tokens), completion.value)
        if self._expected and self.stop_reason == "scored":
            self.scores = maps.expected(self.scores, completion.tokens, completion.means, self.chat.tokenizer)

    def _read(self, ids: list[int]) -> None:
        self.transcript.read(ids)
        self.unread += ids

    def _step(self, text: str, closed: bool, tokens: tuple[int, ...] = (), value: float = np.nan) -> None:
        self.state, observation, reward, done, info = self.env.step(self.state, text)
        told = (info["tool"], info["args"], observation, reward, info["error"], info["null"])
        self.turns.append(Turn(text, *told, tokens, value))
        message = Message("tool", observation)
        self.history = (*self.history, Message("assistant", text), message)
        if not done:
            self._read(self.chat.reply(message, closed))
            return
        self.stop_reason = info["stop_reason"]
        if info["scores"] is not None:
            self.scores = info["scores"]

    def played(self) -> Played:
        trajectory = Trajectory(self.episode, self.prompt, tuple(self.turns), self.stop_reason, self.scores)
        if not all(turn.tokens for turn in self.turns):
            return Played(trajectory, None)
        values = [turn.value for turn in self.turns]
        return Played(trajectory, self.transcript.sequence(self.episode, trajectory.rewards, values))
