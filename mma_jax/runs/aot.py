"""What the device programs of a config need, compiled ahead of time from shapes alone: no weight is read or made.

`measure` compiles for as many virtual CPU devices as config.mesh asks for, in a process of its own, with the schedule
that needs least memory, as TPU and GPU have it (XLA:CPU's usual one trades memory for concurrency). The compiler's
figures are per device. On CPU they are an upper bound: XLA:CPU widens int8 and bfloat16 before it multiplies.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from mma_jax.evaluation.checks import listed, numbers
from mma_jax.learning import ppo
from mma_jax.learning.objective import Old, Targets
from mma_jax.learning.sequences import Batch
from mma_jax.learning.sharing import Packed
from mma_jax.models import heads, sharding
from mma_jax.models.convert import L0_TINY, read_config
from mma_jax.models.heads import TRAINABLE, ActorCritic
from mma_jax.models.llama import Llama, LlamaConfig, empty_caches
from mma_jax.models.quantize import quantize
from mma_jax.sampling.sampler import Sampler
from mma_jax.types import InputError

KINDS = ("arguments", "outputs", "temporaries")


def shape_of(config) -> LlamaConfig:
    """Of the model in config.model.path; Llama-3-8B's where no such folder is."""
    folder = Path(config.model.path or L0_TINY)
    return read_config(folder) if (folder / "config.json").is_file() else LlamaConfig()


def actor_critic(config) -> ActorCritic:
    """The agent's model as shapes."""
    shape, dtype, settings = shape_of(config), jnp.dtype(config.model.dtype), config.model
    base = nnx.eval_shape(lambda: Llama(shape, rngs=nnx.Rngs(0), dtype=dtype, param_dtype=dtype))
    if settings.int8:
        quantize(base)
    graph, state = nnx.split(base)
    return nnx.eval_shape(lambda state: adapted(nnx.merge(graph, state), settings), state)


def adapted(base: Llama, settings, seed: int = 0) -> ActorCritic:
    """`heads.adapted` as config.model says."""
    targets = listed(settings.lora_targets)
    return heads.adapted(base, settings.lora_rank, settings.lora_alpha, targets, settings.value_hidden, seed)


def programs(config, mesh: jax.sharding.Mesh) -> dict[str, dict[str, int]]:
    """Program -> {"arguments", "outputs", "temporaries"} in bytes per device; outputs that reuse arguments are not
    counted twice."""
    graph, params, frozen = nnx.split(actor_critic(config), TRAINABLE, ...)
    params, frozen = (_given(tree, sharding.of_weights(tree, mesh)) for tree in (params, frozen))
    return {**_sampling(config, mesh, graph, params, frozen), **_learning(config, mesh, graph, params, frozen)}


def _sampling(config, mesh, graph, params, frozen) -> dict[str, dict[str, int]]:
    shape, rows = shape_of(config), config.sampler.rows
    slots = min(config.env.context, max(numbers(config, "sampler.slots")))
    chunk = max(n for n in numbers(config, "sampler.chunks") if n <= slots)
    state = nnx.merge_state(params, frozen)
    model = nnx.merge(graph, params, frozen)
    sampler = Sampler(model, (0,), (slots,), (chunk,), block=rows, placement=sharding.Placement(mesh))
    dtype = jnp.dtype(config.model.dtype)
    caches = jax.eval_shape(lambda: empty_caches(shape, rows, sampler.width(slots), dtype))
    axes = (sharding.ROWS, "tensor", None, None)
    caches = _given(caches, jax.tree.map(lambda leaf: sharding.fitted(axes, leaf.shape, mesh), caches))
    token, chunks = _ints(rows), _ints(rows, chunk)
    keys = jax.ShapeDtypeStruct((rows, 2), jnp.uint32)
    token, chunks, keys = (_given(x, sharding.of_rows(x, mesh)) for x in (token, chunks, keys))
    still = np.float32(0), np.int32(0), token, None  # temperature, rows that may go on, no grammar
    decode = sampler.decode.lower(state, token, token, token, keys, *still, jump=1, caches=caches)
    prefill = sampler.prefill.lower(state, chunks, token, first=False, caches=caches)
    return {f"sampling, {rows} x {slots}": _memory(decode), f"prompts, {rows} x {chunk}": _memory(prefill)}


def _learning(config, mesh, graph, params, frozen) -> dict[str, dict[str, int]]:
    settings, turns = config.ppo, config.env.turns
    length = max(numbers(config, "model.lengths" if config.model.lengths else "sampler.slots"))
    rows, packs = settings.micro_batch, _packs(settings)
    by_token, by_turn = (jax.ShapeDtypeStruct((rows, size), jnp.float32) for size in (length, turns))
    flags, turn_mask = (jax.ShapeDtypeStruct((rows, size), bool) for size in (length, turns))
    ids, packed = _ints(rows, length), _ints(packs, length)
    inputs = (
        Batch(ids, flags, ids, _ints(rows, turns), by_turn, turn_mask, by_token, by_token, ids),
        Packed(packed, packed, packed, ids),
        Old(by_token, by_token, by_token, by_turn),
        Targets(by_turn, by_turn, by_turn, by_token),
    )
    counts = {"tokens": np.float32(1), "turns": np.float32(1)}
    _, accumulate = ppo.make_passes(graph, settings, sharding.Placement(mesh))
    lowered = accumulate.lower(params, params, frozen, *_given(inputs, sharding.of_rows(inputs, mesh)), counts)
    return {f"PPO gradient, {rows} x {length}": _memory(lowered)}


def _ints(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def _given(tree, shardings):
    """Shapes with their places."""
    return jax.tree.map(lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), tree, shardings)


def _memory(lowered) -> dict[str, int]:
    found = lowered.compile().memory_analysis()
    outputs = found.output_size_in_bytes - found.alias_size_in_bytes
    return dict(zip(KINDS, (found.argument_size_in_bytes, outputs, found.temp_size_in_bytes), strict=True))


def measure(config) -> dict[str, dict[str, int]]:
    """`programs` on the mesh of the config, an axis of -1 standing for 1, in a process that has the devices.

    Raises:
        InputError: the programs do not compile, for example because the settings contradict each other.
    """
    sizes = _sizes(config)
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_cpu_enable_concurrency_optimized_scheduler=false"
    flags += f" --xla_force_host_platform_device_count={math.prod(sizes)}"
    done = subprocess.run(
        [sys.executable, "-m", "mma_jax.runs.aot", json.dumps(sizes)],
        input=config.to_json(),
        env=os.environ | {"XLA_FLAGS": flags.strip(), "JAX_PLATFORMS": "cpu", "JAX_TRACEBACK_FILTERING": "off"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise InputError(f"the device programs do not compile: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def undivided(config, parts: int) -> str:
    """What is wrong with batches split `parts` ways (data x fsdp), in a line, or nothing."""
    batches = {"sft.batch": config.sft.batch, "ppo.micro_batch / ppo.samples": _packs(config.ppo)}
    said = [f"{name} = {rows}" for name, rows in batches.items() if rows % parts]
    return f"{', '.join(said)}: no multiple of data x fsdp = {parts}; each device computes all rows" if said else ""


def _packs(settings) -> int:
    return -(-settings.micro_batch // settings.samples)


def table(config) -> list[tuple[str, str]]:
    """Rows (program, memory per device), from `measure`."""
    data, fsdp, tensor = _sizes(config)
    said, problem = f"{data}x{fsdp}x{tensor}", undivided(config, data * fsdp)
    return [("batches", problem)] * bool(problem) + [
        (
            f"{name} on {said} devices",
            f"{sum(memory.values()) / 2**30:.2f} GiB each: "
            + ", ".join(f"{kind} {size / 2**30:.2f}" for kind, size in memory.items()),
        )
        for name, memory in measure(config).items()
    ]


def _sizes(config) -> list[int]:
    return [max(1, config.mesh[axis]) for axis in sharding.AXES]


def main() -> None:
    """In a process that has the devices: config on stdin, sizes of the mesh as argument, JSON on stdout."""
    sizes, config = json.loads(sys.argv[1]), ConfigDict(json.loads(sys.stdin.read()))
    mesh = sharding.make_mesh(*sizes, devices=jax.devices()[: math.prod(sizes)])
    print(json.dumps(programs(config, mesh)))


if __name__ == "__main__":
    main()
