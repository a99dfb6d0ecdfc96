"""What training changes from step to step, and the two ways of changing it: Adam, or not at all.

An update whose loss or gradient is not finite leaves parameters and moments as they are and is counted; too many in a
row stop the run, with the batch that caused it on disk.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from mma_jax.models.heads import ValueParam

Tree = TypeVar("Tree")


class TrainState(NamedTuple):
    """A pytree; all of it is in a checkpoint."""

    params: nnx.State  # what is trained
    moments: optax.OptState
    tried: jax.Array  # int32 [], updates tried
    skipped: jax.Array  # int32 [], those that were not finite
    streak: jax.Array  # int32 [], how many of them just now, one after the other


def create(params: nnx.State, optimizer: optax.GradientTransformation) -> TrainState:
    """A state before its first update; it shares its arrays with `params`."""
    return TrainState(params, optimizer.init(params), *(jnp.zeros((), jnp.int32) for _ in range(3)))


def copy(tree: Tree) -> Tree:
    """Arrays of their own, safe from donation; committed to their devices, as those of a checkpoint are, so that what
    is compiled for the one serves for the other."""
    return jax.tree.map(lambda leaf: jax.device_put(leaf, leaf.sharding, may_alias=False), tree)


def adam(
    rate: float, warmup: int, max_grad_norm: float, weight_decay: float, steps: int | None = None, b2: float = 0.999
) -> optax.GradientTransformation:
    """AdamW behind a clip of the global norm; the rate rises linearly over `warmup` updates and then stays.

    With `steps`, it falls linearly over the second half of so many updates, nearly to 0. `b2`: how much of the second
    moment an update keeps; the less, the sooner Adam slows down where gradients grow.
    """

    def schedule(count: jax.Array) -> jax.Array:
        risen = jnp.minimum(1.0, (count + 1) / max(1, warmup))
        return rate * (risen if steps is None else jnp.minimum(risen, 2.0 * jnp.maximum(steps - count, 0) / steps))

    return optax.chain(
        optax.clip_by_global_norm(max_grad_norm), optax.adamw(schedule, b2=b2, weight_decay=weight_decay)
    )


def for_policy_and_value(
    policy: optax.GradientTransformation, value: optax.GradientTransformation
) -> optax.GradientTransformationExtraArgs:
    """One optimizer for the value head's parameters and one for all others.

    Each clips its own gradient, so that the value head's early errors do not shrink the policy's steps. `update` takes
    `learn_policy`, a bool []: False leaves the policy, its moments and its warm-up where they are.
    """
    policy = optax.conditionally_mask(policy, lambda step, learn_policy: learn_policy, forward_extra_args=True)

    def labels(params: nnx.State) -> nnx.State:
        def label(variable: nnx.Variable) -> str:
            return "value" if isinstance(variable, ValueParam) else "policy"

        return jax.tree.map(label, params, is_leaf=lambda x: isinstance(x, nnx.Variable))

    return optax.partition({"policy": policy, "value": value}, labels)


def apply(
    optimizer: optax.GradientTransformationExtraArgs,
    state: TrainState,
    loss: jax.Array,
    gradient: nnx.State,
    learn_policy: jax.Array | bool = True,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update, unless the loss or the gradient is not finite. Pure; call it inside jit.

    Returns:
        The next state, and float32 [] each: `grad_norm` and `value_grad_norm` before clipping, `skipped` so far.
    """
    value_norm = optax.tree.norm(nnx.filter_state(gradient, ValueParam))
    policy_norm = optax.tree.norm(nnx.filter_state(gradient, nnx.Not(ValueParam)))
    finite = jnp.isfinite(loss) & jnp.isfinite(value_norm) & jnp.isfinite(policy_norm)
    update, moments = optimizer.update(gradient, state.moments, state.params, learn_policy=learn_policy)
    changed = (optax.apply_updates(state.params, update), moments)
    params, moments = jax.tree.map(lambda new, old: jnp.where(finite, new, old), changed, (state.params, state.moments))
    bad = (~finite).astype(jnp.int32)
    state = TrainState(params, moments, state.tried + 1, state.skipped + bad, (state.streak + bad) * bad)
    norms = {"grad_norm": policy_norm, "value_grad_norm": value_norm, "skipped": state.skipped.astype(jnp.float32)}
    return state, norms


def stop_if_stuck(state: TrainState, limit: int, batch: dict[str, np.ndarray], directory: Path) -> None:
    """Ends a run whose last `limit` updates were all skipped.

    Args:
        state: after the update.
        limit: `nonfinite_limit`.
        batch: what the last update was made from.
        directory: where `nonfinite_UPDATE.npz` goes.

    Raises:
        FloatingPointError: says where the batch is.
    """
    if int(state.streak) < limit:
        return
    path = directory / f"nonfinite_{int(state.tried)}.npz"
    if jax.process_index() == 0:  # of several all stop here, with the same batch
        directory.mkdir(parents=True, exist_ok=True)
        with open(path.with_suffix(".tmp"), "wb") as file:
            np.savez(file, **batch)
        os.replace(path.with_suffix(".tmp"), path)
    raise FloatingPointError(
        f"{limit} updates in a row had a loss or gradient that is not finite; the last batch is in {path}"
    )
