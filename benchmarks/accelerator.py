"""What the engine does on one accelerator: Llama-3's shapes with random weights, no checkpoint needed.

    python benchmarks/accelerator.py --shapes=8b --budget=240

int8 base, bfloat16 activations, LoRA on q and v and a value head in float32, as configs/mma_llama3_8b.py has them.
Every line is printed as soon as it is known; what fails says so in its line and the rest goes on; what would begin
behind the budget is skipped. Shape "tiny" tries the script on a CPU.

copy       bandwidth (bytes read and written) and bfloat16 matmul rate of the device, which the others are compared with
decode     64 rows and 1 of about 1,024 tokens in caches of 2,048: milliseconds of a step, from the difference of two
           completions' lengths, and the share of the bandwidth that reading the weights and all slots would take
prefill    64 x 512 tokens into such caches, or fewer rows where they do not fit
gradient   PPO's forward and backward pass over 16 x 2,048 tokens, 600 of each row sampled
iteration  64 episodes of the generated world, played and learned from. A random model thinks until the grammar stops
           it, so its turns are as long as they can get; after one or two calls it is made to score

Model FLOPs are 2 x parameters x tokens of a forward pass and as many for the way back through the activations (frozen
weights have no gradient), causal attention beside; what remat computes again does not count.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import gc
import math
import pathlib
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mma_jax.models import heads, tensors
from mma_jax.models.heads import TRAINABLE, ActorCritic
from mma_jax.models.llama import Llama, LlamaConfig, RopeScaling, empty_caches
from mma_jax.models.quantize import SCALES, quantize
from mma_jax.sampling.sampler import Sampler

SHAPES = {
    "1b": LlamaConfig(width=2048, layers=16, head_dim=64, hidden=8192, tied=True, rope_scaling=RopeScaling(32.0)),
    "8b": LlamaConfig(),
    "tiny": LlamaConfig(vocab_size=4096, width=64, layers=2, heads=4, kv_heads=2, head_dim=16, hidden=128),
}
RANK, ALPHA, TARGETS, HIDDEN = 16, 32.0, ("q_proj", "v_proj"), 256
TURNS = ((0.61, 0.05), (0.71, 0.05), (0.8, 0.19))  # of a sequence's tokens: where a turn starts, how much it samples
GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    rows: int = 64
    prompt: int = 1024  # tokens in a row before decoding
    slots: int = 2048
    chunks: tuple[int, ...] = (128, 512)
    steps: tuple[int, int] = (16, 144)  # of a short and a long completion; between them one block is timed
    micro: int = 16  # sequences of a gradient
    length: int = 2048
    repeats: int = 3
    copied: int = GIB  # bytes
    matmul: int = 8192
    users: int = 600  # of the generated world


TINY = Sizes(4, 96, 256, (16, 64), (4, 20), 4, 256, 2, 1 << 20, 256, 200)


class Bench:
    """A device, what it reaches at best, and the time that is left. budget: seconds from now."""

    def __init__(self, budget: float):
        self.start, self.budget = time.perf_counter(), budget
        self.device = jax.devices()[0]
        self.bandwidth = self.flops = math.nan  # bytes and operations a second, once measured

    def say(self, text: str) -> None:
        print(f"[{time.perf_counter() - self.start:6.1f} s] {text}", flush=True)

    def late(self, what: str) -> bool:
        """Whether the budget is spent; says so."""
        spent = time.perf_counter() - self.start > self.budget
        if spent:
            self.say(f"{what}: skipped, the budget of {self.budget:.0f} s is spent")
        return spent

    def attempt(self, what: str, part: Callable, *args) -> None:
        """Run a part; a failure is a line."""
        if self.late(what):
            return
        try:
            part(self, *args)
        except Exception as error:
            self.say(f"{what}: FAILED, {type(error).__name__}: {tensors.line(error)}")
            traceback.print_exc()
        gc.collect()

    def memory(self) -> str:
        stats = self.device.memory_stats() or {}
        used, peak = (stats.get(name, math.nan) / GIB for name in ("bytes_in_use", "peak_bytes_in_use"))
        return f"{used:.1f} GiB in use, peak of the process {peak:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="1b,8b", help=f"comma-separated, of {', '.join(SHAPES)}")
    parser.add_argument("--parts", default=",".join(["copy", *PARTS]))
    parser.add_argument("--pools", default="20,100", help="config.pool.size of the iterations")
    parser.add_argument("--budget", type=float, default=math.inf, help="seconds after which no part starts")
    parser.add_argument("--cache", default="", help="folder for compiled programs, used again where it is there")
    options = parser.parse_args()
    shapes, parts, pools = options.shapes.split(","), options.parts.split(","), [*map(int, options.pools.split(","))]
    if unknown := {*shapes} - {*SHAPES} | {*parts} - {"copy", *PARTS}:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    bench = Bench(options.budget)
    bench.say(f"jax {jax.__version__}, {bench.device.device_kind}, {bench.memory()}")
    with tempfile.TemporaryDirectory() as folder:
        reuse_programs(options.cache or folder)
        if "copy" in parts:
            bench.attempt("copy", copy, TINY if shapes == ["tiny"] else Sizes())
        for name in shapes:
            bench.attempt(name, measure, name, parts, pools)


def reuse_programs(folder: str) -> None:
    """What one part compiled, the next need not."""
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def measure(bench: Bench, name: str, parts: list[str], pools: list[int]) -> None:
    """All parts of one shape."""
    sizes, begun = TINY if name == "tiny" else Sizes(), time.perf_counter()
    base = random_llama(SHAPES[name])
    jax.block_until_ready(nnx.state(base))
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(nnx.state(base)))
    took = time.perf_counter() - begun
    bench.say(f"{name}: {size / GIB:.2f} GiB of random weights made in {took:.1f} s; {bench.memory()}")
    for part in parts:
        if part == "iteration":
            for pool in pools:
                bench.attempt(f"{name} iteration, B = {pool}", iteration, name, base, sizes, pool)
        elif part != "copy":
            bench.attempt(f"{name} {part}", PARTS[part], name, base, sizes)


def random_llama(shape: LlamaConfig) -> Llama:
    """An int8 Llama drawn on the device leaf by leaf. Each matrix keeps the variance of what it is given, and logits
    have a variance of one."""
    model = nnx.eval_shape(lambda: Llama(shape, rngs=nnx.Rngs(0), dtype=jnp.bfloat16, param_dtype=jnp.bfloat16))
    quantize(model)
    for n, (path, leaf) in enumerate(tensors.parameters(model).items()):
        inputs = shape.hidden if "down_proj" in path else shape.width  # the width of q's heads together is the model's
        leaf.set_value(draw(n, leaf.shape, leaf.dtype, inputs if path.endswith(SCALES) else 0))
    return model


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def draw(seed: jax.Array, shape: tuple[int, ...], dtype, inputs: int) -> jax.Array:
    """Uniform int8 weights; norms of one; scales that make such weights have a variance of 1 / inputs."""
    if dtype == jnp.int8:
        key = jax.random.key(seed, impl="rbg")
        return jax.lax.bitcast_convert_type(jax.random.bits(key, shape, jnp.uint8), jnp.int8)
    return jnp.full(shape, inputs**-0.5 * 3**0.5 / 128 if inputs else 1.0, dtype)


def adapted(base: Llama) -> ActorCritic:
    """With adapters of its own; the weights are shared."""
    return heads.adapted(nnx.clone(base), RANK, ALPHA, TARGETS, HIDDEN, seed=0)


def timed(call: Callable, repeats: int) -> tuple[float, float]:
    """Seconds of the first call, which compiles, and the median of `repeats` more."""
    taken = []
    for _ in range(repeats + 1):
        begun = time.perf_counter()
        jax.block_until_ready(call())
        taken.append(time.perf_counter() - begun)
    return taken[0], statistics.median(taken[1:])


def copy(bench: Bench, sizes: Sizes) -> None:
    """What the device reaches at best."""
    times = 10  # launched in a row, so that the host is not what is measured
    source = jnp.zeros(sizes.copied // 4, jnp.float32)
    add = jax.jit(lambda x: x + 1)
    _, seconds = timed(lambda: [add(source) for _ in range(times)][-1], sizes.repeats)
    bench.bandwidth = 2 * source.nbytes * times / seconds
    bench.say(f"copy: {bench.bandwidth / 1e9:,.0f} GB/s, read and written, of {source.nbytes / GIB:.2f} GiB")
    a, b = (jax.random.normal(jax.random.key(n), (sizes.matmul, sizes.matmul), jnp.bfloat16) for n in range(2))
    multiply = jax.jit(jnp.matmul)
    _, seconds = timed(lambda: [multiply(a, b) for _ in range(times)][-1], sizes.repeats)
    bench.flops = 2 * sizes.matmul**3 * times / seconds
    bench.say(f"matmul: {bench.flops / 1e12:,.1f} TFLOP/s, bfloat16, {sizes.matmul} cubed")


def decode(bench: Bench, name: str, base: Llama, sizes: Sizes) -> None:
    model = adapted(base)
    for rows in (sizes.rows, 1):
        bench.attempt(f"{name} decode, {rows} rows", decode_rows, name, model, sizes, rows)


def decode_rows(bench: Bench, name: str, model: ActorCritic, sizes: Sizes, rows: int) -> None:
    """Completions of two lengths from the same prompts: what they differ by is steps alone."""
    sampler = Sampler(model, (), (sizes.slots,), sizes.chunks)
    session, state = sampler.open(nnx.state(model), rows, sizes.slots), nnx.state(model)
    rng, everyone = np.random.default_rng(0), range(rows)
    keys = rng.integers(0, 2**32, (rows, 2), dtype=np.uint32)
    session.extend(everyone, rng.integers(1, model.model.config.vocab_size, (rows, sizes.prompt)).tolist())

    def complete(new: int) -> None:
        session.sample(everyone, keys, new, 1.0)
        session.truncate(everyone, [sizes.prompt - 1] * rows)
        session.extend(everyone, [[1]] * rows)

    begun = time.perf_counter()
    complete(1)
    bench.say(f"{name} decode, {rows} rows: prompts, one token and compilation {time.perf_counter() - begun:.1f} s")
    short, long = (timed(functools.partial(complete, new), sizes.repeats)[1] for new in sizes.steps)
    step = (long - short) / (sizes.steps[1] - sizes.steps[0])
    read = bytes_of_step(state, model.model.config, rows, sampler.width(sizes.slots))
    bench.say(
        f"{name} decode, {rows} rows: {step * 1e3:.2f} ms a step, {rows / step:,.0f} tokens/s, {read / 1e9:.2f} GB "
        f"a step at {read / step / 1e9:,.0f} GB/s, {read / step / bench.bandwidth:.0%} of a copy; {sizes.steps[1]} "
        f"tokens with all around them {long:.2f} s; {bench.memory()}"
    )


def bytes_of_step(state: nnx.State, shape: LlamaConfig, rows: int, slots: int) -> int:
    """What a step of decoding reads: weights, an untied embedding but for its rows' excepted, and all cache slots."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    weights = sum(
        leaf.nbytes for path, leaf in leaves if shape.tied or "embed_tokens" not in jax.tree_util.keystr(path)
    )
    return weights + 2 * 2 * rows * slots * shape.layers * shape.kv_heads * shape.head_dim  # k and v, 2 bytes each


def prefill(bench: Bench, name: str, base: Llama, sizes: Sizes) -> None:
    """The largest chunk into empty caches; half the rows where the memory does not suffice."""
    rows = sizes.rows
    while True:
        try:
            return prefill_rows(bench, name, adapted(base), sizes, rows)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error) or rows == 1:
                raise
        bench.say(f"{name} prefill: {rows} rows do not fit")
        rows //= 2
        gc.collect()


def prefill_rows(bench: Bench, name: str, model: ActorCritic, sizes: Sizes, rows: int) -> None:
    sampler, shape, chunk = Sampler(model, (), (sizes.slots,), sizes.chunks), model.model.config, sizes.chunks[-1]
    tokens = np.random.default_rng(0).integers(1, shape.vocab_size, (rows, chunk)).astype(np.int32)
    lengths, state = np.zeros(rows, np.int32), nnx.state(model)
    held = [empty_caches(shape, rows, sampler.width(sizes.slots), jnp.bfloat16)]

    def run() -> list:
        held[0] = sampler.prefill(state, tokens, lengths, first=True, caches=held[0])
        return held[0]

    first, seconds = timed(run, sizes.repeats)
    count = rows * chunk
    used = 2 * block_parameters(shape) * count + attention_flops(shape, rows, chunk)
    bench.say(
        f"{name} prefill, {rows} x {chunk}: {seconds:.3f} s, {count / seconds:,.0f} tokens/s, MFU "
        f"{used / seconds / bench.flops:.0%} of the measured matmul; compiled in {first - seconds:.1f} s; "
        f"{bench.memory()}"
    )


def block_parameters(shape: LlamaConfig) -> int:
    """Of all blocks, norms left out."""
    attention = 2 * shape.width * (shape.heads + shape.kv_heads) * shape.head_dim
    return shape.layers * (attention + 3 * shape.width * shape.hidden)


def attention_flops(shape: LlamaConfig, rows: int, length: int) -> int:
    """Of causal attention forwards: two products, half of each."""
    return 2 * rows * length * length * shape.layers * shape.heads * shape.head_dim


def gradient(bench: Bench, name: str, base: Llama, sizes: Sizes) -> None:
    """`ppo.make_passes` over one micro-batch."""
    from mma_jax.config import base as defaults
    from mma_jax.learning import ppo

    shape, settings = base.config, defaults().ppo
    settings.remat, settings.micro_batch, settings.temperature = True, sizes.micro, 1.0
    graph, params, frozen = nnx.split(adapted(base), TRAINABLE, ...)
    inputs, sampled = micro_batch(shape, sizes)
    zeros = jax.jit(lambda: jax.tree.map(jnp.zeros_like, params))
    begun = time.perf_counter()
    _, accumulate = ppo.make_passes(graph, settings)
    program = accumulate.lower(zeros(), params, frozen, *inputs).compile()
    compiled, memory = time.perf_counter() - begun, program.memory_analysis()
    own = (memory.temp_size_in_bytes + memory.output_size_in_bytes) / GIB
    bench.say(f"{name} gradient: compiled in {compiled:.1f} s, {own:.1f} GiB beside its arguments")
    held = []

    def run() -> dict:
        total, figures, _ = program(zeros(), params, frozen, *inputs)
        held[:] = [norm_of(total), figures["loss"]]
        return held

    _, seconds = timed(run, sizes.repeats)
    count = sizes.micro * sizes.length
    used = 4 * (block_parameters(shape) * count + shape.width * shape.vocab_size * sampled)
    used += 3 * attention_flops(shape, sizes.micro, sizes.length)  # both of its operands are activations
    norm, loss = map(float, held)
    bench.say(
        f"{name} gradient, {sizes.micro} x {sizes.length}: {seconds:.2f} s, {count / seconds:,.0f} tokens/s, MFU "
        f"{used / seconds / bench.flops:.0%} of the measured matmul, remat not counted; loss {loss:.3f}, norm "
        f"{norm:.3g}; {bench.memory()}"
    )


@jax.jit
def norm_of(tree) -> jax.Array:
    return jnp.sqrt(sum(jnp.sum(leaf.astype(jnp.float32) ** 2) for leaf in jax.tree.leaves(tree)))


def micro_batch(shape: LlamaConfig, sizes: Sizes) -> tuple[tuple, int]:
    """What `accumulate` takes behind the weights, and how many tokens of it were sampled."""
    from mma_jax.learning.objective import Old, Targets
    from mma_jax.learning.sequences import Batch
    from mma_jax.learning.sharing import share

    rows, length, rng = sizes.micro, sizes.length, np.random.default_rng(0)
    turn = np.full(length, -1, np.int32)
    for number, (start, share_of) in enumerate(TURNS):
        turn[int(start * length) : int((start + share_of) * length)] = number
    starts = np.array([np.argmax(turn == number) - 1 for number in range(len(TURNS))], np.int32)
    tokens = rng.integers(1, shape.vocab_size, (rows, length)).astype(np.int32)
    turns, nothing = np.tile(turn, (rows, 1)), np.zeros((rows, length), np.float32)
    by_turn = rng.normal(size=(rows, len(TURNS))).astype(np.float32)
    action, there = turns >= 0, np.ones(by_turn.shape, bool)
    own = np.full(nothing.shape, np.nan, np.float32)
    batch = Batch(tokens, action, turns, np.tile(starts, (rows, 1)), by_turn, there, nothing, own, turns * 0)
    packed = share(tokens, np.full(rows, length), np.arange(rows), rows, (length,))
    guess = np.where(action, -np.log(shape.vocab_size), 0).astype(np.float32)
    old, goal = Old(guess, guess, nothing, by_turn * 0), Targets(by_turn, by_turn, by_turn, own)
    counts = {"tokens": np.float32(action.sum()), "turns": np.float32(by_turn.size)}
    return (batch, packed, old, goal, counts), int(action.sum())


def iteration(bench: Bench, name: str, base: Llama, sizes: Sizes, pool: int) -> None:
    """Rollouts and update, each once to compile and once for the clock."""
    from mma_jax.envs.tools import TERMINAL
    from mma_jax.learning import ppo
    from mma_jax.runs.language import rates
    from mma_jax.runs.prepare import experiment

    label, config = f"{name} iteration, B = {pool}", settings_of(sizes, pool)
    with tempfile.TemporaryDirectory() as folder:
        directory, begun = pathlib.Path(folder), time.perf_counter()
        made = experiment(config, directory)
        env, episodes = made.environment("train", "ooma"), spread(made.episodes("train", "ooma"), sizes.rows)
        language = language_of(config, base)
        grammar, adapter = language.grammar(env), language.adapter(0)
        bench.say(f"{label}: world and grammar {time.perf_counter() - begun:.1f} s")
        script = scoring_at(2 if pool <= 20 else 1, TERMINAL)

        def play(seed: int) -> list:
            return language.play(adapter, env, episodes, temperature=1.0, key=(seed, 0), script=script)

        first, seconds = timed_once(play, 0)[1], None
        bench.say(f"{label}: first rollouts, with compilation {first:.1f} s")
        played, seconds = timed_once(play, 1)
        sequences = [one.sequence for one in played if one.sequence is not None]
        bench.say(f"{label}: {described(played, seconds)}; compilation {first - seconds:.1f} s; {bench.memory()}")
        found = rates([one.trajectory for one in played])
        bench.say(f"{label}: " + ", ".join(f"{rate} {value:.2f}" for rate, value in found.items()))
        if bench.late(f"{label}, update"):
            return
        update = ppo.make_update(
            language.graph,
            config.ppo,
            language.buckets,
            config.env.turns,
            directory,
            language.placement,
            grammar.allowed,
        )

        def learn(sequences: list) -> dict:
            state = ppo.init(jax.tree.map(jnp.copy, adapter), config.ppo)  # the update consumes it
            return update(state, language.frozen, adapter, sequences, np.random.default_rng(0))[1]

        _, first = timed_once(learn, sequences[: sizes.micro])
        bench.say(f"{label}: first update, of {sizes.micro} episodes, with compilation {first:.1f} s")
        if bench.late(f"{label}, whole update"):
            return
        figures, learned = timed_once(learn, sequences)
        both = (seconds + learned) / len(played)
        bench.say(
            f"{label}: update of {len(sequences)} episodes {learned:.2f} s, rollouts and update {both:.3f} s an "
            f"episode; loss {figures['loss']:.3f}, norm {figures['grad_norm']:.3g}, dlogp_p95 "
            f"{figures['dlogp_p95']:.3g}; {bench.memory()}"
        )


def settings_of(sizes: Sizes, pool: int):
    """A generated world, small, and the paper's way of learning in it."""
    from mma_jax.config import generated_world

    config = generated_world()
    config.protocols, config.methods = "ooma", "agents"
    config.world.n_users, config.world.n_items = sizes.users, max(300, 4 * pool)
    config.episodes.train, config.episodes.valid, config.episodes.test = 4 * sizes.rows, sizes.rows, sizes.rows
    config.pool.size, config.env.context = pool, 2048
    config.model.dtype, config.model.lora_rank, config.model.lora_targets = "bfloat16", RANK, ",".join(TARGETS)
    config.model.lengths = config.sampler.slots = "2048"  # few programs
    config.sampler.chunks, config.sampler.rows = ",".join(map(str, sizes.chunks)), sizes.rows
    config.sampler.grammar, config.sampler.max_new = "on", 128 if pool <= 20 else 512
    config.ppo.samples, config.ppo.baseline, config.ppo.credit, config.ppo.ratio = 1, "value", "turn", "turn"
    config.ppo.prompts, config.ppo.micro_batch = sizes.rows, sizes.micro
    config.ppo.remat, config.ppo.temperature = True, 1.0
    return config


def language_of(config, base: Llama):
    """`runs.language.Language`, but for the folder that its weights come from; the tokenizer is L0-tiny's."""
    from mma_jax.runs.language import Language

    class Drawn(Language):
        def _load(self, placement) -> Llama:
            return base

    return Drawn(config)


def scoring_at(last: int, terminal: str) -> Callable:
    """A script: from turn `last` on the model is made to score."""
    from mma_jax.agents.language_model import Forced

    opening = Forced(f'{{"tool":"{terminal}","args":{{"scores":{{', complete=False)
    return lambda episode, turn, history: opening if turn >= last else None


def spread(episodes: list, count: int) -> list:
    """So many of all episodes, every family among them."""
    chosen = np.linspace(0, len(episodes) - 1, min(count, len(episodes))).astype(int)
    return [episodes[n] for n in chosen]


def timed_once(call: Callable, *args) -> tuple:
    """What a call gives, and its seconds; it has to end on the host."""
    begun = time.perf_counter()
    given = call(*args)
    return given, time.perf_counter() - begun


def described(played: list, seconds: float) -> str:
    """Rollouts in numbers."""
    turns = [turn for one in played for turn in one.trajectory.turns]
    sampled = sum(len(turn.tokens) for turn in turns)
    lengths, count = [len(one.sequence) for one in played if one.sequence is not None], len(played)
    return (
        f"{count} episodes in {seconds:.2f} s, {seconds / count:.3f} s each; {len(turns) / count:.1f} turns, "
        f"{sampled / count:.0f} tokens written and {np.mean(lengths):.0f} in all (most {max(lengths)}); "
        f"{sampled / seconds:,.0f} tokens/s written"
    )


PARTS: dict[str, Callable] = {
    "decode": decode,
    "prefill": prefill,
    "gradient": gradient,
    "iteration": iteration,
}


if __name__ == "__main__":
    main()
