"""AgentCF (Zhang et al., WWW 2024, arXiv:2310.09233): users and items as agents that remember in natural language.

Learning simulates training interactions in order. A user agent, given its own memory and those of two item agents,
chooses between what it took and a negative; where it chooses wrong, the user agent and the agent of the item it took
reflect on that, and each rewrites its memory with the other's in view. So preferences travel from user to item to user
without any gradient. At test time the same language model ranks the candidates from the user's and their memories.

Deviations:
    Candidates are ranked by the Score_Candidates map of §3.3 over the common prompt with the memories below it, in one
    turn without evidence calls, so that fusion and evaluation are those of every method here (the paper's AgentCF_B,
    without its retrieval from long-term memory). The map's opening is given; what follows is the model's, without a
    grammar, and judged as written: sampler.grammar and eval.scores are of the agents that play turns.
    The negative is drawn from the episode's pool, and keeps its memory. A right choice changes nothing.
    Memories are at most `words` words. A ranking prompt tells the first of them that the context has room for: next to
    none of the items' own where B = 100 and it holds 2,048 tokens.
    A base model too small to reflect writes text that speaks of nothing it was shown; then a memory falls back to words
    of the agent met and of its own, in turn. The "language" of such a run is a bag of words, though who meets whom, and
    when, still follows the model's choices.

Masks (DESIGN §5.2). What an agent begins with, words of the user's history and of the item, is text, and comes through
Analyze_Text or not at all. What reflection adds is tied to who a user or an item is, like the embeddings of other
baselines: that is behavior. It is told in words, so where text is missing it follows the rule for the neighbors' titles
of Retrieve_Graph (DESIGN §5.7): shown with env.graph_titles, hidden without.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from mma_jax.agents.rollout import play as play_policy
from mma_jax.envs.environment import Environment
from mma_jax.envs.evidence import clean
from mma_jax.features.text import tokenize
from mma_jax.types import Case, Episode, History, Message, Trajectory

Generate = Callable[[list[History], int], list[str]]
"""(histories, tokens at most) -> greedy completions; see `language_model.generate`."""

Fits = Callable[[History, int], bool]
"""(history, tokens of its completion at most) -> whether the context holds both."""

OPENING = '{"tool":"Score_Candidates","args":{"scores":{'
"""How the one turn of an episode begins, so that whatever follows is an attempt to score."""

_CHOICE = re.compile(r"\W*([ab])\b", re.IGNORECASE)
_NEW_WORDS = 0.5  # share of a reflection's words that may be other than those shown to the agent


@dataclasses.dataclass(frozen=True)
class Memories:
    """What reflection has written, by row of user and item; agents that never reflected are absent."""

    users: dict[int, str] = dataclasses.field(default_factory=dict)
    items: dict[int, str] = dataclasses.field(default_factory=dict)


class Interaction(NamedTuple):
    """A training interaction to simulate. Texts are what the agents know before they have any memory."""

    user: int
    taken: int
    other: int
    user_text: str
    taken_text: str
    other_text: str
    taken_first: bool  # which of the two is named first is drawn, since models prefer a place


def learn(env: Environment, train: Sequence[Episode], generate: Generate, config, seed: int) -> Memories:
    """Memories after simulating training interactions.

    Args:
        env: of the training part.
        train: training episodes; those with text and with the target in the pool are simulated, each target once.
        generate: the language model.
        config: config.agentcf: interactions, how many are simulated at most; words, of a memory; max_new, tokens of a
            choice or a reflection.
        seed: of negatives and of the order in which two items are named.
    """
    memories = Memories()
    waiting = interactions(env, train, config, seed)
    with tqdm(total=len(waiting), desc="AgentCF learns", leave=False) as bar:
        while waiting:
            meeting, waiting = disjoint(waiting)
            _simulate(meeting, memories, generate, config)
            bar.update(len(meeting))
    return memories


def interactions(env: Environment, train: Sequence[Episode], config, seed: int) -> list[Interaction]:
    """What is simulated: the first of `train` that can be, the shorter history first, so that time runs forward."""
    rng = np.random.default_rng(seed)
    found: dict[tuple[int, int], tuple[int, Interaction]] = {}
    for episode in train:
        case, pair, taken = episode.case, (episode.user, episode.target), episode.target_position
        if len(found) == config.interactions:
            break
        known = _known(env, case, config.words)
        if known is None or taken < 0 or pair in found:
            continue
        user_text, items = known
        other = int(rng.choice(np.delete(np.arange(len(case.pool)), taken)))
        taken_first = bool(rng.integers(2))
        one = Interaction(*pair, int(case.pool[other]), user_text, items[taken], items[other], taken_first)
        found[pair] = (len(case.history), one)
    return [one for _, one in sorted(found.values(), key=lambda entry: entry[0])]


def disjoint(waiting: list[Interaction]) -> tuple[list[Interaction], list[Interaction]]:
    """The interactions that can be simulated side by side, and the rest: no agent is in two of them, or in one that
    has to wait for an earlier one of its own."""
    users, items = set(), set()
    now, later = [], []
    for one in waiting:
        free = one.user not in users and not items & {one.taken, one.other}
        (now if free else later).append(one)
        users.add(one.user)
        items |= {one.taken, one.other}
    return now, later


def _simulate(meeting: list[Interaction], memories: Memories, generate: Generate, config) -> None:
    """Choices, then reflections of those who chose wrong, all side by side."""
    answers = generate([_choice(one, memories) for one in meeting], config.max_new)
    wrong = [(one, answer) for one, answer in zip(meeting, answers, strict=True) if not _is_right(one, answer)]
    if not wrong:
        return
    tastes = generate([_user_reflection(one, memories, answer, config.words) for one, answer in wrong], config.max_new)
    for (one, _), taste in zip(wrong, tastes, strict=True):
        met = f"{one.taken_text} {memories.items.get(one.taken, '')}"
        memories.users[one.user] = _remember(taste, met, _user(memories, one), config.words)
    fans = generate([_item_reflection(one, memories, config.words) for one, _ in wrong], config.max_new)
    for (one, _), fan in zip(wrong, fans, strict=True):
        known = memories.items.get(one.taken, "")
        memories.items[one.taken] = _remember(fan, _user(memories, one), known, config.words)


def _is_right(one: Interaction, answer: str) -> bool:
    """An answer that names neither is wrong."""
    chosen = _CHOICE.match(answer)
    return chosen is not None and (chosen[1].lower() == "a") == one.taken_first


def _remember(written: str, met: str, own: str, limit: int) -> str:
    """A reflection if it speaks of what was shown, else words of the agent met and of its own in turn."""
    written = _shorten(clean(written), limit)
    said, shown = tokenize(written), {*tokenize(met), *tokenize(own)}
    strange = sum(word not in shown for word in said)
    if len(set(said) & shown) >= 2 and strange <= _NEW_WORDS * len(said):
        return written
    in_turn = itertools.chain.from_iterable(itertools.zip_longest(tokenize(met), tokenize(own)))
    return " ".join(list(dict.fromkeys(filter(None, in_turn)))[:limit])


def _user(memories: Memories, one: Interaction) -> str:
    return memories.users.get(one.user, one.user_text)


def _item(memories: Memories, item: int, text: str, limit: int | None = None) -> str:
    """What an item says of itself and, once it has reflected, of those who take it, at most `limit` words each."""
    return "; liked for: ".join(filter(None, (_shorten(said, limit) for said in (text, memories.items.get(item, "")))))


def _ask(role: str, question: str, begin: str) -> History:
    return Message("system", role), Message("user", question), Message("assistant", begin)


def _choice(one: Interaction, memories: Memories) -> History:
    pair = [_item(memories, one.taken, one.taken_text), _item(memories, one.other, one.other_text)]
    first, second = pair if one.taken_first else pair[::-1]
    question = f"You like: {_user(memories, one)}\nA: {first}\nB: {second}\nWhich one do you take, A or B, and why?"
    return _ask("You are a user who chooses between two items.", question, "I take ")


def _user_reflection(one: Interaction, memories: Memories, answer: str, limit: int) -> History:
    question = (
        f"You like: {_user(memories, one)}\nYou said: I take {_shorten(clean(answer), limit)}\n"
        f"But you took: {_item(memories, one.taken, one.taken_text)}\n"
        f"And you left: {_item(memories, one.other, one.other_text)}\n"
        f"Learn from this. Say in at most {limit} words what you like now."
    )
    return _ask("You are a user who reflects on a wrong choice.", question, "I like ")


def _item_reflection(one: Interaction, memories: Memories, limit: int) -> History:
    question = (
        f"You are: {_item(memories, one.taken, one.taken_text)}\nA user took you who likes: {_user(memories, one)}\n"
        f"Say in at most {limit} words what those who take you like."
    )
    return _ask("You are an item that learns who takes it.", question, "They like ")


def play(
    env: Environment, episodes: Sequence[Episode], memories: Memories, generate: Generate, fits: Fits, config
) -> list[Trajectory]:
    """Rank by memories, one turn an episode. The trajectories' prompts are those read, memories included: what the
    environment sets aside for observations is free for them, and holds as many words of each as fit."""
    room = max(env.budget(len(episode.case.pool)).scores for episode in episodes)
    begin = Message("assistant", OPENING)
    prompts = []
    for episode in episodes:
        for limits in _shorter(config.words):
            prompt = remind(env, episode, memories, *limits)
            if fits((*prompt, begin), room):
                break
        prompts.append(prompt)
    scores = generate([(*prompt, begin) for prompt in prompts], room)
    trajectories = []
    for episode, prompt, completion in zip(episodes, prompts, scores, strict=True):
        [trajectory] = play_policy(lambda _, text=OPENING + completion: [text], env, [episode], batch=1)
        trajectories.append(dataclasses.replace(trajectory, prompt=prompt))
    return trajectories


def _shorter(words: int) -> Iterator[tuple[int, int]]:
    """Words of the user's memory and of an item's, ever fewer: one user costs less than all the candidates."""
    yield from ((words, n) for n in range(words, 0, -1))
    yield from ((n, 0) for n in range(words, -1, -1))


def remind(env: Environment, episode: Episode, memories: Memories, limit: int, of_items: int) -> History:
    """The environment's opening with the memories that the case lets an agent have below the candidates.

    limit: words of the user's memory; of_items: of an item's text and of what it has learned, at most `limit` each.
    What has no words gets no line.
    """
    system, user = env.reset(episode)[1]
    case, known = episode.case, _known(env, episode.case, limit)
    taste, own = known or ("", [""] * len(case.pool))
    in_words = known is not None or env.options.graph_titles
    learned = memories if env.evidence.observes(case, "behavior") and in_words else Memories()
    taste = _shorten(learned.users.get(episode.user, taste), limit)
    items = [_item(learned, item, text, of_items) for item, text in zip(case.pool.tolist(), own, strict=True)]
    lines = [f"u likes: {taste}"] if taste else []
    lines += [f"{handle} is: {item}" for handle, item in enumerate(items, start=1) if item]
    return system, Message("user", "\n".join([user.content, *lines]))


def _known(env: Environment, case: Case, limit: int) -> tuple[str, list[str]] | None:
    """What text says of the user and of the candidates, at most `limit` words each; None if text is missing."""
    handles = [str(n) for n in range(1, len(case.pool) + 1)]
    answer = env.tools["Analyze_Text"].call(env.evidence, case, item_id=handles)
    if answer is None:
        return None
    profile = [word for field in answer["profile"].values() for word in field]
    items = [answer["items"][handle] for handle in handles]
    texts = [" ".join(item.values()) if isinstance(item, dict) else "" for item in items]
    return " ".join(profile[:limit]), [_shorten(text, limit) for text in texts]


def _shorten(text: str, limit: int | None) -> str:
    return " ".join(text.split()[:limit])
