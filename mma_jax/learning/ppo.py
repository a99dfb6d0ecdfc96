"""Multi-turn PPO with GAE over turns (MMA Eq. 4-6, DESIGN §5.9).

Episodes come from `collect`, which learning knows nothing about. The policy is softmax(logits / T) everywhere: in the
sampler, in pi_old (which the trainer's own forward pass recomputes), in the reference and in the entropy.

N = episodes of an iteration, T = tokens, M = turns at most.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from tqdm import tqdm

from mma_jax.learning import interrupts, losses
from mma_jax.learning.checkpoint import Checkpoints
from mma_jax.learning.objective import Old, Targets, add_up, describe, fractions, mean, objective, targets
from mma_jax.learning.panel import Panel
from mma_jax.learning.sequences import Batch, Sequence, bucket_of, pad, siblings, stack
from mma_jax.learning.sharing import Packed, share
from mma_jax.learning.state import TrainState, adam, apply, copy, create, for_policy_and_value, stop_if_stuck
from mma_jax.models.sharding import HERE, Placement
from mma_jax.types import InputError

BASELINES = ("value", "siblings")
"""What an advantage is measured against: V alone, or also the luck of the episode's other samples."""

CREDITS = ("turn", "candidate", "level")
"""Whose advantage a token has: its turn's; where it wrote a candidate's score, what that score was worth beside its
siblings'; or there every level's, weighed by the policy."""

SPARSE = 4
"""Of so many micro-batches the reference sees one, where its divergence is only logged."""

Collect = Callable[[nnx.State, int], tuple[list[Sequence], dict[str, float]]]
"""collect(params, iteration) -> sequences of config.prompts episodes x config.samples, and what else it measured."""

Allowed = Callable[[jax.Array], jax.Array]
"""Rules int32 [...], of `Batch` -> bool [..., V], which tokens the policy could choose from (DESIGN §6.14)."""


def check(config: Any) -> None:
    """Raises InputError where config.ppo cannot be meant."""
    for name, known in (("ratio", losses.RATIOS), ("baseline", BASELINES), ("credit", CREDITS)):
        if config[name] not in known:
            raise InputError(f"ppo.{name}={config[name]} is not known: choose one of {', '.join(known)}")
    for name in ("temperature", "clip", "prompts", "samples", "epochs", "minibatches", "micro_batch"):
        if not config[name] > 0:
            raise InputError(f"ppo.{name}={config[name]}: must be above 0")
    for name in ("gamma", "lam"):
        if not 0 <= config[name] <= 1:
            raise InputError(f"ppo.{name}={config[name]}: must be between 0 and 1")
    if config.baseline == "siblings" and config.samples < 2:
        raise InputError("ppo.baseline=siblings compares samples of one episode: set ppo.samples to 2 or more")
    if config.credit == "candidate" and config.samples < 2:
        raise InputError("ppo.credit=candidate compares an episode's samples: set ppo.samples to 2 or more")
    if config.credit != "turn" and config.ratio != "token":
        raise InputError(f"ppo.credit={config.credit} is about single scores: set ppo.ratio to token")
    if config.minibatches > config.prompts:
        raise InputError(f"ppo.minibatches={config.minibatches} is more than there are episodes, {config.prompts}")


def init(params: nnx.State, config: Any) -> TrainState:
    """A state before the first update. `params`: heads.TRAINABLE of an ActorCritic; `config`: config.ppo."""
    return create(params, _optimizer(config))


def _optimizer(config: Any) -> optax.GradientTransformationExtraArgs:
    updates = max(1, config.iterations - config.value_only) * config.epochs * config.minibatches
    steps = updates if config.decay else None
    policy = adam(config.lr, config.warmup, config.max_grad_norm, 0.0, steps, config.b2)
    return for_policy_and_value(policy, adam(config.value_lr, config.warmup, config.max_grad_norm, 0.0))


def make_passes(
    graphdef: nnx.GraphDef, config: Any, placement: Placement = HERE, allowed: Allowed | None = None
) -> tuple[Callable, Callable]:
    """The two jitted passes over a micro-batch.

    Args:
        graphdef: of the ActorCritic, split by heads.TRAINABLE.
        config: config.ppo.
        placement: where their arguments are.
        allowed: what the grammar of the sampler allowed; None where it had none.

    Returns:
        measure(params, frozen, batch, packed) -> (log-probabilities [N, T], entropies [N, T], values [N, M], and log-
        probabilities of batch.choices [N, T, L] if there are any), and
        accumulate(total, params, frozen, batch, packed, old, goal, counts) -> (total + gradient, figures, log-
        probabilities and entropies), which consumes `total`. The arguments are as in `objective`.
    """

    def forward(params: nnx.State, frozen: nnx.State, batch: Batch, packed: Packed) -> tuple[jax.Array, ...]:
        actor_critic = nnx.merge(graphdef, params, frozen)
        model = actor_critic.model
        hidden = model(packed.tokens, packed.position, packed.segment, remat=config.remat)
        hidden = hidden.reshape(-1, hidden.shape[-1])[packed.place]
        logprobs, entropy, *choices = losses.token_logprobs(
            model.logits, hidden, batch.tokens, batch.action, config.temperature, batch.rules, allowed, batch.choices
        )
        at_starts = jnp.take_along_axis(hidden, batch.starts[..., None], axis=1)
        return logprobs, entropy, jnp.where(batch.turn_mask, actor_critic.values(at_starts), 0.0), *choices

    def loss_fn(params, frozen, batch: Batch, packed: Packed, old: Old, goal: Targets, counts: dict):
        logprobs, entropy, values, *choices = forward(params, frozen, batch, packed)
        loss, figures = objective(logprobs, entropy, values, batch, old, goal, counts, config, *choices)
        return loss, ({"loss": loss, **figures}, (logprobs, entropy))

    measure = jax.jit(placement.program(forward))

    @functools.partial(jax.jit, donate_argnums=0)
    def accumulate(total: nnx.State, params: nnx.State, frozen: nnx.State, *inputs: Any) -> tuple:
        gradient, (figures, seen) = placement.program(jax.grad(loss_fn, has_aux=True))(params, frozen, *inputs)
        return jax.tree.map(jnp.add, total, gradient), figures, seen

    return measure, accumulate


def make_update(
    graphdef: nnx.GraphDef,
    config: Any,
    buckets: tuple[int, ...],
    turns: int,
    directory: Path,
    placement: Placement = HERE,
    allowed: Allowed | None = None,
) -> Callable:
    """One PPO iteration's learning: config.epochs passes over the episodes, in config.minibatches updates each.

    Samples of an episode stay in one minibatch. Each is split into micro-batches of config.micro_batch rows of about
    the same length, whose gradients are summed; what they are divided by is counted over the whole minibatch, so the
    split changes nothing. What samples of an episode begin with is computed once (`sharing`); a micro_batch that is a
    multiple of config.samples keeps them together.

    Where an iteration has a single update and the sampler told its values, that update's own forward pass is pi_old's:
    a ratio is 1 wherever the gradient is taken. Otherwise the policy gets a pass of its own before. The reference gets
    one of all micro-batches where its divergence is paid for, and of every fourth for the log.

    Args:
        graphdef: of the ActorCritic, split by heads.TRAINABLE.
        config: config.ppo.
        buckets: lengths that may be compiled.
        turns: M.
        directory: where the batch goes if training has to stop.
        placement: where weights are and batches go.
        allowed: as for `make_passes`.

    Returns:
        update(state, frozen, reference, sequences, rng: np.random.Generator, value_only=False) -> (state, figures). It
        consumes `state`; `reference` has the structure of state.params, and with `value_only` the policy stays.

    Raises:
        InputError: a setting that cannot be meant. `update` raises it for sequences that fit no bucket, and
            FloatingPointError after config.nonfinite_limit updates in a row that were not finite.
    """
    check(config)
    if min(buckets) < turns:
        raise InputError(f"a length bucket of {min(buckets)} tokens cannot hold {turns} turns: leave it out")
    optimizer = _optimizer(config)

    measure, accumulate = make_passes(graphdef, config, placement, allowed)

    @functools.partial(jax.jit, donate_argnums=0)
    def apply_sum(state: TrainState, loss: jax.Array, gradient: nnx.State, learn_policy: bool):
        return apply(optimizer, state, loss, gradient, learn_policy)

    def parts(
        batch: Batch, rows: np.ndarray, lengths: np.ndarray, group: np.ndarray, every: int = 1
    ) -> Iterator[tuple]:
        """(rows, width, their batch, packed) of each micro-batch, or one of so many."""
        split = micro_batches(rows, lengths, group, config.micro_batch, buckets)
        for micro, width in itertools.islice(split, 0, None, every):
            part = crop(batch, micro, width)
            packs = -(-config.micro_batch // config.samples)
            packed = share(part.tokens, lengths[micro], group[micro], packs, buckets)
            yield micro, width, placement.rows(part), placement.rows(packed)

    def look(
        params: nnx.State | None, reference: nnx.State, frozen: nnx.State, batch: Batch, *shape: np.ndarray
    ) -> Old:
        """Before the first update; without `params` only the reference looks, and the rest is left at 0."""
        old = Old(
            *(np.full(batch.tokens.shape, fill, np.float32) for fill in (0, np.nan, 0)),
            np.zeros(batch.rewards.shape, np.float32),
            None if batch.choices is None or params is None else np.zeros(batch.choices.shape, np.float32),
        )
        everything = np.arange(len(batch.tokens) - 1)
        for rows, _, *part in parts(batch, everything, *shape, every=1 if config.kl else SPARSE):
            _fill((old.reference,), rows, placement.fetch(measure(reference, frozen, *part)))
        if params is not None:
            for rows, _, *part in parts(batch, everything, *shape):
                found = placement.fetch(measure(params, frozen, *part))
                _fill((old.logprobs, old.entropy, old.values, old.choices), rows, found)
        return old

    def update(
        state: TrainState,
        frozen: nnx.State,
        reference: nnx.State,
        sequences: list[Sequence],
        rng: np.random.Generator,
        value_only: bool = False,
    ) -> tuple[TrainState, dict[str, float]]:
        count, group = len(sequences), np.append(siblings(sequences), len(sequences)).astype(np.int32)
        lengths = np.array([*map(len, sequences), 0])
        batch = pad(sequences, buckets, turns, rows=count + 1)  # the last row is empty: it fills up micro-batches
        once = config.epochs * config.minibatches == 1 and all(s.values is not None for s in sequences)
        old = look(None if once else state.params, reference, frozen, batch, lengths, group)
        if once:
            old.values[:count] = stack((s.values for s in sequences), (count, turns), 0, np.float32)
        given = Old(None if once else old.logprobs, old.reference if config.kl else None, None, None, old.choices)
        goal = jax.device_get(
            targets(
                batch,
                old.values,
                group,
                gamma=config.gamma,
                lam=config.lam,
                baseline=config.baseline,
                whiten=config.whiten,
            )
        )
        figures = []
        for _ in range(config.epochs):
            for chosen in np.array_split(rng.permutation(np.unique(group[:count])), config.minibatches):
                rows = np.flatnonzero(np.isin(group, chosen))
                counts = {
                    "tokens": np.float32(batch.action[rows].sum()),
                    "turns": np.float32(batch.turn_mask[rows].sum()),
                }
                total, shares, seen = jax.tree.map(jnp.zeros_like, state.params), [], []
                for micro, width, *part in parts(batch, rows, lengths, group):
                    aims = (placement.rows(crop(aim, micro, width)) for aim in (given, goal))
                    total, figured, *told = accumulate(total, state.params, frozen, *part, *aims, counts)
                    shares.append(figured)
                    seen.append((micro, *told))
                if once:
                    for micro, told in seen:
                        _fill((old.logprobs, old.entropy), micro, placement.fetch(told))
                summed = add_up(jax.device_get(shares))
                state, norms = apply_sum(state, summed["loss"], total, not value_only)
                stop_if_stuck(state, config.nonfinite_limit, _arrays(batch, old, goal, rows), directory)
                figures.append({**fractions(summed), **jax.device_get(norms)})
        return state, mean([describe(sequences, batch, old, goal), *figures])

    return update


def _fill(fields: Iterable[np.ndarray | None], rows: np.ndarray, found: Iterable[np.ndarray]) -> None:
    """Put what was found of some rows, [n, width, ...] each, into fields [N, T, ...] at least as wide."""
    for field, part in zip(fields, found, strict=False):
        if field is not None:
            field[rows, : part.shape[1]] = part


def micro_batches(
    rows: np.ndarray, lengths: np.ndarray, group: np.ndarray, size: int, buckets: tuple[int, ...]
) -> Iterator[tuple[np.ndarray, int]]:
    """(rows, bucket) of `size` rows each, the longest groups first and their members side by side.

    The last is filled up with the empty row, which ends `lengths` and `group`.
    """
    longest = np.zeros(group.max() + 1, int)
    np.maximum.at(longest, group, lengths)
    ordered = rows[np.lexsort((group[rows], -longest[group[rows]]))]
    for start in range(0, len(ordered), size):
        chosen = ordered[start : start + size]
        filled = np.concatenate([chosen, np.full(size - len(chosen), len(lengths) - 1)])
        yield filled, bucket_of(int(lengths[chosen].max()), buckets)


def crop(arrays: Any, rows: np.ndarray, width: int) -> Any:
    """Rows of a NamedTuple of [N, T] and [N, M] arrays, of the first `width` tokens (M is never larger)."""
    return jax.tree.map(lambda array: array[rows, :width], arrays)


def _arrays(batch: Batch, old: Old, goal: Targets, rows: np.ndarray) -> dict[str, np.ndarray]:
    """The minibatch by name, for the file that is left when training has to stop."""
    whole = batch._asdict() | {f"old_{name}": array for name, array in old._asdict().items()} | goal._asdict()
    return {name: array[rows] for name, array in whole.items() if array is not None}


def train(
    state: TrainState,
    frozen: nnx.State,
    graphdef: nnx.GraphDef,
    collect: Collect,
    config: Any,
    buckets: tuple[int, ...],
    turns: int,
    checkpoints: Checkpoints,
    panel: Panel,
    seed: int,
    validate: Callable[[nnx.State], float] | None = None,
    placement: Placement = HERE,
    allowed: Allowed | None = None,
) -> TrainState:
    """Trains for config.iterations iterations, going on from the last checkpoint if there is one.

    What is random in an iteration follows from (seed, iteration), so nothing of it needs to be stored.

    Args:
        state: from `init` on the SFT adapter, which also is the reference of the KL; left as it is.
        frozen: the rest of the ActorCritic.
        graphdef: of the ActorCritic.
        collect: plays episodes; the parameters it is given are gone after the iteration.
        config: config.ppo.
        buckets: lengths that may be compiled.
        turns: M.
        checkpoints: written every config.checkpoint_every iterations and at the end.
        panel: gets a record each iteration.
        seed: of the order of episodes.
        validate: how good parameters are, larger is better; asked at each checkpoint.
        placement: where weights are and batches go.
        allowed: as for `make_passes`.

    Raises:
        InputError, FloatingPointError: see `make_update`.
    """
    update = make_update(graphdef, config, buckets, turns, panel.directory, placement, allowed)
    reference = copy(state.params)
    start, state, extra = checkpoints.latest(state) or (0, copy(state), {"panel": 0})
    panel.rewind(extra["panel"], start)
    with interrupts.deferred() as stopping:
        for iteration in tqdm(range(start, config.iterations), initial=start, total=config.iterations, desc="ppo"):
            sequences, measured = collect(state.params, iteration)
            rng = np.random.default_rng([seed, iteration])
            state, figures = update(state, frozen, reference, sequences, rng, value_only=iteration < config.value_only)
            done = iteration + 1
            stop = stopping()
            due = done % config.checkpoint_every == 0 or done == config.iterations
            figures |= measured
            if due and validate:  # a signal adds no candidate for the best, and does not wait for one
                figures["valid"] = validate(state.params)
            panel.write(done, figures)
            if due or stop:
                checkpoints.save(done, state, {"panel": panel.position}, figures.get("valid"))
            if stop:
                break
    return state
