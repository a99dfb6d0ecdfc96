"""Speed of the sampler, beside transformers' generate and google-tunix's sampler.

    python benchmarks/sampler.py --shapes=l0_tiny,d512 --tunix=VENV

Random weights, nobody stops early. "prompts": 16 prompts of 1,024 tokens, each continued by 128. "episodes": 64 of one
to eight turns: a prompt of 250 to 400 tokens, then observations of 20 to 120, each answered by 48. No cache of the
peers lives across calls: at every turn they read the whole history of the episodes that go on again, in lock step.

tunix runs in a virtual environment of its own, made in the folder given (without the flag it is left out). Figures are
medians over the rounds, after one that compiles.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
import tempfile
from collections.abc import Callable, Sequence

import contest
import numpy as np

SHAPES = {
    "l0_tiny": dict(vocab_size=1636, width=128, layers=6, heads=4, kv_heads=2, head_dim=64, hidden=352),
    "d512": dict(vocab_size=8192, width=512, layers=8, heads=8, kv_heads=4, head_dim=64, hidden=1408),
}
TUNIX = ("google-tunix==0.1.7", "safetensors<0.8")

Rows = Sequence[int]
Ids = list[list[int]]
Converse = Callable[[Rows, Ids, int], None]
"""Rows that go on, ids that their histories grow by, and the number of tokens that answer them."""
Begin = Callable[[int], Converse]
"""The number of rows in, a new conversation out."""
Task = list[tuple[Rows, Ids, int]]
"""What a conversation is given, turn by turn."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="l0_tiny", help=f"comma-separated, of {', '.join(SHAPES)}")
    parser.add_argument("--tasks", default="prompts,episodes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tunix", help="folder of tunix' virtual environment, made if it is not there")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)  # a contestant's own process: name, folder
    options = parser.parse_args()
    if options.serve:
        serve(*options.serve)
        return
    pythons = dict.fromkeys((contest.REFERENCE, "transformers"), sys.executable)
    if options.tunix and (python := contest.environment(pathlib.Path(options.tunix), TUNIX)):
        pythons["tunix"] = python
    for shape in options.shapes.split(","):
        with tempfile.TemporaryDirectory() as folder:
            write_model(folder, SHAPES[shape])
            results = contest.compare(__file__, pythons, folder, options.tasks.split(","), options.rounds)
        print(f"\n{shape}; tokens are those sampled\n")
        contest.print_table(results, lambda task: sum(len(rows) * new for rows, _, new in TASKS[task](1000)))


def serve(name: str, folder: str) -> None:
    begin = CONTESTANTS[name](folder)
    vocabulary = shape_of(folder)["vocab_size"]

    def do(task: str) -> dict:
        turns = TASKS[task](vocabulary)
        converse = begin(len(turns[0][0]))
        for turn in turns:
            converse(*turn)
        return {}

    contest.serve(do)


def prompts(vocabulary: int) -> Task:
    return [(range(16), draw_ids(range(16), 1024, 1024, vocabulary), 128)]


def episodes(vocabulary: int) -> Task:
    turns = np.random.default_rng(0).integers(1, 9, 64)
    going = [np.flatnonzero(turns > turn).tolist() for turn in range(turns.max())]
    between = [(250, 400)] + [(20, 120)] * (len(going) - 1)
    return [(rows, draw_ids(rows, *bounds, vocabulary), 48) for rows, bounds in zip(going, between, strict=True)]


def draw_ids(rows: Rows, low: int, high: int, vocabulary: int) -> Ids:
    """The same lengths and ids at every call, between `low` and `high` tokens a row."""
    rng = np.random.default_rng([low, len(rows)])
    return [rng.integers(1, vocabulary, rng.integers(low, high + 1)).tolist() for _ in rows]


TASKS: dict[str, Callable[[int], Task]] = {"prompts": prompts, "episodes": episodes}


def ours(folder: str) -> Begin:
    from flax import nnx

    from mma_jax.models.convert import load_llama
    from mma_jax.sampling.sampler import Sampler

    model = load_llama(folder)
    sampler = Sampler(
        model, (), (512, 640, 768, 1024, 1280, 1536, 1792), (16, 32, 64, 96, 128, 256, 384, 1024), block=16
    )

    def begin(rows: int) -> Converse:
        session = sampler.open(nnx.state(model), rows, 512)
        keys = np.random.default_rng(0).integers(0, 2**32, (rows, 2), dtype=np.uint32)

        def converse(going: Rows, ids: Ids, new: int) -> None:
            session.extend(going, ids)
            session.sample(going, keys[list(going)], new, 1.0)

        return converse

    return begin


def transformers(folder: str) -> Begin:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def generate(histories: Ids, new: int) -> Ids:
        longest = max(map(len, histories))
        ids = torch.tensor([[0] * (longest - len(history)) + history for history in histories])
        mask = torch.tensor([[0] * (longest - len(history)) + [1] * len(history) for history in histories])
        output = model.generate(
            ids, attention_mask=mask, do_sample=True, top_k=0, max_new_tokens=new, eos_token_id=None, pad_token_id=0
        )
        return output[:, longest:].tolist()

    return memoryless(generate)


def tunix(folder: str) -> Begin:
    from tunix.generate.sampler import CacheConfig, Sampler
    from tunix.models.llama3.model import ModelConfig
    from tunix.models.llama3.params import create_model_from_safe_tensors

    shape = shape_of(folder)
    layers, kv_heads, head_dim = shape["layers"], shape["kv_heads"], shape["head_dim"]
    config = ModelConfig(
        num_layers=layers,
        vocab_size=shape["vocab_size"],
        embed_dim=shape["width"],
        hidden_dim=shape["hidden"],
        num_heads=shape["heads"],
        head_dim=head_dim,
        num_kv_heads=kv_heads,
        rope_theta=500_000,
        norm_eps=1e-5,
    )
    model = create_model_from_safe_tensors(folder, config)
    samplers: dict[int, Sampler] = {}  # by cache size: as small as our own buckets would have it

    def generate(histories: Ids, new: int) -> Ids:
        longest = -(-max(map(len, histories)) // 128) * 128
        slots = longest + new
        if slots not in samplers:
            samplers[slots] = Sampler(model, Numerals(), CacheConfig(slots, layers, kv_heads, head_dim))
        output = samplers[slots](
            [" ".join(map(str, history)) for history in histories],
            max_generation_steps=new,
            max_prompt_length=longest,
            eos_tokens=[-1],
            temperature=1.0,
            top_p=1.0,
        )
        return [np.asarray(tokens).tolist() for tokens in output.tokens]

    return memoryless(generate)


class Numerals:
    """A tokenizer whose texts are ids, for a sampler that takes nothing but text."""

    def encode(self, text: str) -> list[int]:
        return list(map(int, text.split()))

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(map(str, ids))

    def bos_id(self) -> int:
        return 0  # tunix adds none then

    eos_id = pad_id = bos_id


def memoryless(generate: Callable[[Ids, int], Ids]) -> Begin:
    """Conversations with a function that has to be given the whole history each time."""

    def begin(rows: int) -> Converse:
        histories: Ids = [[] for _ in range(rows)]

        def converse(going: Rows, ids: Ids, new: int) -> None:
            for row, more in zip(going, ids, strict=True):
                histories[row] += more
            for row, completion in zip(going, generate([histories[row] for row in going], new), strict=True):
                histories[row] += completion

        return converse

    return begin


CONTESTANTS: dict[str, Callable[[str], Begin]] = {
    contest.REFERENCE: ours,
    "transformers": transformers,
    "tunix": tunix,
}


def write_model(folder: str, shape: dict) -> None:
    from flax import nnx

    from mma_jax.models.convert import save_llama
    from mma_jax.models.llama import Llama, LlamaConfig

    save_llama(Llama(LlamaConfig(**shape), rngs=nnx.Rngs(0)), folder)
    pathlib.Path(folder, "shape.json").write_text(json.dumps(shape))


def shape_of(folder: str) -> dict:
    return json.loads(pathlib.Path(folder, "shape.json").read_text())


if __name__ == "__main__":
    main()
