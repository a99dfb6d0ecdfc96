"""The language model of an experiment: base weights, tokenizer, adapters, and how it plays."""

from __future__ import annotations

import functools
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from flax import nnx

from mma_jax.agents import demonstrations, language_model
from mma_jax.agents.language_model import Played
from mma_jax.envs.budget import estimate_tokens
from mma_jax.envs.environment import Environment
from mma_jax.envs.evidence import Evidence
from mma_jax.envs.observations import NULL
from mma_jax.envs.options import Options
from mma_jax.envs.tools import TERMINAL, toolbox
from mma_jax.envs.tools.schema import handles
from mma_jax.evaluation.checks import numbers, options
from mma_jax.models import peft
from mma_jax.models.convert import L0_TINY, load_llama
from mma_jax.models.heads import TRAINABLE, ActorCritic
from mma_jax.models.llama import Llama
from mma_jax.models.sharding import Placement, make_mesh
from mma_jax.models.tokenizer import Chat, load_tokenizer
from mma_jax.runs import aot, hosts
from mma_jax.sampling.grammar import Grammar, compile_grammar
from mma_jax.sampling.numbers import find_numbers
from mma_jax.sampling.sampler import Sampler
from mma_jax.types import Episode, InputError, Trajectory

BLOCK = 16  # rows the sampler computes at a time where there is no accelerator


class Language:
    """The base model of `config.model`, the same for every agent (§3.3, controlled comparison).

    Args:
        config: the experiment's.

    Raises:
        InputError: the checkpoint cannot be read, or does not fit its tokenizer, or a turn not the grammar's actions.
    """

    def __init__(self, config):
        self.config = config
        if config.model.dtype == "float32":
            keep_float32()
        self.folder = Path(config.model.path or L0_TINY)
        self.tokenizer = load_tokenizer(self.folder)
        self.chat = Chat(self.tokenizer)
        mesh = make_mesh(**config.mesh)
        self.placement = Placement(mesh)
        if problem := aot.undivided(config, mesh.shape["data"] * mesh.shape["fsdp"]):
            logging.warning("%s", problem)
        self._own = self.placement  # what rollouts run on: this process's devices alone, see `runs.hosts`
        if jax.process_count() > 1:
            self._own = Placement(make_mesh(data=-1, devices=jax.local_devices()))
        self.base = self._load(self._own)
        if self.base.config.vocab_size < self.tokenizer.vocab_size:
            raise InputError(
                f"{self.folder}: the tokenizer has {self.tokenizer.vocab_size} tokens, the model's embedding "
                f"{self.base.config.vocab_size}: they are not of one checkpoint"
            )
        self.graph, _, self._playing = nnx.split(self._actor(self.base, 0), TRAINABLE, ...)
        self.frozen = self._playing
        if self._own is not self.placement:
            self.frozen = nnx.split(self._actor(self._load(self.placement), 0), TRAINABLE, ...)[2]
        if config.sampler.grammar == "on":
            self._grammar(options(config, "ooma"))  # what cannot be is told before any work

    def _load(self, placement: Placement) -> Llama:
        dtype = jnp.dtype(self.config.model.dtype)
        return load_llama(self.folder, dtype, dtype, int8=self.config.model.int8, placement=placement)

    def _actor(self, base: Llama, seed: int) -> ActorCritic:
        return aot.adapted(nnx.clone(base), self.config.model, seed)

    def adapter(self, seed: int) -> nnx.State:
        """LoRA and value head before any training: the base model's own behavior, V = 0."""
        return self.placement.weights(nnx.split(self._actor(self.base, seed), TRAINABLE, ...)[1])

    def publish(self, adapter: nnx.State, folder: Path) -> None:
        """Writes an adapter for `peft`; the value head, which peft does not know, is left out."""
        adapter = self.placement.fetch(adapter)  # every process takes part
        if hosts.first():
            peft.save_peft(nnx.merge(self.graph, adapter, self._playing).model, folder, str(self.folder.resolve()))

    @functools.cached_property
    def buckets(self) -> tuple[int, ...]:
        """Lengths of sequences that the trainer compiles."""
        return tuple(numbers(self.config, "model.lengths" if self.config.model.lengths else "sampler.slots"))

    @property
    def judged_by_means(self) -> bool:
        """Whether evaluation takes the mean of a score, not what was written."""
        return self.config.eval.scores == "expected"

    @functools.cached_property
    def sampler(self) -> Sampler:
        return Sampler(
            nnx.merge(self.graph, self.adapter(0), self.frozen),
            self.tokenizer.stop_ids,
            numbers(self.config, "sampler.slots"),
            numbers(self.config, "sampler.chunks"),
            block=BLOCK if jax.default_backend() == "cpu" else None,
            placement=self._own,
            numbers=find_numbers(self.tokenizer, self.base.config.vocab_size) if self.judged_by_means else None,
        )

    def grammar(self, env: Environment) -> Grammar | None:
        """What turns in an environment are held to; None where config.sampler.grammar is off.

        Raises:
            InputError: a score map of the whole pool does not fit, or the tokenizer cannot write actions.
        """
        if self.config.sampler.grammar == "off":
            return None
        if (scored := env.budget(self.config.pool.size).scored) < self.config.pool.size:
            raise InputError(
                f"sampler.grammar=on scores whole pools, and config.env.context has room for {scored} of "
                f"{self.config.pool.size} candidates: raise it"
            )
        return self._grammar(env.options)

    @functools.cache  # noqa: B019 - compiled once for an environment's options
    def _grammar(self, chosen: Options) -> Grammar:
        size, vocabulary = self.config.pool.size, self.base.config.vocab_size
        return compile_grammar(self.tokenizer, self.chat.end[-1], toolbox(chosen), size, vocabulary)

    def state(self, adapter: nnx.State) -> nnx.State:
        """What the sampler takes: all weights, on this process's devices."""
        if self._own is not self.placement:
            adapter = self._own.weights(self.placement.fetch(adapter))
        return nnx.merge_state(adapter, self._playing)

    def play(
        self,
        adapter: nnx.State,
        env: Environment,
        episodes: list[Episode],
        *,
        temperature: float,
        key: tuple[int, int],
        label: str = "",
        samples: int = 1,
        script: language_model.Script | None = None,
        expected: bool = False,
    ) -> list[Played]:
        """Episodes played with an adapter; see `agents.language_model.play`."""
        if (grammar := self.grammar(env)) and {len(e.case.pool) for e in episodes} - {self.config.pool.size}:
            raise InputError("sampler.grammar=on needs pools of config.pool.size candidates: turn it off")
        return language_model.play(
            self.sampler,
            self.state(adapter),
            self.chat,
            env,
            episodes,
            batch=min(self.config.sampler.rows, max(1, len(episodes) * samples)),
            key=key,
            temperature=temperature,
            max_new=self.config.sampler.max_new,
            context=min(self.config.env.context, self.sampler.longest),
            label=label,
            samples=samples,
            script=script,
            grammar=grammar,
            lanes=self.config.sampler.lanes,
            expected=expected,
        )

    def similar(self, threshold: float = 0.5) -> demonstrations.Similar:
        """Whether two words mean the same to the base model: cosine of their embeddings, 0 below a threshold."""
        table = np.asarray(self.base.embed_tokens(np.arange(self.base.config.vocab_size)), np.float32)

        @functools.cache
        def vector(word: str) -> np.ndarray:
            mean = table[self.tokenizer.encode(f" {word}")].mean(axis=0)
            return mean / max(np.linalg.norm(mean), 1e-9)

        def similar(word: str, other: str) -> float:
            cosine = float(vector(word) @ vector(other))
            return 1.0 if word == other else cosine if cosine >= threshold else 0.0

        return similar


def keep_float32() -> None:
    """Matmuls of float32 in float32, from here on.

    Left to themselves GPUs round inputs to TF32 and TPUs to bfloat16; on an H100 sampler and trainer then differed by
    up to .06 nats a token where 1e-4 is the rule (DESIGN §6.1).
    """
    if jax.default_backend() != "cpu":
        jax.config.update("jax_default_matmul_precision", "float32")


def check(config) -> None:
    """Raise InputError, before any work, if there is no base model where the config says, or it has no tokenizer, or
    sequences get longer than what is trained on, or an opening and its scores than what can be sampled."""
    if not (Path(config.model.path or L0_TINY) / "config.json").is_file():
        raise InputError(
            f"agents need a base model, and {config.model.path or L0_TINY} is none: give a Hugging Face folder by "
            "--config.model.path, for example the DIR/l0_tiny that --config.run=pretrain makes"
        )
    make_mesh(**config.mesh)  # raises if there are other devices
    chat = Chat(load_tokenizer(config.model.path or L0_TINY))
    longest = min(config.env.context, max(numbers(config, "sampler.slots")))
    if config.model.lengths and (trained := max(numbers(config, "model.lengths"))) < longest:
        raise InputError(
            f"config.model.lengths ends at {trained}, and an episode may have {longest} tokens: add {longest}"
        )
    count = chat.count if config.env.count == "model" else estimate_tokens
    size = config.pool.size
    room = Environment(Evidence(), options(config, "ooma"), count).budget(size)
    if longest < (least := room.prompt + size * room.summary + room.scores):
        raise InputError(
            f"config.sampler.slots ends at {longest}, and {size} candidates with their scores take {least} tokens: "
            f"add {room.context}"
        )
    scores = {"tool": TERMINAL, "args": {"scores": dict.fromkeys(handles(room.scored), 0)}}
    least = chat.count(json.dumps(scores, separators=(",", ":"))) + 1
    if config.sampler.max_new < least:
        raise InputError(
            f"config.sampler.max_new={config.sampler.max_new} is less than the {least} tokens of {room.scored} scores: "
            "raise it"
        )


def plan(config) -> list[tuple[str, str]]:
    """Parameters and memory of the agents' model, from shapes alone: rows (name, value)."""
    folder = Path(config.model.path or L0_TINY)
    there, shape = (folder / "config.json").is_file(), aot.shape_of(config)
    trained, frozen = nnx.split_state(nnx.state(aot.actor_critic(config)), TRAINABLE, ...)
    adapters, base = (sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(part)) for part in (trained, frozen))
    held = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(frozen))
    slots = min(config.env.context, max(numbers(config, "sampler.slots")))
    cache = 2 * shape.layers * shape.kv_heads * shape.head_dim * jnp.dtype(config.model.dtype).itemsize
    rows = config.sampler.rows
    split = max(1, config.mesh.data) * config.mesh.fsdp * config.mesh.tensor > 1
    return [
        ("checkpoint", f"{folder}" if there else f"{folder} (not there: planned for the shape of Llama-3-8B)"),
        ("shape", f"{shape.layers} layers of width {shape.width}, {shape.heads}/{shape.kv_heads} heads"),
        (
            "base parameters, frozen",
            f"{base:,}, {held / 2**30:.2f} GiB as {'int8' if config.model.int8 else config.model.dtype}",
        ),
        ("LoRA and value head, trained", f"{adapters:,}, {3 * adapters * 4 / 2**20:.1f} MiB with Adam's moments"),
        ("key/value cache", f"{rows} rows x {slots} tokens, {rows * slots * cache / 2**30:.2f} GiB"),
        ("SFT", f"{config.sft.steps} steps x {config.sft.batch} episodes, scores from {config.sft.scores}"),
        (
            "PPO",
            f"{config.ppo.iterations} iterations x {config.ppo.prompts} episodes x {config.ppo.samples} samples, "
            f"ratio {config.ppo.ratio}, temperature {config.ppo.temperature}",
        ),
        *(aot.table(config) if config.model.path or split else []),
    ]


def rates(played: list[Trajectory]) -> dict[str, float]:
    """Shares of turns that are invalid or repeat a Null, of evidence calls that fail, of episodes that are scored."""
    turns = [turn for one in played for turn in one.turns]
    calls = [turn for turn in turns if turn.tool not in ("", "Score_Candidates")]
    failed = [turn for turn in calls if turn.error or turn.observation == NULL]
    return {
        "invalid_rate": np.mean([turn.error not in ("", "repeat_null") for turn in turns]),
        "repeat_null_rate": np.mean([turn.error == "repeat_null" for turn in turns]),
        "failed_call_rate": len(failed) / max(1, len(calls)),
        "scored_rate": np.mean([one.stop_reason == "scored" for one in played]),
    }
