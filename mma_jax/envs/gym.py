"""The environment under Gymnasium's interface, for libraries that expect one: texts in, texts out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np

from mma_jax.envs.environment import Environment
from mma_jax.types import Episode


class AnyText(gymnasium.Space[str]):
    """Every string of at most `max_length` characters; `gymnasium.spaces.Text` wants a finite alphabet."""

    def __init__(self, max_length: int, seed: int | np.random.Generator | None = None):
        super().__init__(shape=(), dtype=str, seed=seed)
        self.max_length = max_length

    @property
    def is_np_flattenable(self) -> bool:
        return False

    def contains(self, x: Any) -> bool:
        return isinstance(x, str) and len(x) <= self.max_length

    def sample(self, mask: None = None, probability: None = None) -> str:
        """Up to 64 printable ASCII characters."""
        codes = self.np_random.integers(32, 127, self.np_random.integers(0, 65))
        return "".join(map(chr, codes))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AnyText) and other.max_length == self.max_length

    def __repr__(self) -> str:
        return f"AnyText({self.max_length})"


class GymEnvironment(gymnasium.Env[str, str]):
    """One episode after another, drawn uniformly; `reset(options={"episode": k})` plays a given one.

    The first observation is the system and the user message, separated by an empty line. An episode
    terminates when it is scored or the scores are malformed, and is truncated at the turn limit.

    Args:
        environment: plays the episodes.
        episodes: at least one.
        max_length: characters of an observation or an action, declared by the spaces.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 - Gymnasium's own convention

    def __init__(self, environment: Environment, episodes: Sequence[Episode], max_length: int = 1 << 20):
        self._environment = environment
        self._episodes = episodes
        self._state = None
        self.observation_space = AnyText(max_length)
        self.action_space = AnyText(max_length)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        chosen = options["episode"] if options else int(self.np_random.integers(len(self._episodes)))
        self._state, prompt = self._environment.reset(self._episodes[chosen])
        return "\n\n".join(message.content for message in prompt), {"episode_id": self._episodes[chosen].episode_id}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self._state, observation, reward, done, info = self._environment.step(self._state, action)
        truncated = info["stop_reason"] == "turn_limit"
        return observation, reward, done and not truncated, truncated, info
