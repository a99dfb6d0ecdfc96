"""Policies that need no language model: fixed routes over the evidence tools, and exploiters of the reward.

Each is a `types.Policy`: a batch of histories in, one completion each out. They read text and write text, so they
stand where a language model would.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np

from mma_jax.agents.notes import TOOL_OF, Notes, read
from mma_jax.envs.observations import NULL
from mma_jax.envs.tools import TERMINAL
from mma_jax.types import History, Policy

ORDER = ("text", "behavior", "image")
"""The fixed order of RuleRouter-Fuse: text, graph, image (§4.1)."""

Scorer = Callable[[Notes], np.ndarray]


def batched(act: Callable[[History], str]) -> Policy:
    """A policy from a function of one history."""
    return lambda histories: [act(history) for history in histories]


def action(tool: str, thought: str = "", **args) -> str:
    """A completion: free reasoning, then the action as one line of JSON."""
    line = json.dumps({"tool": tool, "args": args}, separators=(",", ":"))
    return f"{thought}\n{line}" if thought else line


def probe(modality: str, notes: Notes, thought: str = "") -> str:
    """Call a modality's tool for the whole pool, or for the first stage's best if a call may name only so many."""
    if modality == "behavior":
        return action(TOOL_OF[modality], thought, user_id="u")
    if notes.says_all:
        return action(TOOL_OF[modality], thought, item_id="all")
    best = [notes.handles[n] for n in sorted(np.argsort(notes.ranks)[: notes.limit])]
    return action(TOOL_OF[modality], thought, item_id=best if notes.limit > 1 else best[0])


def score(notes: Notes, scores: np.ndarray, thought: str = "") -> str:
    """End the episode with a full score map."""
    return action(
        TERMINAL,
        thought,
        scores={handle: round(float(s), 6) for handle, s in zip(notes.handles, scores, strict=True)},
    )


def rule_router(scorer: Scorer) -> Policy:
    """The route of RuleRouter-Fuse with any scorer."""
    return router(all_in_order, scorer)


def router(route: Callable[[Notes], str | None], scorer: Scorer) -> Policy:
    """Probe what `route(notes)` names until it names nothing or one turn is left, then score."""

    def act(history: History) -> str:
        notes = read(history)
        modality = route(notes) if notes.turns_left > 1 else None
        return probe(modality, notes) if modality else score(notes, scorer(notes))

    return batched(act)


def all_in_order(notes: Notes) -> str | None:
    """Text, graph and image once each, whatever they answer (RuleRouter-Fuse, DESIGN §5.8)."""
    return next((m for m in ORDER if not notes.was_called(m)), None)


def until_first_success(notes: Notes) -> str | None:
    """The same order, but stop at the first answer that is not Null (Router-StopAtFirst)."""
    return None if any(notes.got(m) for m in ORDER) else all_in_order(notes)


def peek(notes: Notes) -> list[str]:
    """The modalities that the format of the prompt's summaries betrays (RuleRouter-Peek)."""
    return [m for m in ORDER if any(m in summary for summary in notes.summaries)]


def peeked(notes: Notes) -> str | None:
    """Probe only what the summaries betray; with no summaries, everything in order."""
    wanted = peek(notes) or list(ORDER)
    return next((m for m in wanted if not notes.was_called(m)), None)


def expert(scorer: Scorer) -> Policy:
    """The scripted expert with any scorer; the one that MMA-SFT imitates has scores of its own (`demonstrations`)."""
    return switching(lambda notes, thought: score(notes, scorer(notes), thought))


def switching(finish: Callable[[Notes, str], str]) -> Policy:
    """The expert's route (DESIGN §5.10): probe, switch after Null, score by `finish(notes, reason)`.

    Its reasons are what answered last and the tool it turns to, in the environment's own names: "Null: Analyze_Image."
    A word has two tokens, with a blank before it and without, which a tiny model hardly tells apart; sampled at random,
    they made samples of one episode differ where they said the same.
    """

    def act(history: History) -> str:
        notes = read(history)
        heard = next((m for m in ORDER if notes.got(m)), None)
        rest = [m for m in (peek(notes) or ORDER) if not notes.was_called(m)]
        if heard or not rest or notes.turns_left <= 1:
            return finish(notes, f"{TOOL_OF[heard] if heard else NULL}: {TERMINAL}.")
        return probe(rest[0], notes, f"{NULL}: {TOOL_OF[rest[0]]}." if notes.answers else f"{TOOL_OF[rest[0]]}.")

    return batched(act)


def asking(scorer: Scorer) -> Policy:
    """Router-Ask: like Router-StopAtFirst, but the user is asked about the source that answered (interactive only)."""

    def act(history: History) -> str:
        notes = read(history)
        last = notes.turns_left <= 1
        if not last and (modality := until_first_success(notes)):
            return probe(modality, notes)
        heard = next((m for m in ORDER if notes.got(m)), None)
        if heard and not last and "Ask_User" not in notes.answers:
            return action("Ask_User", modality_type=heard, query="What do you look for?")
        return score(notes, scorer(notes))

    return batched(act)


def repeat(text: Callable[[Notes], str]) -> Policy:
    """An exploiter: `text(notes)` every turn, whatever is heard."""
    return batched(lambda history: text(read(history)))


def score_at_once(notes: Notes) -> str:
    """Trust the first stage, ask nothing."""
    return score(notes, notes.first_stage)


def reverse_at_once(notes: Notes) -> str:
    """Hope that the target was inserted last."""
    return score(notes, notes.ranks.astype(float))


def spam_invalid(notes: Notes) -> str:
    """Never say anything valid."""
    return "I would rather not."


def repeat_null(notes: Notes) -> str:
    """Retry one tool for ever, Null or not, then score."""
    return probe("text", notes) if notes.turns_left > 1 else score(notes, notes.first_stage)
