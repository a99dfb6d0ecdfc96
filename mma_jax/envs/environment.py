"""The POMDP of sequential evidence routing (MMA §3), in pure Python and numpy.

An episode: `reset` shows the candidates, every `step` takes one text of the agent and answers with one line.
The mask is never printed and the target enters nothing but reward and info: prompt and observations are
computed from `episode.case`, in which there is no target. States are frozen, so an episode replays exactly
from its texts.

Paths of a step (Eq. 3, and where the paper is silent, as noted):
    unreadable, unknown tool, bad arguments   lambda_invalid, a one-line error, the episode goes on
    evidence tool                             lambda_tool, JSON or Null
    Ask_User                                  lambda_ask, JSON or Null
    a call that has already answered Null     lambda_invalid instead, Null again; Ask_User's are told apart
                                              by modality
    malformed Score_Candidates                lambda_invalid, the end; evaluated as first stage
    Score_Candidates                          NDCG@10 of the fused ranking, the end
    T turns without scoring                   the last call's own cost, the end; evaluated as first stage
The fourth stop reason, context_limit, is the caller's: only it knows how long the agent's own tokens are.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from mma_jax.envs.actions import Action, parse
from mma_jax.envs.budget import Budget, CountTokens, budget, estimate_tokens
from mma_jax.envs.evidence import Evidence
from mma_jax.envs.observations import ERROR, NULL, Renderer
from mma_jax.envs.options import Options
from mma_jax.envs.prompts import PromptWriter
from mma_jax.envs.rewards import terminal_reward
from mma_jax.envs.tools import ASK, TERMINAL, toolbox
from mma_jax.envs.tools.schema import handles
from mma_jax.types import Case, Episode, History

SCORED = "Scored."
"""The observation of a valid terminal action; it says nothing of the target."""

_CASES_REMEMBERED = 1 << 12
_ANSWERS_REMEMBERED = 1 << 14
_COUNTS_REMEMBERED = 1 << 16

Info = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class State:
    """Where an episode stands. Everything but `episode` follows from the texts played."""

    episode: Episode
    turn: int = 0
    answered: frozenset[str] = frozenset()  # tools that have given evidence, and so shown their profile
    nulls: frozenset[tuple[str, str]] = frozenset()  # calls that answered Null: tool and, for Ask_User, modality
    stop_reason: str = ""  # "" while it goes on


Step = tuple[State, str, float, bool, Info]
"""State, observation, reward, done, info."""


class Environment:
    """Plays episodes. Stateless but for memory of what it has computed, so one serves any number of episodes.

    Args:
        evidence: the stores of the dataset.
        options: what varies between experiments.
        count_tokens: tokens of a text under the agent's tokenizer.
    """

    def __init__(self, evidence: Evidence, options: Options, count_tokens: CountTokens = estimate_tokens):
        self.evidence = evidence
        self.options = options
        self.tools = toolbox(options)
        self._count = functools.lru_cache(_COUNTS_REMEMBERED)(count_tokens)
        self._writer = PromptWriter(evidence, options, self.tools, self._count)
        self._renderer = Renderer(count_tokens)  # answers are remembered below, so their counts need not be
        self.budget = functools.cache(self._budget)
        self._prompt = functools.lru_cache(_CASES_REMEMBERED)(self._write_prompt)
        self._answer = functools.lru_cache(_ANSWERS_REMEMBERED)(self._call_tool)

    def reset(self, episode: Episode) -> tuple[State, History]:
        """The first state, and the system and user message."""
        return State(episode), self._prompt(episode.case)

    def step(self, state: State, text: str) -> Step:
        """Play one turn.

        Args:
            state: of an episode that goes on.
            text: the agent's whole output, reasoning and action line.

        Returns:
            Next state, observation, reward, whether it is over, info. Info holds tool ("" if none could be
            read), args, error ("" or one of `actions.ERRORS`), null, stop_reason, and on a valid terminal
            scores (float64 [B], nan where there is none) and ndcg, else None.

        Raises:
            ValueError: the episode is over.
        """
        if state.stop_reason:
            raise ValueError(f"the episode is over: {state.stop_reason}")
        action = parse(text, self.tools, handles(len(state.episode.case.pool)))
        if action.error:
            return self._refuse(state, action)
        if action.tool == TERMINAL:
            return self._score(state, action)
        return self._call(state, action)

    def _refuse(self, state: State, action: Action) -> Step:
        stop = action.error if action.error == "malformed_terminal" else self._stop(state)
        state = dataclasses.replace(state, turn=state.turn + 1, stop_reason=stop)
        return self._result(state, action, self._explain(action), self.options.costs.invalid)

    def _score(self, state: State, action: Action) -> Step:
        case = state.episode.case
        scores = self.tools[TERMINAL].call(self.evidence, case, **action.args)
        ndcg = terminal_reward(case.scores, scores, state.episode.target_position, self.options.alpha)
        state = dataclasses.replace(state, turn=state.turn + 1, stop_reason="scored")
        return self._result(state, action, SCORED, ndcg, scores=scores, ndcg=ndcg)

    def _call(self, state: State, action: Action) -> Step:
        call = (action.tool, action.args.get("modality_type", ""))
        arguments = tuple((name, tuple(v) if isinstance(v, list) else v) for name, v in action.args.items())
        observation = self._answer(state.episode.case, action.tool, arguments, action.tool not in state.answered)
        cost = self.options.costs.ask if action.tool == ASK else self.options.costs.tool
        answered, nulls = state.answered, state.nulls
        if observation != NULL:
            answered |= {action.tool}
        elif call in nulls:
            action, cost = dataclasses.replace(action, error="repeat_null"), self.options.costs.invalid
        else:
            nulls |= {call}
        state = State(state.episode, state.turn + 1, answered, nulls, self._stop(state))
        return self._result(state, action, observation, cost)

    def _stop(self, state: State) -> str:
        return "turn_limit" if state.turn + 1 >= self.options.turns else ""

    def _result(self, state: State, action: Action, observation: str, reward: float, **outcome: Any) -> Step:
        info = {
            "tool": action.tool,
            "args": action.args,
            "error": action.error,
            "null": observation == NULL,
            "stop_reason": state.stop_reason,
            "scores": None,
            "ndcg": None,
            **outcome,
        }
        return state, observation, reward, bool(state.stop_reason), info

    def _explain(self, action: Action) -> str:
        """One line on what to do instead. It never quotes the agent's text, which may be anything."""
        advice = {
            "invalid_json": 'end with one line {"tool":...,"args":{...}}',
            "unknown_tool": f"tools are {', '.join(self.tools)}",
            "bad_args": f"see the arguments of {action.tool}",
            "malformed_terminal": "the scores could not be read",
        }
        return f"{ERROR}{action.error}, {advice[action.error]}"

    def _budget(self, pool_size: int) -> Budget:
        return budget(self.options, pool_size, self._count)

    def _write_prompt(self, case: Case) -> History:
        limits = self.budget(len(case.pool))
        return self._writer.write(case, limits.summary, limits.scored)

    def _call_tool(self, case: Case, tool: str, arguments: tuple[tuple[str, Any], ...], first: bool) -> str:
        """The observation of a call. The user's profile comes with a tool's first answer only."""
        limits = self.budget(len(case.pool))
        result = self.tools[tool].call(self.evidence, case, **dict(arguments))
        if result is not None and not first:
            result = {key: value for key, value in result.items() if key != "profile"}
        return self._renderer.render(result, limits.observations[tool], limits.profiles[tool], limits.description)
