"""What a sampler runs on the accelerator: rows out of the caches, prompts in, tokens drawn, rows back.

N = rows of a session, R = rows computed at a time, K = key/value heads, W = cache slots in use, D = head dimension,
T = tokens of a chunk, V = vocabulary, J = tokens of a row that a step of decoding may run (1 without a grammar). Rows
of a batch that stand for nobody have index N: what is read for them is arbitrary and what they leave behind is dropped.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from mma_jax.models.heads import ActorCritic
from mma_jax.models.llama import Cache, Llama
from mma_jax.sampling.grammar import RULED_OUT, Tables
from mma_jax.sampling.numbers import Numbers


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
    graphdef: nnx.GraphDef, state: nnx.State, tokens: jax.Array, length: jax.Array, first: bool, caches: list[Cache]
) -> list[Cache]:
    """Append tokens [R, T], padded on the right, to rows of `length` [R]; donate the caches [R, K, W, D]. With `first`
    all rows are empty.

    No logits are computed: the last token of a prompt is left to `decode`.
    """
    return _trunk(nnx.merge(graphdef, state)).extend(tokens, length, caches, first)[1]


class Decoding(NamedTuple):
    """The state of R rows while they are sampled."""

    pending: jax.Array  # int32 [R, J], the last tokens of the row: not yet in the cache
    count: jax.Array  # int32 [R], how many these are; what stands behind them is padding
    length: jax.Array  # int32 [R], tokens in the cache
    going: jax.Array  # bool [R], the row is being sampled and has not stopped
    rule: jax.Array  # int32 [R], the grammar's state behind `pending`
    tokens: jax.Array  # int32 [R, W + J - 1], the token drawn for each position of the row
    logprobs: jax.Array  # float32 [R, W + J - 1]
    means: jax.Array | None  # float32 [R, W + J - 1], `Numbers.mean` of tokens drawn, nan elsewhere
    hidden: jax.Array  # [R, E], at the token that stood last when decoding began
    caches: list[Cache]  # [R, K, W, D]


def decode(
    graphdef: nnx.GraphDef,
    stop_ids: tuple[int, ...],
    state: nnx.State,
    token: jax.Array,
    length: jax.Array,
    end: jax.Array,
    keys: jax.Array,
    temperature: jax.Array,
    enough: jax.Array,
    rule: jax.Array,
    grammar: Tables | None,
    jump: int,
    caches: list[Cache],
    numbers: Numbers | None = None,
) -> tuple[Decoding, jax.Array]:
    """Sample until at most `enough` rows go on, or a row that does has filled its W slots.

    A step runs the tokens of a row that the model has not seen, samples one, and appends what the grammar forces behind
    it: up to J - 1 tokens that need no step of their own.

    Args:
        graphdef, state: of the model.
        stop_ids: a row ends with any of these.
        token: int32 [R], last token of each row, not yet in the cache.
        length: int32 [R], tokens in the cache: the token after `token` has position length + 1.
        end: int32 [R], a row never gets longer than this; 0 leaves it out.
        keys: uint32 [R, 2], raw key data. The token at position p is drawn with fold_in(key, p).
        temperature: float32 [].
        enough: int32 [].
        rule: int32 [R], the grammar's state behind `token`.
        grammar: None lets every token follow every other.
        jump: J.
        caches: [R, K, W, D] with length < W - J in every row; donate them.
        numbers: whose means are told; None for none.

    Returns:
        The state after, and the value at the first `token` float32 [R] (nan for a model without a value head).
    """
    model = nnx.merge(graphdef, state)
    trunk, width = _trunk(model), caches[0].k.shape[2]
    row, ahead, stops = jnp.arange(len(token)), jnp.arange(jump), jnp.asarray(stop_ids, jnp.int32)

    def proceed(at: Decoding) -> jax.Array:
        # every row is written to, J slots of it; a row that goes on also needs one for its next token
        fits = at.length + jump <= jnp.where(at.going, width - 1, width)
        return (at.going.sum() > enough) & jnp.all(fits)

    def step(at: Decoding) -> Decoding:
        hidden, caches = trunk.extend(at.pending, at.length, at.caches)
        hidden = jnp.take_along_axis(hidden, at.count[:, None, None] - 1, axis=1)[:, 0]
        position, logits = at.length + at.count, trunk.logits(hidden)
        allowed = None if grammar is None else grammar.allowed(at.rule, end - position)
        drawn, logprob = draw(logits, keys, position, temperature, allowed)
        pending, count, rule, stopped = append(drawn, position, at.rule)
        nowhere = width + jump
        column = jnp.where(at.going, position, nowhere)
        columns = jnp.where(ahead < count[:, None], column[:, None] + ahead, nowhere)
        going, means = at.going[:, None], at.means
        if numbers is not None:
            means = means.at[row, column].set(numbers.mean(logits, drawn, allowed), mode="drop")
        return Decoding(
            pending=jnp.where(going, pending, at.pending),
            count=jnp.where(at.going, count, at.count),
            length=jnp.where(at.going, position, at.length),
            going=at.going & ~stopped & (position + count < end),
            rule=jnp.where(at.going, rule, at.rule),
            tokens=at.tokens.at[row[:, None], columns].set(pending, mode="drop"),
            logprobs=at.logprobs.at[row, column].set(logprob, mode="drop"),  # 0 where forced
            means=means,
            hidden=jnp.where((at.length == length)[:, None], hidden, at.hidden),
            caches=caches,
        )

    def append(token: jax.Array, position: jax.Array, rule: jax.Array) -> tuple[jax.Array, ...]:
        """The token [R] drawn for a position and those forced behind it [R, J]; how many these are, the grammar's state
        behind them, and whether the last one ends the row: [R] each."""
        pending, count, stopped = [token], jnp.ones_like(token), jnp.isin(token, stops)
        if grammar is not None:
            rule, more = grammar.after(rule, token), ~stopped
            for n in range(1, jump):
                more = more & ~stopped & (position + n < end) & grammar.forced(rule, end - position - n)
                pending.append(jnp.where(more, grammar.best[rule], 0))
                count, stopped = count + more, stopped | (more & jnp.isin(pending[-1], stops))
                rule = jnp.where(more, grammar.after(rule, pending[-1]), rule)
        return jnp.stack(pending, axis=1), count, rule, stopped

    shape = (len(token), width + jump - 1)
    start = Decoding(
        pending=jnp.pad(token[:, None], ((0, 0), (0, jump - 1))),
        count=jnp.ones_like(token),
        length=length,
        going=length + 1 < end,
        rule=rule,
        tokens=jnp.zeros(shape, jnp.int32),
        logprobs=jnp.zeros(shape),
        means=None if numbers is None else jnp.full(shape, jnp.nan),
        hidden=jnp.zeros((len(token), trunk.config.width), trunk.embed_tokens.dtype),
        caches=caches,
    )
    final = jax.lax.while_loop(proceed, step, start)
    if isinstance(model, ActorCritic):
        return final, model.values(final.hidden)
    return final, jnp.full(len(token), jnp.nan)


def draw(
    logits: jax.Array,
    keys: jax.Array,
    position: jax.Array,
    temperature: jax.Array,
    allowed: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Draw from softmax(logits / temperature) by Gumbel's trick; the argmax and its log-probability at 1 if that is 0.

    Args:
        logits: float32 [R, V].
        keys: uint32 [R, 2], raw key data of each row.
        position: int32 [R], folded into the key, so that no draw depends on the row or the batch (DESIGN §6.15).
        temperature: float32 [].
        allowed: bool [R, V], what may be drawn; None for everything.

    Returns:
        Tokens int32 [R] and their log-probabilities float32 [R].
    """

    def noise() -> jax.Array:
        key = jax.vmap(jax.random.fold_in)(jax.random.wrap_key_data(keys), position)
        return jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[1:]))(key)

    warm = temperature > 0
    logits = logits / jnp.where(warm, temperature, 1.0)
    if allowed is not None:
        logits = jnp.where(allowed, logits, RULED_OUT)
    token = jnp.argmax(logits + jax.lax.cond(warm, noise, lambda: jnp.zeros_like(logits)), axis=-1)
    chosen = jnp.take_along_axis(logits, token[:, None], axis=-1)[:, 0]
    return token.astype(jnp.int32), chosen - jax.nn.logsumexp(logits, axis=-1)


def _trunk(model: ActorCritic | Llama) -> Llama:
    return model.model if isinstance(model, ActorCritic) else model
