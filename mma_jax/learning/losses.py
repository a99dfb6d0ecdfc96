"""Log-probabilities of sampled tokens and the losses made of them (MMA Eq. 6, DESIGN §5.9 and §6).

Losses are of one trajectory and summed, not averaged: the caller vmaps and divides by counts of the whole batch, so
that no micro-batch split, padding or observation changes them. B = rows, T = tokens, M = turns at most, E = width,
V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from mma_jax.sampling.grammar import RULED_OUT

RATIOS = ("token", "turn", "turn_mean")
"""What is clipped: each token's ratio; a turn's, the product over its tokens (Eq. 6); their geometric mean."""

_AT_A_TIME = 512  # tokens whose logits exist together
MAX_LOG_RATIO = 20.0  # beyond, exp would overflow and 0 * inf spoil a gradient that the clip had removed


def token_logprobs(
    head: Callable[[jax.Array], jax.Array],
    hidden: jax.Array,
    tokens: jax.Array,
    action: jax.Array,
    temperature: float,
    rules: jax.Array | None = None,
    allowed: Callable[[jax.Array], jax.Array] | None = None,
    choices: jax.Array | None = None,
) -> tuple[jax.Array, ...]:
    """log softmax(logits / temperature) of action tokens, and the entropy of the distributions they came from.

    Hidden states before action tokens are moved to the front of their row and go through the head a chunk at a time,
    each recomputed in the backward pass, so that B x T x V never exists; chunks without an action token are skipped.

    Args:
        head: float [..., E] -> float32 logits [..., V].
        hidden: [B, T, E], hidden[:, t] having seen tokens up to t.
        tokens: int32 [B, T].
        action: bool [B, T], never True in column 0.
        temperature: of the policy, above 0.
        rules, allowed: int32 [B, T], and a function of them -> bool [..., V]: what a grammar allowed in a token's place
            (DESIGN §6.14). The distributions are over that; `allowed` None is over everything.
        choices: int32 [B, T, L], other tokens in a token's place whose log-probabilities are wanted too, -1 for none.

    Returns:
        Log-probabilities and entropies in nats, float32 [B, T] each, 0 where `action` is False; with `choices` also
        theirs, [B, T, L].
    """
    batch, length = tokens.shape
    chunk = max(1, _AT_A_TIME // batch)
    chunks = -(-length // chunk)
    order = jnp.argsort(~action, axis=1, stable=True)
    reach = action.sum(1).max()

    def split(x: jax.Array) -> jax.Array:
        """[B, T, ...] in the new order -> [chunks, B, chunk, ...]"""
        padding = [(0, 0), (0, chunks * chunk - length)] + [(0, 0)] * (x.ndim - 2)
        return jnp.pad(x, padding).reshape(batch, chunks, chunk, *x.shape[2:]).swapaxes(0, 1)

    def measure(hidden: jax.Array, token: jax.Array, rule: jax.Array | None, choice: jax.Array | None):
        logits = head(hidden) / temperature
        if rule is not None:
            logits = jnp.where(allowed(rule), logits, RULED_OUT)
        log_p = jax.nn.log_softmax(logits)
        chosen = jnp.take_along_axis(log_p, token[..., None], axis=-1)[..., 0]
        others = choice if choice is None else jnp.take_along_axis(log_p, jnp.maximum(choice, 0), axis=-1)
        return chosen, -(jnp.exp(log_p) * log_p).sum(-1), others

    def nothing(hidden: jax.Array, token: jax.Array, rule: jax.Array | None, choice: jax.Array | None):
        return jnp.zeros(token.shape), jnp.zeros(token.shape), choice if choice is None else jnp.zeros(choice.shape)

    @jax.checkpoint  # around the cond: inside it, the head's weights would be kept once for every chunk
    def measured_or_not(start: jax.Array, *inputs: jax.Array | None) -> tuple[jax.Array | None, ...]:
        return jax.lax.cond(start < reach, measure, nothing, *inputs)

    def step(start: jax.Array, inputs: tuple[jax.Array | None, ...]):
        return start + chunk, measured_or_not(start, *inputs)

    def in_order(x: jax.Array, order: jax.Array) -> jax.Array:
        return jnp.take_along_axis(x, order.reshape(*order.shape, *[1] * (x.ndim - 2)), axis=1)

    def restore(x: jax.Array) -> jax.Array:
        """[chunks, B, chunk, ...] -> [B, T, ...] in the tokens' order"""
        x = x.swapaxes(0, 1).reshape(batch, -1, *x.shape[3:])
        return jnp.where(
            action.reshape(*action.shape, *[1] * (x.ndim - 2)), in_order(x, jnp.argsort(order, axis=1)), 0.0
        )

    by_token = (tokens, None if allowed is None else rules, choices)
    inputs = in_order(hidden, jnp.maximum(order - 1, 0)), *jax.tree.map(lambda x: in_order(x, order), by_token)
    _, measured = jax.lax.scan(step, 0, jax.tree.map(split, inputs))
    return tuple(restore(x) for x in measured if x is not None)


def by_turn(x: jax.Array, turn: jax.Array, turns: int) -> jax.Array:
    """Sums x [T] over the action tokens of each turn -> [M]; `turn` is -1 elsewhere."""
    return jnp.where(turn == jnp.arange(turns)[:, None], x, 0.0).sum(-1)


def log_ratios(new: jax.Array, old: jax.Array, turn: jax.Array, turns: int, kind: str) -> jax.Array:
    """log of the ratio that PPO clips (Eq. 6), one per token or per turn.

    token: d_t = log pi(x_t) - log pi_old(x_t);  turn: sum of d_t over the turn's tokens, the log of Eq. 6's
    rho = pi(z, a | H) / pi_old(z, a | H);  turn_mean: their mean (GSPO, Zheng et al. 2025, arXiv:2507.18071).

    Args:
        new, old: float32 [T], 0 outside actions.
        turn: int32 [T], -1 outside actions.
        turns: M.
        kind: one of RATIOS.

    Returns:
        float32 [T] for "token", else [M]; 0 where there is no action, or no turn.
    """
    delta = jnp.where(turn >= 0, new - old, 0.0)
    if kind == "turn":
        delta = by_turn(delta, turn, turns)
    elif kind == "turn_mean":
        delta = by_turn(delta, turn, turns) / jnp.maximum(by_turn(jnp.ones_like(delta), turn, turns), 1)
    return jnp.clip(delta, -MAX_LOG_RATIO, MAX_LOG_RATIO)


def surrogate(ratio: jax.Array, advantage: jax.Array, epsilon: float) -> jax.Array:
    """min(rho A, clip(rho, 1 - epsilon, 1 + epsilon) A), elementwise (Schulman et al. 2017; Eq. 6)."""
    return jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - epsilon, 1 + epsilon) * advantage)


def per_token(x: jax.Array, turn: jax.Array) -> jax.Array:
    """Each action token gets its turn's entry of x [M] -> [T]; 0 where `turn` is -1."""
    return jnp.where(turn >= 0, x[jnp.maximum(turn, 0)], 0.0)


def k3(new: jax.Array, reference: jax.Array) -> jax.Array:
    """exp(d) - 1 - d with d = log pi_ref - log pi: of tokens from pi, an unbiased and never negative estimate of
    KL(pi || pi_ref) (Schulman 2020, "Approximating KL divergence"). Elementwise."""
    delta = jnp.clip(reference - new, -MAX_LOG_RATIO, MAX_LOG_RATIO)
    return jnp.expm1(delta) - delta


def squared_error(value: jax.Array, target: jax.Array) -> jax.Array:
    """(V - G)^2 / 2, elementwise."""
    return 0.5 * (value - target) ** 2
