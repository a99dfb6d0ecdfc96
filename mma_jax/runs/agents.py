"""What an experiment has trained, ready to play: `Agents.player(method, seed)`, language-model agents and baselines."""

from __future__ import annotations

import functools

import numpy as np

from mma_jax.agents import agentcf
from mma_jax.agents.language_model import Script, generate, opening
from mma_jax.agents.registry import Play
from mma_jax.baselines.registry import BASELINES
from mma_jax.envs.environment import Environment
from mma_jax.evaluation.experiment import Experiment
from mma_jax.evaluation.results import Cell
from mma_jax.runs.baselines import Baselines
from mma_jax.runs.language import Language
from mma_jax.runs.train import Trainer
from mma_jax.types import Episode, History, Trajectory


class Agents:
    """Loads the language model when the first agent asks for it, and trains what is not trained yet."""

    def __init__(self, made: Experiment):
        self.made, self.config = made, made.config
        self._memories: dict[int, agentcf.Memories] = {}
        self._players = {"AgentCF": self._agentcf, **dict.fromkeys(BASELINES, Baselines(made).player)}

    @functools.cached_property
    def trainer(self) -> Trainer:
        return Trainer(self.made, Language(self.config))

    def player(self, name: str, seed: int) -> Play:
        """A trained method. Agents decode greedily (§3.3, temperature 0)."""
        return self._players.get(name, self._adapted)(name, seed)

    def _adapted(self, name: str, seed: int) -> Play:
        """The base model with the method's adapter."""
        self.trainer.adapter(name, seed)  # trained before anything is played
        return lambda env, episodes: self._play(name, seed, env, episodes, label=name)

    def scripted(self, cell: Cell, env: Environment, episodes: list[Episode], script: Script) -> list[Trajectory]:
        """Episodes as a cell's agent plays them where a script does not decide for it."""
        return self._play(cell.method, cell.seed, env, episodes, script=script)

    def _play(self, name: str, seed: int, env: Environment, episodes: list[Episode], **how) -> list[Trajectory]:
        how |= {"temperature": 0.0, "key": (seed, 0), "expected": self.trainer.language.judged_by_means}
        return self.trainer.play(self.trainer.adapter(name, seed), env, episodes, **how)

    def _agentcf(self, name: str, seed: int) -> Play:
        config, language = self.config.agentcf, self.trainer.language
        state = language.state(language.adapter(seed))
        context = min(self.config.env.context, language.sampler.longest)

        def fits(history: History, max_new: int) -> bool:
            return len(opening(language.chat, history)) + max_new <= context

        def complete(histories: list[History], max_new: int) -> list[str]:
            rows = min(self.config.sampler.rows, len(histories))
            room = {"batch": rows, "max_new": max_new, "context": context}
            return generate(language.sampler, state, language.chat, histories, **room)

        if seed not in self._memories:  # the same for all protocols
            train = self.made.fit_episodes("ooma")
            order = np.random.default_rng(seed).permutation(len(train))
            env = self.made.environment("train", "ooma")
            self._memories[seed] = agentcf.learn(env, [train[n] for n in order], complete, config, seed)
        memories = self._memories[seed]
        return lambda env, episodes: agentcf.play(env, episodes, memories, complete, fits, config)
