"""How the context window is shared out: so many tokens for each field of prompt, observations and score map."""

from __future__ import annotations

import bisect
import dataclasses
import re
from collections.abc import Callable, Mapping

from mma_jax.envs.evidence import DESCRIPTION_CHARS
from mma_jax.envs.options import Options
from mma_jax.envs.prompts import LEAST_SUMMARY, system_message, user_header
from mma_jax.envs.tools import TERMINAL, toolbox
from mma_jax.types import InputError

CountTokens = Callable[[str], int]

MESSAGE = 5  # tokens a chat template adds around one message
TURN = 40  # tokens of reasoning and action in an evidence call
LEAST_OBSERVATION = 40  # tokens, on average; a smaller one is not worth its call
SUMMARY_SHARE = 0.5  # of the tokens that remain, to the candidates' summaries
WEIGHTS = {"Analyze_Text": 2}  # a tool's observation against the others' 1: text needs more words
PROFILE_SHARE = 0.25  # of an observation, to the user's profile
PROFILE_WORD = 5  # tokens of `"nail":3,`
ITEM = 30  # tokens of an item's id, keys, title and category in an observation
CHARS_PER_TOKEN = 4

_PIECES = re.compile(r"[A-Za-z]{1,6}|\d{1,3}| (?=\d)|\n+|[!-/:-@\[-`{-~]{1,3}|[^\sA-Za-z\d]")


def estimate_tokens(text: str) -> int:
    """Tokens of `text` under a Llama-3-like byte-pair vocabulary.

    Counts six Latin letters, three digits, three ASCII signs, a run of line breaks, a blank before a digit, or
    any one other character as a token. Measured against cl100k, with whose merges Llama 3's vocabulary
    begins: Amazon titles -7%, their JSON 0%, film plots +14%, a score map and bare prompt lines 0%.
    """
    return len(_PIECES.findall(text))


@dataclasses.dataclass(frozen=True)
class Budget:
    """Tokens, unless it says otherwise."""

    context: int
    prompt: int  # both messages without summaries
    summary: int  # of one candidate; 0: none are shown
    scores: int  # the terminal turn with its score map
    scored: int  # candidates that the score map has room for
    turn: int  # reasoning and action of an evidence call
    observations: Mapping[str, int]  # tool -> its observation
    profiles: Mapping[str, int]  # tool -> words of a user's profile in it, shared by the profile's fields
    description: int  # characters of a description when one item is asked; less, down to none, for many


def budget(options: Options, pool_size: int, count_tokens: CountTokens) -> Budget:
    """Share `options.context` out for pools of `pool_size` candidates.

    Lines and score maps are counted whole, for a tokenizer may join the end of one entry to the beginning of
    the next: of L0-tiny's a map of 100 takes 204 tokens, and its entries alone 600.

    Set aside first: the messages without summaries, a turn for every evidence tool, and a score map over as
    many candidates as leave the least useful observations their room. Of the rest a share goes to the
    summaries, and what those leave to the observations. So each tool can answer once within the context.

    Raises:
        InputError: there is no room to score a single candidate.
    """
    tools = toolbox(options)
    evidence_tools = [name for name in tools if name != TERMINAL]
    opening = user_header(options, pool_size) + "".join(f"{j} {j} .50\n" for j in range(1, pool_size + 1))
    prompt = count_tokens(system_message(options, tools)) + count_tokens(opening) + 2 * MESSAGE
    turn = TURN + 2 * MESSAGE
    room = options.context - prompt - turn * (len(evidence_tools) + 1)

    def score_map(scored: int) -> int:
        return count_tokens("".join(f'"{j}":50,' for j in range(1, scored + 1)))

    left = room - LEAST_OBSERVATION * len(evidence_tools)
    scored = bisect.bisect_right(range(pool_size + 1), left, key=score_map) - 1
    if scored < 1:
        raise InputError(f"context of {options.context} tokens has no room to score {pool_size} candidates: raise it")
    room -= score_map(scored)
    shown = options.summaries == "surviving"
    summary = min(options.summary_tokens, int(SUMMARY_SHARE * room) // pool_size) if shown else 0
    summary = summary if summary >= LEAST_SUMMARY else 0
    observations = _divide(room - summary * pool_size, evidence_tools)
    largest = max(observations.values())
    return Budget(
        context=options.context,
        prompt=prompt,
        summary=summary,
        scores=turn + score_map(scored),
        scored=scored,
        turn=turn,
        observations=observations,
        profiles={tool: max(1, int(PROFILE_SHARE * n) // PROFILE_WORD) for tool, n in observations.items()},
        description=max(0, min(DESCRIPTION_CHARS, CHARS_PER_TOKEN * (int((1 - PROFILE_SHARE) * largest) - ITEM))),
    )


def _divide(tokens: int, tools: list[str]) -> dict[str, int]:
    weights = {tool: WEIGHTS.get(tool, 1) for tool in tools}
    return {tool: tokens * weight // sum(weights.values()) for tool, weight in weights.items()}


def describe(budget: Budget, pool_size: int) -> list[tuple[str, str, str]]:
    """Rows (field, value, meaning) for a plan."""
    full = "a full score map" if budget.scored == pool_size else f"a partial score map: {budget.scored} of {pool_size}"
    rows = [
        ("context", budget.context, "tokens the agent can read"),
        ("prompt", budget.prompt, f"tokens of both messages for {pool_size} candidates, without summaries"),
        ("summary", budget.summary, "tokens per candidate"),
        ("scores", budget.scores, f"tokens of the terminal turn, {full}"),
        ("turn", budget.turn, "tokens of reasoning and action in an evidence call"),
        *(
            (name, tokens, f"tokens of its observation, {budget.profiles[name]} words in a profile")
            for name, tokens in budget.observations.items()
        ),
        ("description", budget.description, "characters when one item is asked"),
    ]
    return [(name, str(value), meaning) for name, value, meaning in rows]
