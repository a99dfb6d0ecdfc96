"""Memory of the device programs: what they take in, counted by hand, and what a mesh does to it."""

import math

import pytest

from mma_jax.config import base
from mma_jax.models.convert import save_llama
from mma_jax.models.llama import Llama, LlamaConfig, nnx
from mma_jax.runs import aot, language
from mma_jax.types import InputError

SHAPE = LlamaConfig(vocab_size=512, width=64, layers=2, heads=4, kv_heads=2, head_dim=16, hidden=128)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    save_llama(Llama(SHAPE, rngs=nnx.Rngs(0)), folder)
    config = base()
    config.model.path, config.model.int8, config.model.lora_targets = str(folder), True, "q_proj,down_proj"
    config.sampler.slots, config.sampler.chunks, config.sampler.rows, config.env.context = "64", "16", 4, 64
    config.ppo.micro_batch, config.ppo.samples, config.env.turns = 4, 2, 3
    config.ppo.remat = True  # as configs/mma_llama3_8b.py
    config.mesh.data, config.mesh.fsdp, config.mesh.tensor = 1, 2, 2
    return config


@pytest.fixture(scope="module")
def measured(config):
    return aot.measure(config)


def weights(config, fsdp, tensor):
    """Bytes of the int8 base, its scales and norms, adapters and value head, on each device."""
    split = fsdp * tensor
    width, hidden, rank = SHAPE.width, SHAPE.hidden, config.model.lora_rank
    heads, kv = SHAPE.heads * SHAPE.head_dim, SHAPE.kv_heads * SHAPE.head_dim
    matrices = SHAPE.layers * (width * (heads + 2 * kv) + heads * width + 3 * width * hidden)
    matrices += 2 * SHAPE.vocab_size * width
    outputs = SHAPE.layers * ((heads + 2 * kv + 2 * hidden) / tensor + 2 * width / fsdp) + 2 * SHAPE.vocab_size / tensor
    norms = (2 * SHAPE.layers + 1) * width
    q = width * rank / fsdp + rank * heads / tensor
    down = hidden * rank / tensor + rank * width / fsdp
    value = width * config.model.value_hidden + 2 * config.model.value_hidden + 1
    return matrices / split + 4 * (outputs + norms + SHAPE.layers * (q + down) + value)


def test_arguments_of_sampling_are_weights_and_caches(config):
    config = config.copy_and_resolve_references()
    mesh = aot.sharding.make_mesh(1, 1, 1, devices=aot.jax.devices()[:1])
    found = aot.programs(config, mesh)
    decode = found["sampling, 4 x 64"]
    slots = 64 + 16
    caches = 2 * SHAPE.layers * 4 * SHAPE.kv_heads * slots * SHAPE.head_dim * 4
    assert decode["arguments"] == pytest.approx(weights(config, 1, 1) + caches, rel=0.01)
    assert decode["outputs"] < 0.1 * caches  # the caches are used again
    assert all(size > 0 for size in found["PPO gradient, 4 x 64"].values())


def test_a_mesh_splits_weights_and_rows(config, measured):
    found = measured["sampling, 4 x 64"]
    caches = 2 * SHAPE.layers * (4 / 2) * (SHAPE.kv_heads / 2) * 80 * SHAPE.head_dim * 4
    assert found["arguments"] == pytest.approx(weights(config, 2, 2) + caches, rel=0.01)


def test_rows_stay_with_their_devices(config):
    """Four devices need a quarter each; where partial products of all rows are added up instead, nearly half."""
    config = config.copy_and_resolve_references()
    config.ppo.micro_batch, config.ppo.samples = 16, 1
    config.env.context, config.sampler.slots = 256, "256"
    needed = []
    for config.mesh.fsdp in (1, 4):
        config.mesh.tensor = 1
        needed.append(aot.measure(config)["PPO gradient, 16 x 256"]["temporaries"])
    assert needed[1] < 0.3 * needed[0]


def test_the_plan_of_an_8b_model_needs_no_weights(tmp_path):
    config = base()
    config.model.path, config.model.int8, config.model.dtype = str(tmp_path / "none"), True, "bfloat16"
    shapes = aot.actor_critic(config)
    sizes = [leaf.size * leaf.dtype.itemsize for leaf in aot.jax.tree.leaves(nnx.state(shapes))]
    assert 8.0e9 < sum(sizes) < 8.1e9
    cache = aot.jax.eval_shape(lambda: aot.empty_caches(aot.shape_of(config), 1, 2048, aot.jnp.bfloat16))
    assert sum(sizes) + sum(leaf.size * 2 for leaf in aot.jax.tree.leaves(cache)) < 8.6e9
    assert math.prod(shapes.model.embed_tokens.embedding.shape) == 128_256 * 4096


def test_settings_that_do_not_compile_are_told(config):
    config = config.copy_and_resolve_references()
    config.model.lora_targets = "nonsense"
    with pytest.raises(InputError, match="no projection named nonsense"):
        aot.table(config)


def test_dry_run_shows_the_table(config, measured, monkeypatch):
    monkeypatch.setattr(aot, "measure", lambda _: measured)
    rows = dict(language.plan(config))
    assert "GiB each: arguments" in rows["PPO gradient, 4 x 64 on 1x2x2 devices"]
    assert "int8" in rows["base parameters, frozen"]
