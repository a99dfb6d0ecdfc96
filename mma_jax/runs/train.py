"""config.run = train: what the language-model agents among config.methods learn (§3.4); what is trained is not trained
again, what was interrupted goes on.

    MMA-SFT          imitates the scripted expert (DESIGN §5.10)
    MMA-Auto         PPO from there, over families of missingness drawn uniformly
    MMA-Pooled       the same budget, over the natural mixture: each modality missing independently
    MMA-Interactive  SFT and PPO of its own, with Ask_User among the tools

DIR/train/METHOD/SEED holds checkpoints, panel.jsonl, TensorBoard events and, once trained, the adapter in the format of
`peft`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from mma_jax.agents import credit, demonstrations
from mma_jax.agents.language_model import Played
from mma_jax.data.disk import lock
from mma_jax.envs.environment import Environment
from mma_jax.evaluation.checks import seeds
from mma_jax.evaluation.experiment import Experiment
from mma_jax.learning import ppo, sft
from mma_jax.learning.checkpoint import Checkpoints, room
from mma_jax.learning.panel import Panel
from mma_jax.learning.sequences import Sequence
from mma_jax.models import peft
from mma_jax.runs import hosts, prepare
from mma_jax.runs.language import Language, rates
from mma_jax.runs.prepare import experiment
from mma_jax.runs.workdir import check_room, used
from mma_jax.types import FAMILIES, Episode, InputError, Trajectory

KEEP = 2  # checkpoints, beside the best
LEARNED_FROM = ("ooma", "lomo")  # the protocols whose training episodes teach, whatever is evaluated


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a method comes about. `start`: the method whose adapter PPO begins with; "" for SFT from the base."""

    start: str = ""
    balanced: bool = True  # families uniform, query diagnostics by family; False: pooled
    interactive: bool = False


RECIPES = {
    "MMA-SFT": Recipe(),
    "MMA-Auto": Recipe(start="MMA-SFT"),
    "MMA-Pooled": Recipe(start="MMA-SFT", balanced=False),
    "MMA-Interactive-SFT": Recipe(interactive=True),
    "MMA-Interactive": Recipe(start="MMA-Interactive-SFT", interactive=True),
}


def run(config, directory: Path, dry_run: bool) -> None:
    if dry_run:
        prepare.run(config, directory, dry_run)
        return
    hosts.check(config)
    hosts.alone(lambda: prepare_data(config, directory), "data")
    made = experiment(config, directory)
    wanted = [(name, seed) for name in prepare.methods(made) if name in RECIPES for seed in seeds(config)]
    if wanted:
        trainer = Trainer(made, Language(config))
        trainer.check_room(wanted)
        for recipe in {RECIPES[name] for name, _ in wanted}:  # what cannot be written or drawn is told before any work
            trainer.language.grammar(trainer.environment(recipe.interactive))
            if recipe.start:
                trainer.collector(recipe, seed=0)
        for name, seed in wanted:
            trainer.adapter(name, seed)
    else:
        print(f"nothing to train: of config.methods none is {', '.join(RECIPES)}; evaluate trains baselines")


def prepare_data(config, directory: Path) -> None:
    """Everything that training reads, so that several processes only read it: two that build a file would collide."""
    prepare.run(config, directory, dry_run=False)
    made = experiment(config, directory)
    for protocol in filter(made.families, LEARNED_FROM):
        made.episodes("train", protocol)
    if made.families("ooma"):
        made.episodes("valid", "ooma")


class Trainer:
    """Trains the adapters of an experiment, each once."""

    def __init__(self, made: Experiment, language: Language):
        self.made, self.language, self.config = made, language, made.config
        self.adapter = functools.cache(self._adapter)

    def check_room(self, wanted: list[tuple[str, int]]) -> None:
        """Raises InputError, before anything is compiled, if the checkpoints of these methods and of those that they
        start from cannot be written, or have no room."""
        starts = {(RECIPES[name].start, seed) for name, seed in wanted if RECIPES[name].start}
        needed, (imitator, agent) = 0, self._rooms
        for name, seed in {*wanted, *starts}:
            if not (self.directory(name, seed) / "adapter" / peft.SETTINGS).is_file():
                takes = agent if RECIPES[name].start else imitator
                needed += max(0, takes - used(self.directory(name, seed)))
        check_room(self.made.directory / "train", needed)

    @functools.cached_property
    def _rooms(self) -> tuple[int, int]:
        """Bytes of the checkpoints of an imitator and of an agent."""
        adapter = self.language.adapter(0)
        return (
            room(jax.eval_shape(lambda: sft.init(adapter, self.config.sft)), KEEP),
            room(jax.eval_shape(lambda: ppo.init(adapter, self.config.ppo)), KEEP),
        )

    def directory(self, name: str, seed: int) -> Path:
        """Where everything about a method's training is."""
        return self.made.directory / "train" / name / str(seed)

    def _adapter(self, name: str, seed: int) -> nnx.State:
        """The adapter of a method, trained unless it is there; "ReAct" and the like have the base model's."""
        if name not in RECIPES:
            return self.language.adapter(seed)
        self.check_room([(name, seed)])
        recipe, directory = RECIPES[name], self.directory(name, seed)
        with contextlib.ExitStack() as open_files:
            directory.mkdir(parents=True, exist_ok=True)
            if hosts.first():
                open_files.enter_context(lock(directory / "lock"))
            panel = Panel(directory, self.config.alarms, writes=hosts.first())
            open_files.callback(panel.close)
            checkpoints = Checkpoints(directory / "checkpoints", KEEP)
            open_files.callback(checkpoints.close)
            if not checkpoints.step and (directory / "adapter" / peft.SETTINGS).is_file():
                raise InputError(
                    f"{directory} has a trained adapter and no checkpoints, which hold the value head and what PPO "
                    "goes on from: put them back, or delete the folder to train anew"
                )
            if recipe.start:
                learned = self._reinforce(recipe, self.adapter(recipe.start, seed), seed, panel, checkpoints)
            else:
                learned = self._imitate(recipe, seed, panel, checkpoints)
            self.language.publish(learned, directory / "adapter")
            return learned

    def _imitate(self, recipe: Recipe, seed: int, panel: Panel, checkpoints: Checkpoints) -> nnx.State:
        config, language = self.config.sft, self.language
        state = language.placement.weights(sft.init(language.adapter(seed), config))
        if (found := checkpoints.latest(state)) and found[0] >= config.steps:
            return found[1].params
        shown = self.demonstrations(recipe.interactive)
        data = seed * 1_000 + self.config.seed
        return sft.train(
            state,
            language.frozen,
            language.graph,
            shown,
            config,
            language.buckets,
            checkpoints,
            panel,
            data,
            placement=language.placement,
        ).params

    @functools.cache  # noqa: B019 - the same for every seed
    def demonstrations(self, interactive: bool) -> list:
        """The expert's episodes on support users: families in turn, as many of each tool that answered."""
        env, config = self.environment(interactive), self.config.sft
        support = self.split(support=True)
        usable = {family: [e for e in found if e.target_position >= 0] for family, found in support.items()}
        fit = [episode for found in _evenly(usable, config.fit_episodes) for episode in found]
        teacher = demonstrations.teacher(env, fit, config, self.language.similar())
        candidates = _evenly(support, len(support) * -(-config.episodes // 2))  # a tool may be that of one family only
        in_turn = demonstrations.in_turn(candidates)
        shown = demonstrations.demonstrate(env, in_turn, self.language.chat, teacher, "expert's episodes")
        return demonstrations.balance(shown, config.episodes)

    def _reinforce(
        self, recipe: Recipe, start: nnx.State, seed: int, panel: Panel, checkpoints: Checkpoints
    ) -> nnx.State:
        config, language = self.config.ppo, self.language
        grammar = language.grammar(self.environment(recipe.interactive))
        state = language.placement.weights(ppo.init(start, config))
        if checkpoints.step < config.iterations:
            ppo.train(
                state,
                language.frozen,
                language.graph,
                self.collector(recipe, seed),
                config,
                language.buckets,
                self.config.env.turns,
                checkpoints,
                panel,
                seed,
                validate=self.validation(recipe) if config.validate else None,
                placement=language.placement,
                allowed=grammar.allowed if grammar else None,
            )
        _, chosen, _ = checkpoints.best(state) or checkpoints.latest(state)
        return chosen.params

    def _credited(self, played: list[Played], alpha: float) -> list[Sequence]:
        tokenizer, kind = self.language.tokenizer, self.config.ppo.credit
        if kind == "candidate":
            return credit.by_candidate(played, alpha, tokenizer)
        if kind == "level":
            return credit.by_level(played, alpha, tokenizer, self.config.sft.levels)
        return [one.sequence for one in played]

    def validation(self, recipe: Recipe) -> Callable[[nnx.State], float]:
        """params -> mean reward of greedy play on config.ppo.validate validation episodes of each family."""
        protocol = "interactive" if recipe.interactive else "ooma"
        env, families = self.made.environment("valid", protocol), {}
        for episode in self.made.episodes("valid", protocol):
            families.setdefault(episode.family, []).append(episode)
        episodes = [e for found in families.values() for e in found[: self.config.ppo.validate]]

        def validate(params: nnx.State) -> float:
            played = self.play(params, env, episodes, temperature=0.0, key=(0, 0), label="validation")
            return float(np.mean([sum(one.rewards) for one in played]))

        return validate

    def play(self, params: nnx.State, env: Environment, episodes: list[Episode], **how) -> list[Trajectory]:
        """Everybody's trajectories, of several processes each its share; `how` as `Language.play` takes it."""
        mine = hosts.mine(episodes)
        played = self.language.play(params, env, mine, **how) if mine else []
        return hosts.whole([one.trajectory for one in played], episodes)

    def environment(self, interactive: bool):
        return self.made.environment("train", "interactive" if interactive else "ooma")

    @functools.cache  # noqa: B019
    def split(self, support: bool) -> dict[str, list[Episode]]:
        """Training episodes of 80% of the users (support, for updates) or of the others (query, to look at), by family.

        §3.4. A user is on one side in every family and for every seed.
        """
        users = np.random.default_rng([self.config.seed, 80]).random(len(self.made.dataset.users)) < 0.8
        found: dict[str, list[Episode]] = {}
        for protocol in filter(self.made.families, LEARNED_FROM):
            for episode in self.made.episodes("train", protocol):
                if users[episode.user] == support:
                    found.setdefault(episode.family, []).append(episode)
        return found

    def collector(self, recipe: Recipe, seed: int) -> ppo.Collect:
        """collect(params, iteration): this iteration's episodes, played; now and then query episodes beside them.

        Raises InputError if a family may be drawn more often than it has episodes: one played twice would say nothing
        new, for its samples are drawn with the same keys.
        """
        config, env = self.config.ppo, self.environment(recipe.interactive)
        support, query = self.split(support=True), self.split(support=False)
        names = list(support)
        shares = np.full(len(names), 1 / len(names)) if recipe.balanced else natural(names, config.missing)
        least, scarce = min((len(support[name]), name) for name, p in zip(names, shares, strict=True) if p > 0)
        if least < config.prompts:
            raise InputError(
                f"config.ppo.prompts={config.prompts} is more than the {least} episodes of {scarce} to train on: lower "
                "it or raise config.episodes.train"
            )

        def collect(params: nnx.State, iteration: int):
            rng = np.random.default_rng([seed, 1, iteration])
            drawn = rng.choice(len(names), config.prompts, p=shares)
            episodes = [
                e
                for f, n in enumerate(np.bincount(drawn, minlength=len(names)))
                for e in _sample(rng, support[names[f]], n)
            ]
            played = self.language.play(
                params,
                env,
                hosts.mine(episodes),
                temperature=config.temperature,
                key=(seed, iteration),
                samples=config.samples,
            )
            measured = rates(hosts.whole([one.trajectory for one in played], episodes, config.samples))
            if config.query and (iteration % config.query_every == 0 or iteration == config.iterations - 1):
                measured |= look(params, iteration)
            return hosts.share(self._credited(played, env.options.alpha)), measured

        def look(params: nnx.State, iteration: int) -> dict[str, float]:
            episodes = [e for found in query.values() for e in found[: config.query]]
            played = self.play(params, env, episodes, temperature=0.0, key=(seed, iteration))
            earned = np.array([sum(one.rewards) for one in played])
            families = np.array([e.family for e in episodes])
            by_family = {f"query_reward/{f}": earned[families == f].mean() for f in query} if recipe.balanced else {}
            return {"query_reward": earned.mean(), **by_family}

        return collect


def natural(names: list[str], missing: float) -> np.ndarray:
    """Probabilities of families if each modality is missing independently, float64 [families].

    Raises InputError if none of them can occur.
    """
    shares = np.array([np.prod([1 - missing if there else missing for there in FAMILIES[name]]) for name in names])
    if not shares.any():
        raise InputError(f"config.ppo.missing={missing} leaves none of the families {', '.join(names)}: try 0.3")
    return shares / shares.sum()


def _sample(rng: np.random.Generator, episodes: list[Episode], count: int) -> list[Episode]:
    return [episodes[n] for n in rng.choice(len(episodes), count, replace=False)]


def _evenly(families: dict[str, list[Episode]], count: int) -> list[list[Episode]]:
    """At most `count` episodes, the same number of every family, by family."""
    each = max(1, count // len(families))
    return [found[:: max(1, len(found) // each)][:each] for found in families.values()]
