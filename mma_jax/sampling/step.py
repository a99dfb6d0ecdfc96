"""What a sampler runs on the accelerator: rows out of the caches, prompts in, tokens drawn, rows back.

N = rows of a session, R = rows computed at a time, K = key/value heads, W = cache slots in use, D = head dimension,
T = tokens of a chunk, V = vocabulary. Rows of a batch that stand for nobody have index N: what is read for them is
arbitrary and what they leave behind is dropped.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mma_jax.models.heads import ActorCritic
from mma_jax.models.llama import Cache, Llama


def take(caches: list[Cache], rows: jax.Array, width: int) -> list[Cache]:
    """The first `width` slots of `rows` (int32 [R]): [N, K, S, D] -> [R, K, W, D]."""
    return jax.tree.map(lambda cache: cache.at[rows, :, :width].get(mode="clip"), caches)


def put(caches: list[Cache], rows: jax.Array, taken: list[Cache]) -> list[Cache]:
    """Write back what `take` took; donate `caches`."""
    width = taken[0].k.shape[2]
    return jax.tree.map(lambda cache, new: cache.at[rows, :, :width].set(new, mode="drop"), caches, taken)


def widen(caches: list[Cache], slots: int) -> list[Cache]:
    """[N, K, S, D] -> [N, K, slots, D]"""
    return jax.tree.map(lambda cache: jnp.pad(cache, ((0, 0), (0, 0), (0, slots - cache.shape[2]), (0, 0))), caches)


def permute(caches: list[Cache], sources: jax.Array) -> list[Cache]:
    """Row n becomes what row sources[n] was."""
    return jax.tree.map(lambda cache: cache[sources], caches)


def prefill(
    graphdef: nnx.GraphDef, state: nnx.State, tokens: jax.Array, length: jax.Array, caches: list[Cache]
) -> list[Cache]:
    """Append tokens [R, T], padded on the right, to rows of `length` [R]; donate the caches [R, K, W, D].

    No logits are computed: the last token of a prompt is left to `decode`.
    """
    return _trunk(nnx.merge(graphdef, state)).extend(tokens, length, caches)[1]


class Decoding(NamedTuple):
    """The state of R rows while they are sampled."""

    token: jax.Array  # int32 [R], the last token of the row: not yet in the cache
    length: jax.Array  # int32 [R], tokens in the cache
    going: jax.Array  # bool [R], the row is being sampled and has not stopped
    tokens: jax.Array  # int32 [R, W], the token drawn for each position of the row
    logprobs: jax.Array  # float32 [R, W]
    hidden: jax.Array  # [R, E], at the token that stood last when decoding began
    caches: list[Cache]  # [R, K, W, D]


def decode(
    graphdef: nnx.GraphDef,
    stop_ids: tuple[int, ...],
    forced_next: np.ndarray | None,
    state: nnx.State,
    token: jax.Array,
    length: jax.Array,
    end: jax.Array,
    keys: jax.Array,
    temperature: jax.Array,
    enough: jax.Array,
    caches: list[Cache],
) -> tuple[Decoding, jax.Array]:
    """Sample until at most `enough` rows go on, or a row that does has filled its W slots.

    Args:
        graphdef, state: of the model.
        stop_ids: a row ends with any of these.
        forced_next: int32 [V], the only token that may follow each token, -1 where sampling decides; or None.
        token: int32 [R], last token of each row, not yet in the cache.
        length: int32 [R], tokens in the cache: the token after `token` has position length + 1.
        end: int32 [R], a row never gets longer than this; 0 leaves it out.
        keys: uint32 [R, 2], raw key data. The token at position p is drawn with fold_in(key, p).
        temperature: float32 [].
        enough: int32 [].
        caches: [R, K, W, D] with length < W - 1 in every row; donate them.

    Returns:
        The state after, and the value at the first `token` float32 [R] (nan for a model without a value head).
    """
    model = nnx.merge(graphdef, state)
    trunk, width = _trunk(model), caches[0].k.shape[2]
    row = jnp.arange(len(token))

    def proceed(at: Decoding) -> jax.Array:
        return (at.going.sum() > enough) & jnp.all(~at.going | (at.length < width - 1))

    def step(at: Decoding) -> Decoding:
        hidden, caches = trunk.extend(at.token[:, None], at.length, at.caches)
        hidden, position = hidden[:, 0], at.length + 1
        drawn, logprob = draw(trunk.logits(hidden), keys, position, temperature)
        if forced_next is not None:
            follows = jnp.asarray(forced_next)[at.token]
            drawn, logprob = jnp.where(follows >= 0, follows, drawn), jnp.where(follows >= 0, 0.0, logprob)
        drawn = jnp.where(at.going, drawn, at.token)
        column = jnp.where(at.going, position, width)  # others write nowhere
        stopped = jnp.isin(drawn, jnp.asarray(stop_ids, jnp.int32))
        return Decoding(
            token=drawn,
            length=jnp.where(at.going, position, at.length),
            going=at.going & ~stopped & (position + 1 < end),
            tokens=at.tokens.at[row, column].set(drawn, mode="drop"),
            logprobs=at.logprobs.at[row, column].set(logprob, mode="drop"),
            hidden=jnp.where((at.length == length)[:, None], hidden, at.hidden),
            caches=caches,
        )

    shape = (len(token), width)
    hidden = jnp.zeros((len(token), trunk.config.width), trunk.embed_tokens.dtype)
    going = length + 1 < end
    start = Decoding(token, length, going, jnp.zeros(shape, jnp.int32), jnp.zeros(shape), hidden, caches)
    final = jax.lax.while_loop(proceed, step, start)
    if isinstance(model, ActorCritic):
        return final, model.values(final.hidden)
    return final, jnp.full(len(token), jnp.nan)


def draw(
    logits: jax.Array, keys: jax.Array, position: jax.Array, temperature: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Draw from softmax(logits / temperature) by Gumbel's trick; the argmax and its log-probability at 1 if that is 0.

    Args:
        logits: float32 [R, V].
        keys: uint32 [R, 2], raw key data of each row.
        position: int32 [R], folded into the key, so that no draw depends on the row or the batch (DESIGN §6.15).
        temperature: float32 [].

    Returns:
        Tokens int32 [R] and their log-probabilities float32 [R].
    """

    def noise() -> jax.Array:
        key = jax.vmap(jax.random.fold_in)(jax.random.wrap_key_data(keys), position)
        return jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[1:]))(key)

    warm = temperature > 0
    logits = logits / jnp.where(warm, temperature, 1.0)
    token = jnp.argmax(logits + jax.lax.cond(warm, noise, lambda: jnp.zeros_like(logits)), axis=-1)
    chosen = jnp.take_along_axis(logits, token[:, None], axis=-1)[:, 0]
    return token.astype(jnp.int32), chosen - jax.nn.logsumexp(logits, axis=-1)


def _trunk(model: ActorCritic | Llama) -> Llama:
    return model.model if isinstance(model, ActorCritic) else model
