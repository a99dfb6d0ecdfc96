"""What MMA-SFT imitates: a scripted expert that probes, switches after Null and scores (DESIGN §5.10).

The expert plays the environment in texts; its episodes become ids as the player would have seen and written them. Its
scores are integers 0 .. levels - 1, one digit each where levels is 10, from one of three sources (config.sft.scores):

    router         the deterministic scores of RuleRouter-Fuse, stretched over the levels: then that is the ceiling
    train_targets  utilities fitted to training targets, as far as evidence alone speaks for a candidate
    hindsight      the router's scores, with the training target set to the top
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy import sparse
from tqdm import tqdm

from mma_jax.agents import choice, evidence_linear, overlap
from mma_jax.agents.language_model import Transcript
from mma_jax.agents.notes import Notes
from mma_jax.agents.rollout import play
from mma_jax.agents.routers import ORDER, action, switching
from mma_jax.envs.environment import Environment
from mma_jax.envs.rewards import terminal_reward
from mma_jax.envs.tools import TERMINAL
from mma_jax.features.text import tokenize
from mma_jax.learning import sequences
from mma_jax.models.tokenizer import Chat
from mma_jax.types import Episode, InputError, Message, Policy, Trajectory

SOURCES = ("router", "train_targets", "hindsight")

Rating = Callable[[Notes], np.ndarray]
"""Notes -> int levels [B]."""

Similar = Callable[[str, str], float]
"""How alike two words are, 0 to 1."""

FIRST_STAGE = 2
"""Leading columns of the features, first-stage score and rank. Eq. 2 fuses them in; scores repeat a part of them
(config.sft.first_stage), for one alpha cannot be right both where the evidence is strong and where it is weak."""

FIELDS = ("title", "category", "description")
HASHED = 256  # columns for single tags: an encoder knows few, and each may weigh differently

SPAN = (0.01, 0.99)
"""Quantiles of training utilities that the levels divide evenly.

Eq. 2 adds scores up, so their distances matter: on the demo world ten levels kept an NDCG@10 of .318 of the utilities'
.320, ten levels of equal counts .311.
"""


class Shown(NamedTuple):
    """An episode of the expert."""

    tool: str  # the last called before the scores; "" if none was
    sequence: sequences.Sequence


@dataclasses.dataclass(frozen=True)
class Teacher:
    """Rates candidates by what an agent has heard; with hindsight also by the target, for training episodes only."""

    rate: Rating
    levels: int
    hindsight: bool = False

    def __call__(self, notes: Notes) -> np.ndarray:
        """int [B] in 0 .. levels - 1, all 0 if nothing was heard; knows no target."""
        return self.rate(notes)

    def of(self, episode: Episode) -> Rating:
        """The rating to demonstrate in one training episode."""
        if not self.hindsight or episode.target_position < 0:
            return self.rate
        target = np.arange(len(episode.case.pool)) == episode.target_position
        return lambda notes: np.where(target, self.levels - 1, self.rate(notes))


def teacher(env: Environment, train: Sequence[Episode], config, similar: Similar | None = None) -> Teacher:
    """The teacher that `config.scores` names.

    Args:
        env: of the training part.
        train: training episodes with the target in the pool.
        config: config.sft with scores, levels, and for train_targets l2, the prior precision of standardized weights,
            and first_stage, the share of the first stage's weight to keep.
        similar: of two words, for train_targets; None: they are equal or not.

    Raises:
        InputError: `config.scores` is none of SOURCES, or there is no episode to fit it on.
    """
    if config.scores not in SOURCES:
        raise InputError(f"config.sft.scores is {config.scores!r}: known are {', '.join(SOURCES)}")
    if config.scores == "train_targets":
        if not train:
            raise InputError("no training target is in its pool: raise config.episodes.train or config.pool.size")
        return Teacher(_fit(env, train, config, similar or _equal), config.levels)
    hindsight = config.scores == "hindsight"
    return Teacher(lambda notes: stretch(overlap.fused(notes), config.levels), config.levels, hindsight)


def in_turn(families: Sequence[list[Episode]]) -> list[Episode]:
    """An episode of each family, then another of each, until none is left. Families have the same users and targets in
    the same order, so each begins elsewhere: what follows is as many different ones as can be."""
    begun = [n * len(found) // len(families) for n, found in enumerate(families)]
    turned = [found[n:] + found[:n] for n, found in zip(begun, families, strict=True)]
    return [episode for row in itertools.zip_longest(*turned) for episode in row if episode is not None]


def demonstrate(
    env: Environment, episodes: Sequence[Episode], chat: Chat, teacher: Teacher, label: str = ""
) -> Iterator[Shown]:
    """The expert's episodes, in order, with the rewards it earned; its own tokens alone are actions."""
    for episode in tqdm(episodes, desc=label, leave=False, disable=not label):
        limit = env.budget(len(episode.case.pool)).scored
        [trajectory] = play(expert(teacher.of(episode), limit), env, [episode], batch=1)
        called = [turn.tool for turn in trajectory.turns if turn.tool != TERMINAL]
        yield Shown(called[-1] if called else "", transcribe(trajectory, chat))


def balance(shown: Iterable[Shown], count: int) -> list[sequences.Sequence]:
    """At most `count` episodes, as many of each tool that answered last; then no more of `shown` are asked for.

    Families alone do not balance what there is to be read: of the seven, four let the expert read text first and a
    single one images. But they should come `in_turn`, for the first of each tool are kept.
    """
    tools: dict[str, list[sequences.Sequence]] = {}
    each = count
    for tool, sequence in shown:
        tools.setdefault(tool, []).append(sequence)
        each = max(1, count // len(tools))
        if min(map(len, tools.values())) >= each:
            break
    return [sequence for found in tools.values() for sequence in found[:each]]


def expert(rate: Rating, limit: int) -> Policy:
    """The expert of `routers`; scores at most `limit` candidates, in the order listed."""

    def finish(notes: Notes, thought: str) -> str:
        levels = rate(notes)
        kept = sorted(np.lexsort((notes.ranks, -levels))[:limit])
        return action(TERMINAL, thought, scores={notes.handles[n]: int(levels[n]) for n in kept})

    return switching(finish)


def transcribe(trajectory: Trajectory, chat: Chat) -> sequences.Sequence:
    """A scripted trajectory as if the player had sampled it: each text and its end are actions."""
    transcript = Transcript()
    transcript.read(chat.open(trajectory.prompt))
    for n, turn in enumerate(trajectory.turns):
        said = [*chat.tokenizer.encode(turn.text), *chat.end]
        transcript.write(n, said, [0.0] * len(said), [False] * len(said))
        transcript.read(chat.reply(Message("tool", turn.observation), closed=True))
    return transcript.sequence(trajectory.episode, trajectory.rewards)


def stretch(scores: np.ndarray, levels: int) -> np.ndarray:
    """Scores [B] min-max scaled to int 0 .. levels - 1; all 0 if they are equal."""
    span = scores.max() - scores.min()
    return np.rint((scores - scores.min()) / (span if span > 0 else 1.0) * (levels - 1)).astype(int)


class _Heard(NamedTuple):
    """What the expert has heard when it scores."""

    sources: tuple[str, ...]  # modalities that answered
    row: sparse.csr_matrix  # `features`


class _Fitted(NamedTuple):
    """Utilities, and cut points for each set of modalities that answered: a level means the same in every pool."""

    model: choice.ChoiceModel
    cuts: dict[tuple[str, ...], np.ndarray]

    def levels(self, heard: _Heard, count: int) -> np.ndarray:
        utility = self.model.scores(heard.row)
        if heard.sources not in self.cuts:
            return stretch(utility, count)  # a mixture of sources that no training episode heard
        return np.searchsorted(self.cuts[heard.sources], utility)


def _fit(env: Environment, train: Sequence[Episode], config, similar: Similar) -> Rating:
    """A conditional logit of the targets on evidence and first stage, of which the evidence's part is kept
    and of the first stage's the share config.first_stage.

    Where what answered does not beat the first stage by more than a standard error, in episodes of users that the logit
    was not fitted on, the rating says nothing, all 0: maps are min-max normalized (Eq. 2), so weak evidence would count
    as much as strong.
    """
    columns = functools.partial(features, similar=functools.lru_cache(1 << 20)(similar))
    heard: list[_Heard] = []

    def keep(notes: Notes) -> np.ndarray:
        heard.append(_Heard(_answered(notes), columns(notes)))
        return np.zeros(len(notes.handles), int)

    size = len(train[0].case.pool)
    play(expert(keep, size), env, train, batch=1, label="what the expert hears")  # one by one, so in order
    gains: dict[tuple[str, ...], list[float]] = {}
    halves = [[n for n, episode in enumerate(train) if episode.user % 2 == half] for half in (0, 1)]
    for half, rest in (halves, halves[::-1]) if all(halves) else ():
        other = _fitted([heard[n] for n in rest], [train[n] for n in rest], config)
        for n in half:
            gain = _gain(train[n], other.levels(heard[n], config.levels), env.options.alpha)
            gains.setdefault(heard[n].sources, []).append(gain)
    mute = {sources for sources, found in gains.items() if np.mean(found) <= np.std(found) / len(found) ** 0.5}
    fitted = _fitted(heard, train, config)

    def rate(notes: Notes) -> np.ndarray:
        sources = _answered(notes)
        if sources in mute:
            return np.zeros(len(notes.handles), int)
        return fitted.levels(_Heard(sources, columns(notes)), config.levels)

    return rate


def _fitted(heard: Sequence[_Heard], train: Sequence[Episode], config) -> _Fitted:
    targets = np.array([episode.target_position for episode in train])
    rows = sparse.vstack([said.row for said in heard]).tocsr()
    model = choice.fit(rows, targets, len(train[0].case.pool), config.l2)
    kept = np.where(np.arange(len(model.weights)) < FIRST_STAGE, config.first_stage, 1.0)
    model = dataclasses.replace(model, weights=kept * model.weights)
    return _Fitted(model, _cuts(((said.sources, model.scores(said.row)) for said in heard), config.levels))


def _gain(episode: Episode, levels: np.ndarray, alpha: float) -> float:
    """What the levels earn beyond the first stage."""
    first, target = episode.case.scores, episode.target_position
    return terminal_reward(first, levels, target, alpha) - terminal_reward(first, np.zeros(len(first)), target, alpha)


def _answered(notes: Notes) -> tuple[str, ...]:
    return tuple(m for m in ORDER if notes.got(m))


def _cuts(utilities: Iterable[tuple[tuple[str, ...], np.ndarray]], levels: int) -> dict[tuple[str, ...], np.ndarray]:
    """Sources -> float64 [levels - 1], evenly spaced over SPAN; where nothing answered, all utilities lie below."""
    groups: dict[tuple[str, ...], list[np.ndarray]] = {}
    for sources, values in utilities:
        groups.setdefault(sources, []).append(values)
    return {
        sources: np.linspace(*np.quantile(np.concatenate(values), SPAN), levels + 1)[1:-1]
        for sources, values in groups.items()
    }


def features(notes: Notes, similar: Similar) -> sparse.csr_matrix:
    """Evidence-linear's dense features, then per field the share of the profile that a candidate matches, then for
    each tag whether the candidate has it, and log(1 + its count in the profile) if so: CSR [B, 6 + 3 + 2 HASHED]."""
    size = len(notes.handles)
    fields, tags = np.zeros((size, len(FIELDS))), np.zeros((size, 2, HASHED))
    if text := notes.got("text"):
        own = [tokenize(overlap.candidate_text(notes, n)) for n in range(size)]
        for column, field in enumerate(FIELDS):
            profile = text["profile"].get(field, {})
            fields[:, column] = matched(profile, own, similar).sum(axis=1)
    if image := notes.got("image"):
        for n in range(size):
            for tag in overlap.candidate_tags(notes, n):
                tags[n, :, zlib.crc32(tag.encode()) % HASHED] += 1.0, np.log1p(image["profile"].get(tag, 0))
    return sparse.csr_matrix(np.hstack([evidence_linear.dense_features(notes), fields, tags.reshape(size, -1)]))


def matched(profile: dict[str, int], own: list[list[str]], similar: Similar) -> np.ndarray:
    """Share of a profile's word p times its likeness to the likest of candidate b's words: float64 [B, P]."""
    vocabulary = {word: n for n, word in enumerate(dict.fromkeys(word for listed in own for word in listed))}
    alike = np.array([[similar(word, other) for other in vocabulary] for word in profile])
    alike = alike.reshape(len(profile), len(vocabulary))
    counts = np.array(list(profile.values()), float)
    best = np.zeros((len(own), len(profile)))
    for n, listed in enumerate(own):
        if listed:
            best[n] = alike[:, [vocabulary[word] for word in listed]].max(axis=1)
    return best * counts / max(counts.sum(), 1.0)


def _equal(word: str, other: str) -> float:
    return float(word == other)
