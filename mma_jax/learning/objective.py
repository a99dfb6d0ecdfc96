"""What a PPO iteration's update minimises, and the figures of it (MMA Eq. 4-6, DESIGN §5.9).

N = episodes of an iteration, T = tokens, M = turns at most.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mma_jax.learning import losses, returns
from mma_jax.learning.sequences import Batch, Sequence, siblings

LENGTHS = (16, 64, 256)
"""Upper edges of the bins of turn length, in tokens, by which clip fractions are reported; one more bin above."""


class Old(NamedTuple):
    """What was true before the iteration's first update, by row; figures are in nats."""

    logprobs: np.ndarray | None  # float32 [N, T], of pi_old; None: the policy being trained still is pi_old
    reference: np.ndarray | None  # float32 [N, T], of the SFT policy, nan where nobody looked; None: it does not count
    entropy: np.ndarray | None  # float32 [N, T]
    values: np.ndarray | None  # float32 [N, M]
    choices: np.ndarray | None = None  # float32 [N, T, L], of pi_old, for batch.choices


class Targets(NamedTuple):
    """What turns are worth."""

    advantages: np.ndarray  # float32 [N, M]
    returns: np.ndarray  # float32 [N, M], what V is fitted to
    to_go: np.ndarray  # float32 [N, M], the discounted rewards to come
    credit: np.ndarray  # float32 [N, T], advantages that tokens have of their own, nan elsewhere
    worth: np.ndarray | None = None  # float32 [N, T, L], of batch.worth, on the advantages' scale


@functools.partial(jax.jit, static_argnames=("baseline", "whiten"))
def targets(
    batch: Batch,
    values: jax.Array,
    group: jax.Array,
    *,
    gamma: float,
    lam: float,
    baseline: str,
    whiten: bool,
) -> Targets:
    """Advantages and returns of a global batch, from rewards and values alone: no token enters.

    Args:
        batch: rewards and turn_mask of it are used, [N, M], and credit and worth, [N, T, ...], which keep the turns'
            scale.
        values: float32 [N, M], V(H_t).
        group: int32 [N], `sequences.siblings`.
        gamma, lam, baseline, whiten: of config.ppo.
    """
    over_episodes = functools.partial(jax.vmap, in_axes=(0, 0, 0, None, None))
    advantages, goals = over_episodes(returns.gae)(batch.rewards, values, batch.turn_mask, gamma, lam)
    to_go = jax.vmap(returns.rewards_to_go, (0, 0, None))(batch.rewards, batch.turn_mask, gamma)
    if baseline == "siblings":
        luck = returns.sibling_luck(to_go[:, 0] - values[:, 0], group, len(group))
        advantages = jnp.where(batch.turn_mask, advantages - luck[:, None], 0.0)
    credit, worth = batch.credit, batch.worth
    if whiten:
        credit, worth = jax.tree.map(lambda x: x / returns.deviation(advantages, batch.turn_mask), (credit, worth))
        advantages = returns.whiten(advantages, batch.turn_mask)
    return Targets(advantages, goals, to_go, credit, worth)


def expected_surrogate(new: jax.Array, old: jax.Array, worth: jax.Array, epsilon: float) -> jax.Array:
    """Eq. 6 of a token whose alternatives' worth is known: the expectation over the policy in the sample's place.

    sum_l pi_old(l) min(rho_l A_l, clip(rho_l) A_l),  A_l = R_l - sum_l pi_old(l) R_l / sum_l pi_old(l)

    Not in the paper. At pi = pi_old its gradient is sum_l grad pi(l) A_l, that of an expected policy gradient (Ciosek &
    Whiteson 2018, arXiv:1706.05374; Allen et al. 2017, arXiv:1709.00503), of which a sampled token is a noisy estimate.

    Args:
        new, old: float32 [..., L] log-probabilities.
        worth: float32 [..., L], R, nan where it is not known.
        epsilon: of the clip.

    Returns:
        float32 [...], 0 where the worth is not known.
    """
    known = jnp.isfinite(worth)
    p, worth = jnp.where(known, jnp.exp(old), 0.0), jnp.where(known, worth, 0.0)
    expected = (p * worth).sum(-1) / jnp.maximum(p.sum(-1), 1e-9)
    ratio = jnp.exp(jnp.clip(new - old, -losses.MAX_LOG_RATIO, losses.MAX_LOG_RATIO))
    return (p * losses.surrogate(ratio, worth - expected[..., None], epsilon)).sum(-1)


def objective(
    logprobs: jax.Array,
    entropy: jax.Array,
    values: jax.Array,
    batch: Batch,
    old: Old,
    goal: Targets,
    counts: dict[str, jax.Array],
    config: Any,
    choices: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """A micro-batch's share of the loss of its minibatch.

    L = -mean min(rho A, clip(rho) A) + kl mean k3 - entropy mean H + mean (V - G)^2 / 2

    The first mean is over action tokens for ppo.ratio=token and over turns for the others; the second and third over
    action tokens, the last over turns. Since V's gradient reaches only the value head, which has an optimizer of its
    own, its term needs no weight.

    Args:
        logprobs, entropy: float32 [N, T] under the parameters being trained.
        values: float32 [N, M].
        batch, goal: the same rows.
        old: their logprobs, reference and choices; the reference may only be None where config.kl is 0.
        counts: action tokens and turns of the minibatch.
        config: config.ppo.
        choices: float32 [N, T, L], of batch.choices under the parameters being trained.

    Returns:
        The share, and shares of figures that add up over micro-batches (`ratio_max` excepted).
    """
    turns, before = batch.turn_mask.shape[1], old.logprobs
    if before is None:
        before, choices_before = jax.lax.stop_gradient((logprobs, choices))
    else:
        choices_before = old.choices
    log_ratios = functools.partial(losses.log_ratios, turns=turns, kind=config.ratio)
    ratio = jnp.exp(jax.vmap(log_ratios)(logprobs, before, batch.turn))
    length = jax.vmap(lambda turn: losses.by_turn(jnp.ones(turn.shape), turn, turns))(batch.turn)
    advantages, mask, unit = goal.advantages, batch.turn_mask, "turns"
    if config.ratio == "token":
        spread = jax.vmap(losses.per_token)
        advantages, length = spread(advantages, batch.turn), spread(length, batch.turn)
        advantages = jnp.where(jnp.isnan(goal.credit), advantages, goal.credit)
        mask, unit = batch.action, "tokens"

    def mean(x: jax.Array, mask: jax.Array, unit: str) -> jax.Array:
        return jnp.where(mask, x, 0.0).sum() / jnp.maximum(counts[unit], 1)

    gained = losses.surrogate(ratio, advantages, config.clip)
    if choices is not None:
        expected = expected_surrogate(choices, choices_before, goal.worth, config.clip)
        gained = jnp.where(batch.choices[..., 0] >= 0, expected, gained)
    policy_loss = -mean(gained, mask, unit)
    value_loss = mean(losses.squared_error(values, goal.returns), batch.turn_mask, "turns")
    loss = policy_loss + value_loss - config.entropy * mean(entropy, batch.action, "tokens")
    if config.kl:
        loss += config.kl * mean(losses.k3(logprobs, old.reference), batch.action, "tokens")

    in_bin = mask & (jnp.digitize(length, np.array(LENGTHS), right=True) == np.arange(len(LENGTHS) + 1)[:, None, None])
    outside = jnp.abs(ratio - 1) > config.clip
    return loss, {
        "policy_loss": policy_loss,
        "value_loss": value_loss,
        "ratio_mean": mean(ratio, mask, unit),
        "ratio_max": jnp.where(mask, ratio, 0.0).max(),
        "clipped": (in_bin & outside).sum((1, 2)),
        "clippable": in_bin.sum((1, 2)),
    }


def describe(sequences: list[Sequence], batch: Batch, old: Old, goal: Targets) -> dict[str, float]:
    """Figures of an iteration's episodes before the first update.

    `kl` and `entropy` are per action token, on the policy's own samples, `kl` of those that the reference was asked
    about; `dlogp_*` is how far the sampler's log-probabilities are from the trainer's; explained variance is
    1 - var(G - V) / var(G) over turns.
    """
    action, turn = batch.action, batch.turn_mask
    earned = batch.rewards.sum(1)[: len(sequences)]
    mismatch = np.abs(old.logprobs - batch.logprobs)[action]
    to_go, values = goal.to_go[turn], old.values[turn]
    compared = action & np.isfinite(old.reference)
    figures = {
        "reward": earned.mean(),
        "reward_std": earned.std(),
        "turns": turn.sum() / len(sequences),
        "tokens": action.sum() / len(sequences),
        "entropy": old.entropy[action].mean(),
        "kl": np.asarray(losses.k3(old.logprobs, old.reference))[compared].mean(),
        "value": values.mean(),
        "explained_variance": 1 - (to_go - values).var() / to_go.var() if to_go.var() > 0 else np.nan,
        "dlogp_p95": np.quantile(mismatch, 0.95),
        "dlogp_max": mismatch.max(),
    }
    families = np.array([sequence.family for sequence in sequences])
    for family in np.unique(families):
        figures[f"reward/{family}"] = earned[families == family].mean()
    groups = siblings(sequences)
    size = np.bincount(groups)[groups]
    if (size > 1).any():
        center = (np.bincount(groups, earned) / np.bincount(groups))[groups]
        figures["reward_std_siblings"] = np.sqrt(((earned - center)[size > 1] ** 2).mean())
    return {name: float(value) for name, value in figures.items()}


def add_up(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Shares of micro-batches -> figures of their minibatch."""
    return {name: (max if name == "ratio_max" else sum)(part[name] for part in parts) for name in parts[0]}


def fractions(figures: dict[str, np.ndarray]) -> dict[str, float]:
    """Counts of clipped ratios -> their fraction, overall and by the length of the turn."""
    clipped, clippable = figures.pop("clipped"), figures.pop("clippable")
    figures["clip_fraction"] = clipped.sum() / clippable.sum()
    for name, part, whole in zip((*(f"to_{edge}" for edge in LENGTHS), "longer"), clipped, clippable, strict=True):
        if whole:
            figures[f"clip_fraction/{name}"] = part / whole
    return figures


def mean(figures: list[dict[str, float]]) -> dict[str, float]:
    """Means over the updates that have a figure; of maxima the largest, of counts the last."""
    reduce = {"ratio_max": max, "skipped": lambda values: values[-1]}
    names = dict.fromkeys(name for part in figures for name in part)
    return {name: float(reduce.get(name, np.mean)([part[name] for part in figures if name in part])) for name in names}
