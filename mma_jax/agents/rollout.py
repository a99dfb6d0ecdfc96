"""Play episodes: any policy against the environment, many episodes side by side.

A policy gets a batch of histories (what the agent has read and written so far, as chat messages) and returns one
completion for each. It sees nothing else, so a language model, a scripted router and an HTTP endpoint are alike.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from mma_jax.envs.environment import Environment
from mma_jax.types import Episode, History, Message, Policy, Trajectory, Turn


def play(
    policy: Policy, env: Environment, episodes: Sequence[Episode], batch: int, label: str = ""
) -> list[Trajectory]:
    """Trajectories in the order of `episodes`; at most `batch` of them are open at a time."""
    trajectories: list[Trajectory] = []
    with tqdm(total=len(episodes), desc=label, leave=False, disable=not label) as bar:
        for start in range(0, len(episodes), batch):
            trajectories += _play_batch(policy, env, episodes[start : start + batch])
            bar.update(len(episodes[start : start + batch]))
    return trajectories


def _play_batch(policy: Policy, env: Environment, episodes: Sequence[Episode]) -> list[Trajectory]:
    games = [_Game(env, episode) for episode in episodes]
    while open_games := [game for game in games if not game.done]:
        for game, text in zip(open_games, policy([game.history for game in open_games]), strict=True):
            game.step(text)
    return [game.trajectory() for game in games]


class _Game:
    """One episode in play."""

    def __init__(self, env: Environment, episode: Episode):
        self.env, self.episode = env, episode
        self.state, self.prompt = env.reset(episode)
        self.history: History = self.prompt
        self.turns: list[Turn] = []
        self.scores = np.full(len(episode.case.pool), np.nan)
        self.stop_reason = ""

    @property
    def done(self) -> bool:
        return self.stop_reason != ""

    def step(self, text: str) -> None:
        self.state, observation, reward, done, info = self.env.step(self.state, text)
        self.turns.append(Turn(text, info["tool"], info["args"], observation, reward, info["error"], info["null"]))
        self.history = (*self.history, Message("assistant", text), Message("tool", observation))
        if done:
            self.stop_reason = info["stop_reason"]
            if info["scores"] is not None:
                self.scores = info["scores"]

    def trajectory(self) -> Trajectory:
        return Trajectory(self.episode, self.prompt, tuple(self.turns), self.stop_reason, self.scores)


def judged(episode: Episode, scores: np.ndarray) -> Trajectory:
    """The trajectory of a scorer that takes no turn: scores float64 [B]."""
    return Trajectory(episode, (), (), "scored", np.asarray(scores, np.float64))
