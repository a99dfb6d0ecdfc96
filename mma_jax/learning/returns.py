"""From rewards to advantages, per turn and not per token (MMA Eq. 5, DESIGN §5.9).

The maths is of one episode, unbatched: the caller vmaps. M = turns at most, N = episodes.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def gae(
    rewards: jax.Array, values: jax.Array, mask: jax.Array, gamma: float, lam: float
) -> tuple[jax.Array, jax.Array]:
    """Generalized advantage estimation over turns (Schulman et al. 2016, arXiv:1506.02438; MMA Eq. 5).

    A_t = sum_l (gamma lam)^l delta_{t+l},  delta_t = r_t + gamma V(H_{t+1}) - V(H_t)

    Nothing is bootstrapped behind the last turn, whatever stopped the episode: there is no reward to come.

    Args:
        rewards: float32 [M].
        values: float32 [M], V(H_t) before each turn.
        mask: bool [M], True for the turns played, which come first.
        gamma: discount per turn.
        lam: 1 sums the rewards to come, 0 trusts the next value.

    Returns:
        Advantages and returns A_t + V(H_t), float32 [M] each, 0 where there is no turn.
    """
    values, rewards = jnp.where(mask, values, 0.0), jnp.where(mask, rewards, 0.0)
    following = jnp.append(values[1:], 0.0)
    delta = rewards + gamma * following - values

    def backward(later: jax.Array, delta: jax.Array) -> tuple[jax.Array, jax.Array]:
        advantage = delta + gamma * lam * later
        return advantage, advantage

    _, advantages = jax.lax.scan(backward, jnp.zeros_like(delta[0]), delta, reverse=True)
    return advantages, advantages + values


def rewards_to_go(rewards: jax.Array, mask: jax.Array, gamma: float) -> jax.Array:
    """G_t = sum_l gamma^l r_{t+l}, float32 [M]: what V(H_t) is judged by."""
    return gae(rewards, jnp.zeros_like(rewards), mask, gamma, 1.0)[1]


def whiten(x: jax.Array, mask: jax.Array) -> jax.Array:
    """(x - mean) / std over all turns of the global batch, of any shape; 0 where `mask` is False."""
    return _centered(x, mask) / deviation(x, mask)


def deviation(x: jax.Array, mask: jax.Array) -> jax.Array:
    """What `whiten` divides by: the standard deviation over all turns, float32 [], never 0."""
    return jnp.sqrt((_centered(x, mask) ** 2).sum() / jnp.maximum(mask.sum(), 1) + 1e-8)


def _centered(x: jax.Array, mask: jax.Array) -> jax.Array:
    return jnp.where(mask, x - jnp.where(mask, x, 0.0).sum() / jnp.maximum(mask.sum(), 1), 0.0)


def sibling_luck(surprise: jax.Array, group: jax.Array, groups: int) -> jax.Array:
    """What an episode's other samples earned beyond expectation: a control variate for its advantages.

    b_i = mean over siblings j != i of (G_1 - V(H_1))_j, 0 for an only child

    Ours, beyond the paper; leave-one-out as in RLOO (Kool et al. 2019; Ahmadian et al. 2024, arXiv:2402.14740), but of
    what the value head did not foresee. Most of a reward's variance is the episode's luck, its hidden target, which all
    siblings share. Subtracting b_i from the advantages of every turn of sample i leaves the gradient unbiased, because
    given the episode the siblings are independent of i's own actions.

    Args:
        surprise: float32 [N], G_1 - V(H_1) of each sample.
        group: int32 [N], the same number in 0..groups-1 for samples of the same episode.
        groups: at least the number of episodes.

    Returns:
        float32 [N].
    """
    totals = jnp.zeros(groups).at[group].add(surprise)[group]
    others = jnp.zeros(groups).at[group].add(1.0)[group] - 1
    return jnp.where(others > 0, (totals - surprise) / jnp.maximum(others, 1), 0.0)
