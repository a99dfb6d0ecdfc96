"""Reading a checkpoint takes little more memory than the result."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

ROOT = Path(__file__).parents[2]
SHAPE = dict(vocab_size=4096, hidden_size=1024, intermediate_size=2048, num_hidden_layers=9, num_attention_heads=8)
SHARD = 50e6  # bytes

SCRIPT = """
import json, re, sys
import jax
import jax.numpy as jnp
from flax import nnx
from mma_jax.models.convert import load_llama

def bytes_of(name):
    with open("/proc/self/status") as file:
        return 1024 * int(re.search(rf"{name}:\\s+(\\d+)", file.read())[1])

def beyond(folder, **options):
    '''Peak memory beyond that before and that of the result.'''
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak starts anew
    before = bytes_of("VmRSS")
    model = load_llama(folder, **options)
    return bytes_of("VmHWM") - before - sum(leaf.nbytes for leaf in jax.tree.leaves(nnx.state(model)))

kinds = {"int8": dict(int8=True), "bfloat16": dict(dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)}
for options in kinds.values():
    beyond(sys.argv[1], **options)  # what is loaded and compiled once
print(json.dumps({kind: beyond(sys.argv[2], **options) for kind, options in kinds.items()}))
"""


def tensors(shape: dict):
    """(name, bfloat16 array) of a Llama, in the order of its layers."""
    noise = np.random.default_rng(0).normal(size=99_991).astype(jnp.bfloat16)
    width, hidden, vocabulary = shape["hidden_size"], shape["intermediate_size"], shape["vocab_size"]
    block = {f"self_attn.{name}_proj": (width, width) for name in "qkvo"}
    block |= {"mlp.gate_proj": (hidden, width), "mlp.up_proj": (hidden, width), "mlp.down_proj": (width, hidden)}
    block |= {"input_layernorm": (width,), "post_attention_layernorm": (width,)}
    yield "model.embed_tokens.weight", np.resize(noise, (vocabulary, width))
    for layer in range(shape["num_hidden_layers"]):
        for name, size in block.items():
            yield f"model.layers.{layer}.{name}.weight", np.resize(noise, size)
    yield "model.norm.weight", np.resize(noise, (width,))
    yield "lm_head.weight", np.resize(noise, (vocabulary, width))


def write(folder: Path, shape: dict) -> int:
    """A checkpoint in shards; returns the bytes of the largest."""
    folder.mkdir()
    shards, where = [{}], {}
    for name, array in tensors(shape):
        if sum(other.nbytes for other in shards[-1].values()) + array.nbytes > SHARD:
            shards.append({})
        shards[-1][name], where[name] = array, f"model-{len(shards)}.safetensors"
    for number, shard in enumerate(shards, 1):
        save_file(shard, folder / f"model-{number}.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **shape}))
    return max(path.stat().st_size for path in folder.glob("*.safetensors"))


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="peaks are measured on Linux alone")
def test_beside_the_result_there_is_little_more_than_one_shard(tmp_path):
    write(tmp_path / "small", SHAPE | dict(vocab_size=64, hidden_size=64, intermediate_size=64))
    shard = write(tmp_path / "large", SHAPE)
    assert len(list((tmp_path / "large").glob("*.safetensors"))) == 5
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "small"), str(tmp_path / "large")],
        # freed memory goes back at once, as it does with arrays of a real size
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "MALLOC_MMAP_THRESHOLD_": "131072"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    beyond = json.loads(done.stdout)
    for path in (tmp_path / "large").iterdir():
        path.unlink()  # 200 MB that nobody needs to keep
    assert all(size < 1.3 * shard for size in beyond.values()), f"{beyond} for shards of {shard}"
