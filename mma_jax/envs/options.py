"""The environment's options: one frozen dataclass, the only place of their defaults."""

from __future__ import annotations

import dataclasses

from mma_jax.envs.rewards import Costs
from mma_jax.types import InputError

SUMMARIES = ("surviving", "none")


@dataclasses.dataclass(frozen=True)
class Options:
    """What may vary between experiments.

    Raises:
        InputError: a value is out of its range.
    """

    turns: int = 8  # T
    context: int = 2048  # tokens
    interactive: bool = False  # MMA-Interactive: Ask_User is among the tools
    summaries: str = "surviving"  # what the prompt says of candidates: the paper's mode, or "none"
    summary_tokens: int = 16  # of a candidate's summary, at most; fewer where the context is short
    graph_titles: bool = True  # Retrieve_Graph names neighbours by title, as in the paper; False: by handle
    graph_counts: bool = True  # Retrieve_Graph also tells how often each candidate was taken; False: the paper
    max_items: int | None = None  # ids in one Analyze call; 1 is the paper, None leaves it open
    alpha: float = 0.5  # first-stage weight of Eq. 2 in the reward
    costs: Costs = dataclasses.field(default_factory=Costs)

    def __post_init__(self):
        if self.turns < 1:
            raise InputError(f"turns is {self.turns}: an episode needs at least one")
        if self.context < 1:
            raise InputError(f"context is {self.context}: give the number of tokens the agent can read")
        if self.summaries not in SUMMARIES:
            raise InputError(f"summaries is {self.summaries!r}: known are {', '.join(SUMMARIES)}")
        if self.summary_tokens < 0:
            raise InputError(
                f"summary_tokens is {self.summary_tokens}: give the most tokens of a summary, or 0 for none"
            )
        if self.max_items is not None and self.max_items < 1:
            raise InputError(f"max_items is {self.max_items}: give at least 1, or None for no bound")
        if not 0 <= self.alpha <= 1:
            raise InputError(f"alpha is {self.alpha}: a fusion weight lies between 0 and 1")
