"""What can be known to be wrong with a config before any work: one line each, told before any data is read."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable

from mma_jax.agents.demonstrations import SOURCES
from mma_jax.agents.registry import METHODS
from mma_jax.baselines.registry import BASELINES
from mma_jax.baselines.sasrec import LOSSES
from mma_jax.data import thinning
from mma_jax.envs.environment import Environment, Options
from mma_jax.envs.evidence import Evidence
from mma_jax.envs.rewards import Costs
from mma_jax.evaluation.episodes import PROTOCOLS
from mma_jax.learning import ppo, sft
from mma_jax.retrieval import pools
from mma_jax.types import InputError

ANY = math.inf
_OF_BASELINES = {
    "lr": (0, ANY),
    **dict.fromkeys(("dropout", "drop"), (0, 0.99)),
    **dict.fromkeys(("epochs", "batch", "validate_every", "patience", "length", "negatives", "history"), (1, ANY)),
    **dict.fromkeys(("dim", "layers", "propagations", "heads", "code", "hidden", "projected", "contrast"), (1, ANY)),
    **dict.fromkeys(("neighbors", "steps", "anchors", "hops", "nodes", "eigenvectors", "codes", "top"), (1, ANY)),
    **dict.fromkeys(("temperature", "general_temperature", "align_temperature"), (1e-3, ANY)),
    **dict.fromkeys(("reg", "weight", "usage", "load", "disentangle", "align", "generate", "noise"), (0, ANY)),
}
RANGES: dict[str, tuple[float, float]] = {
    "seed": (0, ANY),
    "data.max_history": (0, ANY),
    "data.drop_rate": (0, 0.99),
    "graph.dim": (1, ANY),
    "graph.decay": (1e-6, 1),
    "pool.size": (2, ANY),
    "episodes.train": (1, ANY),
    "episodes.valid": (1, ANY),
    "episodes.test": (1, ANY),
    "episodes.per_user": (1, ANY),
    "env.max_items": (0, ANY),
    "eval.alpha_step": (0.001, 1),
    "eval.fit_episodes": (1, ANY),
    "eval.batch": (1, ANY),
    "eval.traces": (0, ANY),
    "eval.probes": (0, ANY),
    "eval.queries": (1, ANY),
    "eval.bootstrap": (10, ANY),
    "audit.ndcg_tolerance": (0, 1),
    "audit.recall_gap": (0, 1),
    "text.dim": (1, ANY),
    "model.lora_rank": (1, ANY),
    "model.lora_alpha": (1e-6, ANY),
    "model.value_hidden": (1, ANY),
    "sampler.rows": (1, ANY),
    "sampler.lanes": (1, ANY),
    "sampler.max_new": (1, ANY),
    "sft.levels": (2, ANY),
    "sft.first_stage": (0, ANY),
    "sft.episodes": (1, ANY),
    "sft.fit_episodes": (1, ANY),
    "sft.steps": (1, ANY),
    "sft.batch": (1, ANY),
    "sft.lr": (0, ANY),
    "sft.warmup": (0, ANY),
    "sft.b2": (0, 1),
    "sft.l2": (0, ANY),
    "sft.max_grad_norm": (1e-6, ANY),
    "sft.nonfinite_limit": (1, ANY),
    "sft.checkpoint_every": (1, ANY),
    "sft.log_every": (1, ANY),
    "ppo.iterations": (1, ANY),
    "ppo.lr": (0, ANY),
    "ppo.value_lr": (0, ANY),
    "ppo.value_only": (0, ANY),
    "ppo.warmup": (0, ANY),
    "ppo.b2": (0, 1),
    "ppo.kl": (0, ANY),
    "ppo.max_grad_norm": (1e-6, ANY),
    "ppo.nonfinite_limit": (1, ANY),
    "ppo.checkpoint_every": (1, ANY),
    "ppo.query_every": (1, ANY),
    "ppo.query": (0, ANY),
    "ppo.validate": (0, ANY),
    "ppo.missing": (0, 1),
    "agentcf.interactions": (0, ANY),
    "agentcf.words": (1, ANY),
    "agentcf.max_new": (1, ANY),
    "pretrain.words": (0, ANY),
    "pretrain.begin": (0, 1),
    "pretrain.steps": (0, ANY),
    "pretrain.checkpoint_every": (1, ANY),
} | {
    f"baselines.{one.settings}.{key}": bounds
    for one in BASELINES.values()
    for key, bounds in _OF_BASELINES.items()
    if key in one.get_config()
}
"""Least and greatest value of the numbers that have one."""

CHOICES: dict[str, tuple[str, ...]] = {
    "data.drop_modality": tuple(thinning.MODALITIES),
    "data.drop_kind": thinning.KINDS,
    "pool.kind": pools.KINDS,
    "pool.negatives": pools.NEGATIVES,
    "evidence.parts": ("train", "all"),
    "env.count": ("estimate", "model"),
    "model.dtype": ("float32", "bfloat16"),
    "sampler.grammar": ("on", "off"),
    "eval.scores": ("written", "expected"),
    "graph.index": ("hnsw", "flat"),
    "graph.source": ("interactions", "copurchases"),
    "sft.scores": SOURCES,
    "sft.mean": sft.MEANS,
    "baselines.sasrec.loss": LOSSES,
}


def check_settings(config) -> None:
    """Raise InputError for the first setting that cannot be."""
    for key, bounds in RANGES.items():
        check_range(f"{key}={value_of(config, key)}", value_of(config, key), bounds)
    for key, known in CHOICES.items():
        one_of(key, value_of(config, key), known)
    if not config.data.name:
        raise InputError("config.data.name is empty: name the dataset")
    _check_drop(config)
    ppo.check(config.ppo)
    seeds(config)
    for protocol in listed(config.eval.language_protocols):
        one_of("eval.language_protocols", protocol, PROTOCOLS)
    if config.data.max_history == 0 and "stress_wrong" in asked_protocols(config):
        raise InputError(
            "config.data.max_history=0 leaves every history empty, so stress_wrong has no other user's to show: "
            "leave it out of config.protocols"
        )
    for protocol in asked_protocols(config):
        # the environment itself refuses what does not fit its turns and context
        environment = Environment(Evidence(), options(config, protocol))
        if config.env.count == "estimate":
            environment.budget(config.pool.size)


def check_range(said: str, value: float, bounds: tuple[float, float]) -> None:
    """Raise InputError for a value out of bounds, least and greatest; said: where it stands in the config."""
    low, high = bounds
    if not low <= value <= high:
        wanted = f"at least {low:g}" if high == ANY else f"between {low:g} and {high:g}"
        raise InputError(f"config.{said}: give a number {wanted}")


def _check_drop(config) -> None:
    """Raise InputError where config.data.drop_* cannot mean anything."""
    data = config.data
    if data.drop_rate and data.drop_modality == "none":
        raise InputError(f"config.data.drop_rate={data.drop_rate}: say of what, by config.data.drop_modality")
    if data.drop_rate and data.drop_modality != "text" and config.images.encoder == "none":
        raise InputError(
            f"config.data.drop_modality={data.drop_modality!r}: config.images.encoder=none leaves no image"
        )
    bounds = [name for name in listed(config.methods) if name in METHODS and METHODS[name].needs_world]
    if data.drop_rate and bounds:
        raise InputError(f"{bounds[0]} knows the whole world, which config.data.drop_rate takes parts of: leave it out")


def value_of(config, key: str):
    """config.a.b for "a.b"."""
    return functools.reduce(getattr, key.split("."), config)


def one_of(key: str, value: str, known: Iterable[str]) -> None:
    """Raise InputError unless a setting is among the known ones."""
    if value not in known:
        raise InputError(f"unknown {value!r} in config.{key}: known are {', '.join(known)}")


def asked_protocols(config) -> list[str]:
    """config.protocols, each once."""
    asked = listed(config.protocols)
    for protocol in asked:
        one_of("protocols", protocol, PROTOCOLS)
    if not asked:
        raise InputError(f"config.protocols names none: known are {', '.join(PROTOCOLS)}")
    return asked


def seeds(config) -> list[int]:
    """config.seeds, each once."""
    found = listed(config.seeds)
    if not all(seed.isdecimal() for seed in found):
        raise InputError(f"config.seeds={config.seeds!r}: give whole numbers from 0 on, comma-separated")
    return [int(seed) for seed in found] or [0]


def listed(text: str) -> list[str]:
    """The parts of a comma-separated setting, each once, in order."""
    return list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def numbers(config, key: str) -> list[int]:
    """A comma-separated setting as ascending whole numbers. Raises InputError if it has none or something else."""
    text = value_of(config, key)
    try:
        found = sorted({int(part) for part in listed(text)})
    except ValueError:
        found = []
    if not found or found[0] < 1:
        raise InputError(f"config.{key}={text!r}: give positive whole numbers, comma-separated")
    return found


def options(config, protocol: str, summaries: str = "") -> Options:
    """The environment's options under a protocol. summaries: overrides the config's."""
    env = config.env
    return Options(
        turns=env.turns,
        context=env.context,
        interactive=protocol == "interactive",
        summaries=summaries or env.summaries,
        summary_tokens=env.summary_tokens,
        graph_titles=env.graph_titles,
        graph_counts=env.graph_counts,
        max_items=env.max_items or None,
        alpha=env.alpha,
        costs=Costs(env.cost_tool, env.cost_ask, env.cost_invalid),
    )
