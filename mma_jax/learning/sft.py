"""Supervised fine-tuning of the adapter on an expert's episodes (DESIGN §5.10).

The loss is the negative log-likelihood of the tokens the expert wrote; what tools answered is read, not learned.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from tqdm import tqdm

from mma_jax.learning import interrupts, losses
from mma_jax.learning.checkpoint import Checkpoints
from mma_jax.learning.panel import Panel
from mma_jax.learning.sequences import Batch, Sequence, bucket_of, pad
from mma_jax.learning.state import TrainState, adam, apply, copy, create, for_policy_and_value, stop_if_stuck
from mma_jax.models.sharding import HERE, Placement
from mma_jax.types import InputError

MEANS = ("token", "turn")
"""What counts alike: every action token; or every turn, lest a call of ten tokens be lost beside a map of fifty."""


def init(params: nnx.State, config: Any) -> TrainState:
    """A state before the first update. `params`: heads.TRAINABLE of an ActorCritic; `config`: config.sft.

    Raises InputError, before any work, if config.mean is none of MEANS.
    """
    if config.mean not in MEANS:
        raise InputError(f"config.sft.mean is {config.mean!r}: known are {', '.join(MEANS)}")
    return create(params, _optimizer(config))


def _optimizer(config: Any) -> optax.GradientTransformationExtraArgs:
    policy = adam(config.lr, config.warmup, config.max_grad_norm, config.weight_decay, config.steps, config.b2)
    return for_policy_and_value(policy, optax.set_to_zero())


def make_step(graphdef: nnx.GraphDef, config: Any, placement: Placement = HERE) -> Callable:
    """The jitted update of an ActorCritic's adapter; its value head stays as it is.

    Args:
        graphdef: of the ActorCritic, split by heads.TRAINABLE.
        config: config.sft.
        placement: where its arguments are.

    Returns:
        step(state, frozen, batch: Batch) -> (state, {"loss": nats a token, "grad_norm", ...}). It consumes
        `state`. The loss is the batch's mean in the sense of config.mean.
    """
    optimizer = _optimizer(config)

    def loss_fn(params: nnx.State, frozen: nnx.State, batch: Batch) -> jax.Array:
        model = nnx.merge(graphdef, params, frozen).model
        hidden = model(batch.tokens, remat=config.remat)
        logprobs, _ = losses.token_logprobs(model.logits, hidden, batch.tokens, batch.action, 1.0)
        return -mean(logprobs, batch, config.mean)

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state: TrainState, frozen: nnx.State, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        loss, gradient = placement.program(jax.value_and_grad(loss_fn))(state.params, frozen, batch)
        state, norms = apply(optimizer, state, loss, gradient)
        return state, {"loss": loss, **norms}

    return step


def mean(x: jax.Array, batch: Batch, kind: str) -> jax.Array:
    """The mean of x [N, T], 0 outside actions, over action tokens, or over turns of the mean over their tokens."""
    if kind == "token":
        return x.sum() / jnp.maximum(batch.action.sum(), 1)
    turns = batch.turn_mask.shape[1]
    lengths = jax.vmap(losses.by_turn, (0, 0, None))(batch.action.astype(x.dtype), batch.turn, turns)
    sums = jax.vmap(losses.by_turn, (0, 0, None))(x, batch.turn, turns)
    return (sums / jnp.maximum(lengths, 1)).sum() / jnp.maximum(batch.turn_mask.sum(), 1)


def batches(sequences: list[Sequence], buckets: tuple[int, ...], batch: int, seed: int) -> grain.DatasetIterator:
    """Shuffled batches without end; `get_state` and `set_state` say where it is.

    Each batch is drawn from the sequences of one length bucket, so none pays for another's padding, and buckets take
    turns in proportion to their sequences. Every epoch of a bucket has its own order, which follows from the seed.

    Raises:
        InputError: there are no sequences, or one that fits no bucket.
    """
    if not sequences:
        raise InputError("sft has no episodes to learn from: raise config.episodes.train")
    turns = max(len(sequence.starts) for sequence in sequences)
    members: dict[int, list[Sequence]] = {}
    for sequence in sequences:
        members.setdefault(bucket_of(len(sequence), buckets), []).append(sequence)
    parts = [
        grain.MapDataset.source(members[bucket])
        .shuffle(seed)
        .repeat()
        .batch(batch, batch_fn=functools.partial(pad, buckets=(bucket,), max_turns=turns))
        for bucket in sorted(members)
    ]
    weights = [len(members[bucket]) / len(sequences) for bucket in sorted(members)]
    mixed = grain.MapDataset.mix(parts, weights)
    return iter(mixed.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)))


def train(
    state: TrainState,
    frozen: nnx.State,
    graphdef: nnx.GraphDef,
    sequences: list[Sequence],
    config: Any,
    buckets: tuple[int, ...],
    checkpoints: Checkpoints,
    panel: Panel,
    seed: int,
    placement: Placement = HERE,
) -> TrainState:
    """Trains for config.steps updates, going on from the last checkpoint if there is one.

    Args:
        state: from `init`; left as it is.
        frozen: the rest of the ActorCritic.
        graphdef: of the ActorCritic.
        sequences: the expert's episodes.
        config: config.sft.
        buckets: lengths that may be compiled.
        checkpoints: written every config.checkpoint_every steps and at the end.
        panel: gets the mean loss every config.log_every steps and at each checkpoint.
        seed: of the data's order.
        placement: where weights are and batches go.

    Raises:
        InputError: no sequences, or one that is too long.
        FloatingPointError: config.nonfinite_limit updates in a row were not finite.
    """
    step = make_step(graphdef, config, placement)
    data = batches(sequences, buckets, config.batch, seed)
    begin = {"panel": 0, "data": data.get_state(), "recent": []}
    start, state, extra = checkpoints.latest(state) or (0, copy(state), begin)
    data.set_state(extra["data"])
    panel.rewind(extra["panel"], start)
    recent = [{name: np.float32(value) for name, value in figures.items()} for figures in extra["recent"]]
    with interrupts.deferred() as stopping:
        for done in tqdm(range(start + 1, config.steps + 1), initial=start, total=config.steps, desc="sft"):
            batch = next(data)
            state, metrics = step(state, frozen, placement.rows(batch))
            stop_if_stuck(state, config.nonfinite_limit, batch._asdict(), panel.directory)
            recent.append(metrics)
            stop = stopping()
            due = done % config.checkpoint_every == 0 or done == config.steps
            if due or done % config.log_every == 0:
                figures = {name: float(np.mean([m[name] for m in jax.device_get(recent)])) for name in metrics}
                figures["skipped"] = float(state.skipped)
                panel.write(done, figures)
                recent = []
            if due or stop:
                unsaid = [{name: float(value) for name, value in m.items()} for m in jax.device_get(recent)]
                checkpoints.save(done, state, {"panel": panel.position, "data": data.get_state(), "recent": unsaid})
            if stop:
                break
    return state
