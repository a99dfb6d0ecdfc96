"""The routing plan that earns the most reward on average, by dynamic programming over beliefs (DESIGN §7).

Which modalities survive is hidden, but a call tells for certain: evidence or Null. So a belief is the set of masks
that agree with the answers so far, and with three tools there are few of them. At every state the plan either
scores, or calls one more tool at its cost; calling a tool again tells nothing and is never worth it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from mma_jax.envs.rewards import Costs
from mma_jax.types import MODALITIES, Mask

SCORE = "score"

Answers = tuple[bool | None, bool | None, bool | None]
"""Per modality, in the order of MODALITIES: None if its tool has not been called, else whether it gave evidence."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """A policy tree: what to do at every state that calls can lead to."""

    actions: dict[tuple[Mask | None, Answers], str]  # a modality to call, or SCORE; keyed by mask where revealed
    expected: float  # reward, averaged over the families
    revealed: bool

    def next(self, called: Mapping[str, bool], mask: Mask | None = None) -> str:
        """What to do now: a modality whose tool to call, or "score".

        Args:
          called: modality -> whether its tool returned Null, for the tools called so far.
          mask: what the prompt reveals; used only by a plan made with `revealed`.

        Raises:
          KeyError: no episode of these families can get there.
        """
        answers = tuple(not called[name] if name in called else None for name in MODALITIES)
        return self.actions[mask if self.revealed else None, answers]


def plan(
    values: Mapping[tuple[Mask, Mask], float],
    families: Mapping[str, Mask],
    costs: Costs,
    turns: int,
    revealed: bool,
) -> Plan:
    """The optimal plan for families that are equally probable.

    Args:
      values: (mask, evidence) -> expected NDCG@10 of scoring as well as possible with that evidence, a part of the
        mask, in an episode with that mask.
      families: the masks that occur.
      costs: of Eq. 3; `costs.tool` is added to the reward at every call, Null or not.
      turns: the limit T of an episode, the scoring turn included.
      revealed: the prompt's format betrays the mask (summaries of the surviving modalities).
    """
    if turns < 1:
        raise ValueError("a plan needs at least one turn, to score in")
    actions: dict[tuple[Mask | None, Answers], str] = {}

    def best(belief: Sequence[Mask], known: Mask | None, answers: Answers, left: int) -> float:
        """Expected reward from here on; writes the choice into `actions`."""
        evidence = tuple(answer is True for answer in answers)
        choice, reward = SCORE, sum(values[mask, evidence] for mask in belief) / len(belief)
        for tool, name in enumerate(MODALITIES):
            if left > 1 and answers[tool] is None:
                called = costs.tool
                for answer in {mask[tool] for mask in belief}:
                    agreeing = [mask for mask in belief if mask[tool] == answer]
                    after = (*answers[:tool], answer, *answers[tool + 1 :])
                    called += len(agreeing) / len(belief) * best(agreeing, known, after, left - 1)
                if called > reward:
                    choice, reward = name, called
        actions[known, answers] = choice
        return reward

    start: Answers = (None, None, None)
    masks = list(families.values())
    if revealed:
        expected = sum(best([mask], mask, start, turns) for mask in masks) / len(masks)
    else:
        expected = best(masks, None, start, turns)
    return Plan(actions, expected, revealed)
