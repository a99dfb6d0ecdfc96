"""One program on 1, 2, 4 and 8 virtual devices: the same losses, gradients and greedy text, int8 and adapters too."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from mma_jax.models import sharding
from mma_jax.types import InputError

PLAIN = [(1, 1, 1), (2, 1, 1), (1, 4, 1), (1, 1, 2), (2, 2, 2), (1, 2, 4)]
INT8 = [(1, 1, 1), (1, 1, 2), (2, 2, 2)]
CASES = [(False, n) for n in range(1, len(PLAIN))] + [(True, n) for n in range(1, len(INT8))]

PROGRAM = """
import json, sys
import jax, jax.numpy as jnp, numpy as np
from flax import nnx
sys.path.insert(0, sys.argv[1])
import learning_fixture as fixture
from mma_jax.learning import sft
from mma_jax.learning.sequences import pad
from mma_jax.models.heads import TRAINABLE, ActorCritic
from mma_jax.models.llama import Llama, LlamaConfig
from mma_jax.models.lora import add_lora, TARGETS
from mma_jax.models.quantize import quantize
from mma_jax.models.sharding import Placement, make_mesh
from mma_jax.sampling.sampler import Sampler

SHAPE = LlamaConfig(vocab_size=64, width=32, layers=2, heads=4, kv_heads=2, head_dim=8, hidden=48)
sequences = fixture.random_sequences(8)
assert max(s.tokens.max() for s in sequences) < 64

def run(sizes, int8):
    placement = Placement(make_mesh(*sizes, devices=jax.devices()[: np.prod(sizes)]))
    model = Llama(SHAPE, rngs=nnx.Rngs(0))
    if int8:
        quantize(model)
    add_lora(model, 4, 8.0, tuple(TARGETS), nnx.Rngs(1))
    graph, params, frozen = nnx.split(ActorCritic(model, 8, nnx.Rngs(2)), TRAINABLE, ...)
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(0)
    moved = [leaf + 0.1 * jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype) for leaf in leaves]
    params = jax.tree.unflatten(tree, moved)
    params, frozen = placement.weights(params), placement.weights(frozen)
    config = fixture.sft_config(steps=3)
    state, step = placement.weights(sft.init(params, config)), sft.make_step(graph, config, placement)
    batch = placement.rows(pad(sequences, (32,), fixture.TURNS))
    figures = []
    prompts = [[1, 2, 3], [4, 5, 6, 7, 8], [9, 10], [11]]
    sampler = Sampler(nnx.merge(graph, params, frozen), (0,), (32,), (8,), placement=placement)
    session = sampler.open(nnx.merge_state(params, frozen), 4, 16)
    session.extend(range(4), prompts)
    said = [c.tokens for c in session.sample(range(4), np.zeros((4, 2), np.uint32), 8, 0.0)]
    for _ in range(3):
        state, metrics = step(state, frozen, batch)
        figures += [float(metrics["loss"]), float(metrics["grad_norm"])]
    split = any(leaf.addressable_shards[0].data.size < leaf.size for leaf in jax.tree.leaves(frozen))
    return {"figures": figures, "said": said, "split": split}

meshes = json.loads(sys.argv[2])
print(json.dumps([[run(sizes, int8) for sizes in meshes[int8]] for int8 in (False, True)]))
"""


@pytest.fixture(scope="module")
def results():
    here = os.path.join(os.path.dirname(__file__), "..", "learning")
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, here, json.dumps([PLAIN, INT8])],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(("int8", "number"), CASES, ids=lambda value: str(value))
def test_every_mesh_computes_what_one_device_does(results, int8, number):
    alone, shared = results[int8][0], results[int8][number]
    np.testing.assert_allclose(shared["figures"], alone["figures"], rtol=2e-5)
    assert shared["said"] == alone["said"]
    assert alone["figures"][0] != alone["figures"][2]  # something was learned
    _, fsdp, tensor = (INT8 if int8 else PLAIN)[number]
    assert shared["split"] == (fsdp * tensor > 1) and not alone["split"]


def test_a_mesh_must_fit_the_devices():
    mesh = sharding.make_mesh(-1, 1, 1)
    assert mesh.size == jax.device_count() and mesh.axis_names == sharding.AXES
    with pytest.raises(InputError, match=r"config\.mesh asks for data=3, fsdp=1, tensor=7; there are"):
        sharding.make_mesh(3, 1, 7)
    with pytest.raises(InputError, match="tensor=-1"):
        sharding.make_mesh(0, 1, -1)


@pytest.mark.parametrize(
    ("path", "shape", "expected"),
    [
        ("layers.0.self_attn.q_proj.kernel", (32, 64), ("fsdp", "tensor")),
        ("layers.0.self_attn.o_proj.kernel", (64, 32), ("tensor", "fsdp")),
        ("layers.1.mlp.down_proj.base.kernel", (48, 32), ("tensor", "fsdp")),
        ("model.layers.0.mlp.up_proj.a", (32, 4), ("fsdp", None)),
        ("params.model.layers.0.mlp.up_proj.b.value", (4, 48), (None, "tensor")),
        ("layers.0.mlp.down_proj.scales", (32,), ("fsdp",)),
        ("embed_tokens.embedding", (64, 32), ("tensor", "fsdp")),
        ("lm_head.kernel", (32, 64), ("fsdp", "tensor")),
        ("layers.0.input_layernorm.scale", (32,), (None,)),
        ("value.w1", (32, 8), (None, None)),
        ("tried", (), ()),
    ],
)
def test_places_by_name(path, shape, expected):
    assert sharding.spec(path, shape) == expected


def test_an_axis_that_does_not_divide_is_left_out():
    mesh = AbstractMesh((1, 2, 4), sharding.AXES)
    assert sharding.fitted(("fsdp", "tensor"), (6, 6), mesh).spec == PartitionSpec("fsdp", None)
    assert sharding.fitted((sharding.ROWS, None), (3, 5), mesh).spec == PartitionSpec(None, None)
    assert sharding.fitted((sharding.ROWS, "tensor"), (4, 8), mesh).spec == PartitionSpec(sharding.ROWS, "tensor")
