"""A tiny actor-critic, the settings to train it with, and episodes for it: random ones, and ones it plays itself."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from mma_jax.learning.sequences import Sequence
from mma_jax.models.heads import TRAINABLE, ActorCritic
from mma_jax.models.llama import Llama, LlamaConfig
from mma_jax.models.lora import add_lora

SHAPE = LlamaConfig(vocab_size=32, width=16, layers=1, heads=2, kv_heads=1, head_dim=8, hidden=32, rope_theta=1e4)
TURNS = 3
BUCKETS = (16, 32)


def actor_critic(targets=("q_proj", "down_proj"), trained=0.0):
    """(graphdef, params, frozen); `trained` is the size of random changes to what starts at zero."""
    rngs = nnx.Rngs(params=0)
    model = Llama(SHAPE, rngs=rngs)
    add_lora(model, 4, 8.0, targets, rngs)
    graphdef, params, frozen = nnx.split(ActorCritic(model, 8, rngs), TRAINABLE, ...)
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(1)
    changed = [leaf + trained * jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype) for leaf in leaves]
    return graphdef, jax.tree.unflatten(tree, changed), frozen


def sft_config(**changes):
    config = ConfigDict(
        dict(steps=6, batch=4, lr=3e-2, warmup=2, weight_decay=0.01, max_grad_norm=10.0, nonfinite_limit=3, b2=0.98)
        | dict(checkpoint_every=2, log_every=1, remat=False, mean="token")
    )
    config.update(changes)
    return config


def ppo_config(**changes):
    config = ConfigDict(
        dict(iterations=4, prompts=4, samples=2, ratio="token", baseline="value", clip=0.2, gamma=1.0, lam=0.95)
        | dict(lr=1e-2, value_lr=1e-2, value_only=0, epochs=1, minibatches=1, micro_batch=4, temperature=0.2, kl=0.0)
        | dict(entropy=0.0, max_grad_norm=1.0, whiten=True, warmup=0, nonfinite_limit=3, checkpoint_every=1)
        | dict(remat=False, credit="turn", b2=0.999, decay=False)
    )
    config.update(changes)
    return config


def limits(**changes):
    config = ConfigDict(
        dict(reward_std_min=0.0, entropy_min=0.0, invalid_max=1.0, repeat_null_max=1.0, clip_max=1.0)
        | dict(kl_max=1e9, dlogp_max=1e9)
    )
    config.update(changes)
    return config


def build(prompt, turns, rewards, episode="a", family="full", logprobs=None):
    """A sequence from its prompt ids and [(sampled ids, observation ids)] by turn."""
    tokens, turn, starts = list(prompt), [-1] * len(prompt), []
    for number, (sampled, observed) in enumerate(turns):
        starts.append(len(tokens) - 1)
        tokens += [*sampled, *observed]
        turn += [number] * len(sampled) + [-1] * len(observed)
    turn = np.array(turn, np.int32)
    logprobs = np.zeros(len(tokens)) if logprobs is None else logprobs
    return Sequence(
        np.array(tokens, np.int32),
        turn >= 0,
        turn,
        np.array(starts, np.int32),
        np.array(rewards, np.float32),
        np.asarray(logprobs, np.float32),
        episode,
        family,
    )


def random_sequences(count, seed=0, siblings=2):
    """Episodes of 1 to TURNS turns with ragged completions and observations."""
    rng = np.random.default_rng(seed)

    def ids(least, most):
        return rng.integers(1, SHAPE.vocab_size, rng.integers(least, most + 1)).tolist()

    rows = []
    for index in range(count):
        turns = [(ids(1, 5), ids(0, 3)) for _ in range(rng.integers(1, TURNS + 1))]
        rewards = rng.normal(size=len(turns))
        rows.append(build(ids(2, 6), turns, rewards, f"e{index // siblings}", ("full", "text_only")[index % 2]))
    return rows


@functools.partial(jax.jit, static_argnums=0)
def _draw(graphdef, params, frozen, tokens, position, key, temperature):
    """Samples column `position` of tokens [N, T] -> (token [N], log-probability [N])."""
    model = nnx.merge(graphdef, params, frozen).model
    logits = model.logits(model(tokens)[:, position - 1]) / temperature
    token = jax.random.categorical(jax.random.fold_in(key, position), logits)
    return token, jnp.take_along_axis(jax.nn.log_softmax(logits), token[:, None], 1)[:, 0]


def play(actor, prompts, key, temperature, reward, turns=2, length=2, observation=(3, 4), samples=2):
    """Plays each prompt `samples` times, by brute force: no cache, the whole sequence anew for every token.

    Args:
        actor: (graphdef, params, frozen).
        prompts: lists of ids, all of the same length.
        reward: f(ids of a turn) -> float.
    """
    rows = [prompt for prompt in prompts for _ in range(samples)]
    width = len(rows[0]) + turns * (length + len(observation))
    tokens, logprobs = np.zeros((len(rows), width), np.int32), np.zeros((len(rows), width), np.float32)
    tokens[:, : len(rows[0])] = rows
    position, sampled = len(rows[0]), []
    for _ in range(turns):
        for _ in range(length):
            drawn = _draw(actor[0], *actor[1:], tokens, position, key, temperature)
            tokens[:, position], logprobs[:, position] = drawn
            position += 1
        sampled.append(tokens[:, position - length : position].copy())
        tokens[:, position : position + len(observation)] = observation
        position += len(observation)
    return [
        build(
            rows[n],
            [(part[n].tolist(), observation) for part in sampled],
            [reward(part[n]) for part in sampled],
            episode=f"e{n // samples}",
            logprobs=logprobs[n],
        )
        for n in range(len(rows))
    ]
