"""Agents at the smallest size that still does everything: settings of an experiment, and a base of random weights."""

from pathlib import Path

from flax import nnx

from mma_jax.learning import vocabulary
from mma_jax.models.convert import save_llama
from mma_jax.models.llama import Llama, LlamaConfig
from mma_jax.models.tokenizer import load_tokenizer, train_tokenizer

SETTINGS = {
    "protocols": "ooma",
    "world.n_items": 120,
    "world.n_users": 250,
    "pool.size": 5,
    "episodes.train": 60,
    "episodes.valid": 6,
    "episodes.test": 8,
    "env.turns": 3,
    "env.context": 512,
    "sampler.slots": "512",
    "sampler.chunks": "32,256",
    "sampler.max_new": 24,
    "sampler.rows": 8,
    "model.lengths": "512",
    "sft.batch": 4,
    "sft.episodes": 20,
    "sft.checkpoint_every": 2,
    "ppo.query": 1,
    "ppo.checkpoint_every": 1,
}


def base_model(folder: Path) -> None:
    """Writes a checkpoint folder: one layer, and the tokenizer of generated text."""
    train_tokenizer(folder, vocabulary.corpus(), vocabulary.symbols(), vocabulary.CONTROL, 2600, vocabulary.TEMPLATE)
    shape = LlamaConfig(load_tokenizer(folder).vocab_size, 32, 1, 2, 1, 16, 48, 1e4, None, 1e-5, True)
    save_llama(Llama(shape, rngs=nnx.Rngs(0)), folder)
