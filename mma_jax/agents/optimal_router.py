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

    actions: dict[tuple[Mask, Answers], str]  # a modality to call, or SCORE; by what is `shown` and the answers
    expected: float  # reward, averaged over the families
    revealed: int

    def next(self, called: Mapping[str, bool], mask: Mask) -> str:
        """What to do now: a modality whose tool to call, or "score".

        Args:
          called: modality -> whether its tool returned Null, for the tools called so far.
          mask: of the episode; of it the plan knows what `shown` leaves.

        Raises:
          KeyError: no episode of these families can get there.
        """
        answers = tuple(not called[name] if name in called else None for name in MODALITIES)
        return self.actions[shown(mask, self.revealed), answers]


def shown(mask: Mask, count: int) -> Mask:
    """What a prompt betrays of a mask whose first `count` surviving modalities have room in the summaries."""
    return tuple(there and sum(mask[:n]) < count for n, there in enumerate(mask))


def plan(
    values: Mapping[tuple[Mask, Mask], float],
    families: Mapping[str, Mask],
    costs: Costs,
    turns: int,
    revealed: int,
) -> Plan:
    """The optimal plan for families that are equally probable.

    Args:
      values: (mask, evidence) -> expected NDCG@10 of scoring as well as possible with that evidence, a part of the
        mask, in an episode with that mask.
      families: the masks that occur.
      costs: of Eq. 3; `costs.tool` is added to the reward at every call, Null or not.
      turns: the limit T of an episode, the scoring turn included.
      revealed: how many modalities at most a summary in the prompt names, the first of those that survive: 0 where
        there are no summaries, and from 3 on their format betrays the whole mask.
    """
    if turns < 1:
        raise ValueError("a plan needs at least one turn, to score in")
    actions: dict[tuple[Mask, Answers], str] = {}

    def best(belief: Sequence[Mask], known: Mask, answers: Answers, left: int) -> float:
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

    beliefs: dict[Mask, list[Mask]] = {}
    for mask in families.values():
        beliefs.setdefault(shown(mask, revealed), []).append(mask)
    earned = sum(len(belief) * best(belief, known, (None, None, None), turns) for known, belief in beliefs.items())
    return Plan(actions, earned / len(families), revealed)
