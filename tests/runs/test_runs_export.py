"""Trained agents as checkpoints that need no adapter."""

import numpy as np
import pytest
from flax import nnx

from mma_jax.config import base
from mma_jax.models import convert, lora, peft
from mma_jax.models.llama import Llama, LlamaConfig
from mma_jax.runs import export
from mma_jax.types import InputError

SHAPE = LlamaConfig(vocab_size=64, width=32, layers=2, heads=4, kv_heads=2, head_dim=8, hidden=48)


@pytest.fixture
def config(tmp_path):
    config = base()
    config.model.path = str(tmp_path / "base")
    convert.save_llama(Llama(SHAPE, rngs=nnx.Rngs(0)), config.model.path)
    return config


def train(config, folder, seed, shift=0.1):
    """An adapter as training leaves it, and the logits of the model that carries it."""
    model = convert.load_llama(config.model.path)
    lora.add_lora(model, 4, 8.0, ("q_proj", "down_proj"), nnx.Rngs(seed))
    for _, _, adapter in lora.adapters(model):
        adapter.b.set_value(adapter.b[...] + shift)
    peft.save_peft(model, folder / "train" / "MMA-Auto" / str(seed) / "adapter")
    return logits(model)


def logits(model):
    tokens = np.arange(12, dtype=np.int32)[None]
    return np.asarray(model.logits(model(tokens)))


def test_every_trained_agent_becomes_a_checkpoint(config, tmp_path, capsys):
    expected = [train(config, tmp_path, seed) for seed in (0, 1)]
    export.run(config, tmp_path, dry_run=True)
    assert not (tmp_path / "export").exists()
    export.run(config, tmp_path, dry_run=False)
    for seed in (0, 1):
        folder = tmp_path / "export" / "MMA-Auto" / str(seed)
        np.testing.assert_allclose(logits(convert.load_llama(folder)), expected[seed], atol=1e-5)
    assert str(folder) in capsys.readouterr().out
    before = (folder / "model.safetensors").stat().st_mtime_ns
    export.run(config, tmp_path, dry_run=False)
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


def test_an_agent_that_was_trained_anew_is_exported_anew(config, tmp_path):
    train(config, tmp_path, 0)
    export.run(config, tmp_path, dry_run=False)
    expected = train(config, tmp_path, 0, shift=0.3)
    export.run(config, tmp_path, dry_run=False)
    found = logits(convert.load_llama(tmp_path / "export" / "MMA-Auto" / "0"))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_nothing_trained_is_told(config, tmp_path):
    with pytest.raises(InputError, match=r"no trained agent in it: --config\.run=train first"):
        export.run(config, tmp_path, dry_run=False)
