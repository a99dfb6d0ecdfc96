"""What crosses floors: a few frozen dataclasses, and the one error that means "the input was wrong".

Arrays are numpy and index users and items by their row in `Dataset.users` and `Catalog.ids`.
I = items, N = interactions, B = pool size, Q = queries. Nothing here imports jax or torch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

MODALITIES = ("text", "image", "behavior")
"""Order of every presence mask, as in Table 1 of the MMA paper: m = [text, img, beh]."""

Mask = tuple[bool, bool, bool]

FAMILIES: dict[str, Mask] = {
    "full": (True, True, True),
    "no_text": (False, True, True),
    "no_image": (True, False, True),
    "cold_user": (True, True, False),
    "text_only": (True, False, False),
    "image_only": (False, True, False),
    "behavior_only": (False, False, True),
}
"""The seven missingness-task families of Table 1."""

OOMA = ("text_only", "image_only", "behavior_only")
LOMO = ("full", "no_text", "no_image", "cold_user")

FIT, TRAIN, VALID, TEST = range(4)
"""Part codes of a split. FIT + TRAIN are the training part; TRAIN is its later slice, whose
interactions serve as targets of training episodes while FIT alone builds their evidence."""


class InputError(Exception):
    """The user's input is wrong. One line: what, where, what to do. Becomes exit code 2."""


@dataclasses.dataclass(frozen=True)
class Interactions:
    """Columns of the interaction log, in the order of the source file."""

    user: np.ndarray  # int32 [N]
    item: np.ndarray  # int32 [N]
    rating: np.ndarray  # float32 [N], nan where the source gives none
    time: np.ndarray  # float64 [N]: unix seconds, or a per-user position, or nan
    order: str  # "timestamp" | "position" | "none": what `time` means
    given_split: np.ndarray | None = None  # int8 [N] of TRAIN, VALID, TEST, if the source has one

    def __len__(self) -> int:
        return len(self.user)


@dataclasses.dataclass(frozen=True)
class Catalog:
    """One row per item; '' or () means the item lacks that field."""

    ids: tuple[str, ...]
    title: tuple[str, ...]
    categories: tuple[str, ...]
    description: tuple[str, ...]
    brand: tuple[str, ...]
    images: tuple[tuple[str, ...], ...]  # file paths

    def __len__(self) -> int:
        return len(self.ids)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """What every source's `load(root)` returns."""

    name: str
    interactions: Interactions
    catalog: Catalog
    users: tuple[str, ...]
    problems: tuple[str, ...] = ()  # one line per kind of bad record: count, file, first line numbers
    copurchases: np.ndarray | None = None  # int32 [E, 2] item pairs the source itself lists as bought together


@dataclasses.dataclass(frozen=True)
class Candidates:
    """Retrieved items, best first."""

    items: np.ndarray  # int32 [Q, k], -1 where fewer than k were found
    scores: np.ndarray  # float32 [Q, k]


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """All that an environment may look at while it plays: there is no target in it.

    Handle "j" (1-based) names pool[j - 1]; the pool's order is a seeded shuffle and carries nothing.
    """

    pool: np.ndarray  # int32 [B] items
    scores: np.ndarray  # float32 [B] normalised first-stage scores s0 in [0, 1], constant if uninformative
    ranks: np.ndarray  # int32 [B] first-stage ranks 1..B (ties broken by a seeded shuffle)
    history: np.ndarray  # int32 [H] the user's earlier items, oldest first
    mask: Mask  # hidden from the agent; tools of a missing modality return Null


@dataclasses.dataclass(frozen=True, eq=False)
class Episode:
    """A case and the secret that judges it (MMA §3.1)."""

    episode_id: str  # stable across methods, seeds and runs
    case: Case
    user: int
    target: int  # item; may be outside the pool under protocol "full_catalog"
    family: str  # key of FAMILIES
    protocol: str  # "ooma" | "lomo" | "full_catalog" | "interactive"
    recalled: bool  # the first stage had the target in its top B
    inserted: bool = False  # the pool's rule, not the first stage, put the target where it stands

    @property
    def target_position(self) -> int:
        """Row of the target in the pool, or -1."""
        hits = np.flatnonzero(self.case.pool == self.target)
        return int(hits[0]) if len(hits) else -1


@dataclasses.dataclass(frozen=True)
class Message:
    """One chat message; a history is a tuple of them, starting with system and user."""

    role: str  # "system" | "user" | "assistant" | "tool"
    content: str


History = tuple[Message, ...]

Policy = Callable[[Sequence[History]], list[str]]
"""A batch of histories in, one completion each out. A policy sees nothing else."""


@dataclasses.dataclass(frozen=True)
class Turn:
    """One step of an episode as the evaluator keeps it."""

    text: str  # the policy's whole output: reasoning and the action line
    tool: str  # name of the tool called, "" if unparseable
    args: dict  # its arguments, {} if unparseable
    observation: str
    reward: float
    error: str  # "" | kind of error (envs.actions.ERRORS)
    null: bool  # the observation is Null
    tokens: tuple[int, ...] = ()  # token ids as sampled, if the policy is a language model
    value: float = math.nan  # what its value head expected to earn from here on, V(H) of Eq. 5


@dataclasses.dataclass(frozen=True, eq=False)
class Trajectory:
    """A played episode."""

    episode: Episode
    prompt: History
    turns: tuple[Turn, ...]
    stop_reason: str  # "scored" | "malformed_terminal" | "turn_limit" | "context_limit"
    scores: np.ndarray  # float64 [B] the agent's raw scores, nan where it gave none

    @property
    def rewards(self) -> list[float]:
        return [turn.reward for turn in self.turns]
