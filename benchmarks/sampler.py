"""Speed of the sampler at the demo's size, beside transformers' generate and google-tunix's sampler.

    python benchmarks/sampler.py --tunix=/tmp/tunix

Two tasks, random weights, nobody stops early. "prompts": 16 prompts of 512 tokens, each continued by 128. "episodes":
64 of three turns, a prompt of 250 to 400 tokens, then twice an observation of 60 to 300, each answered by 48. No cache
of the peers lives across calls: at every turn they read the whole history again.

tunix runs in a virtual environment of its own, made in the folder given (without the flag it is left out). Contestants
take turns, so that other work on the machine hits them alike; figures are medians over the rounds, after one that
compiles. The processor time is that of the contestant's process: on a busy machine it says more than the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

import numpy as np

SHAPE = dict(vocab_size=1636, width=128, layers=6, heads=4, kv_heads=2, head_dim=64, hidden=352)  # L0-tiny
TUNIX = ("google-tunix==0.1.7", "safetensors<0.8")
REFERENCE = "mma_jax"

Ids = list[list[int]]
Converse = Callable[[Ids, int], None]
"""Ids that every row's history grows by, and the number of tokens that answer them."""
Begin = Callable[[int], Converse]
"""The number of rows in, a new conversation out."""
Task = list[tuple[Ids, int]]
"""What a conversation is given, turn by turn."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tunix", help="folder of tunix' virtual environment, made if it is not there")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)  # a contestant's own process: name, model
    options = parser.parse_args()
    if options.serve:
        serve(*options.serve)
    else:
        compare(options.rounds, options.tunix)


def compare(rounds: int, tunix: str | None) -> None:
    """Run every contestant in a process of its own, one at a time, and print a table."""
    with tempfile.TemporaryDirectory() as folder:
        write_model(folder)
        pythons = {REFERENCE: sys.executable, "transformers": sys.executable}
        if tunix:
            pythons["tunix"] = tunix_python(pathlib.Path(tunix))
        peers = {name: Peer(name, python, folder) for name, python in pythons.items() if python}
        seconds: dict[tuple[str, str], list[dict]] = {}
        for round_ in range(rounds + 1):
            for task in TASKS:
                for name, peer in list(peers.items()):
                    if (result := peer.run(task)) is None:
                        print(f"{name} is left out: {peer.complaint()}")
                        del peers[name]
                        continue
                    print(f"round {round_} {task} {name} {json.dumps(result)}", file=sys.stderr, flush=True)
                    if round_:
                        seconds.setdefault((task, name), []).append(result)
        for peer in peers.values():
            peer.process.kill()
    print_table(seconds)


def print_table(seconds: dict[tuple[str, str], list[dict]]) -> None:
    print(
        "| task | contestant | s | CPU s | sampled tokens/s | s / ours | CPU s / ours |\n|---|---|---|---|---|---|---|"
    )
    for (task, name), results in seconds.items():
        wall, cpu = (statistics.median(result[key] for result in results) for key in ("wall", "cpu"))
        ours = [statistics.median(r[key] for r in seconds[task, REFERENCE]) for key in ("wall", "cpu")]
        tokens = sum(len(ids) * new for ids, new in TASKS[task]())
        print(
            f"| {task} | {name} | {wall:.2f} | {cpu:.2f} | {tokens / wall:.0f} "
            f"| {wall / ours[0]:.2f} | {cpu / ours[1]:.2f} |"
        )


class Peer:
    """A contestant's process."""

    def __init__(self, name: str, python: str, folder: str):
        self.errors = pathlib.Path(folder, f"{name}.stderr")
        command = [python, os.path.abspath(__file__), "--serve", name, folder]
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
            )

    def run(self, task: str) -> dict | None:
        """Seconds of a task, or None if the process is gone."""
        if self.process.poll() is not None:
            return None
        try:
            self.process.stdin.write(task + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return None
        line = self.process.stdout.readline()
        return json.loads(line) if line else None

    def complaint(self) -> str:
        return self.errors.read_text().strip().rpartition("\n")[2] or "no message"


def serve(name: str, folder: str) -> None:
    """Run the tasks named on stdin, one a line; answer each with its seconds in JSON."""
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries print, too
    begin = CONTESTANTS[name](folder)
    for line in sys.stdin:
        turns = TASKS[line.strip()]()
        wall, cpu = time.perf_counter(), time.process_time()
        converse = begin(len(turns[0][0]))
        for ids, new in turns:
            converse(ids, new)
        result = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        print(json.dumps(result), file=answers, flush=True)


def prompts() -> Task:
    return [(draw_ids(16, 512, 512), 128)]


def episodes() -> Task:
    return [(draw_ids(64, low, high), 48) for low, high in ((250, 400), (60, 300), (60, 300))]


def draw_ids(rows: int, low: int, high: int) -> Ids:
    """The same lengths and ids at every call, between `low` and `high` tokens a row."""
    rng = np.random.default_rng(low)
    return [rng.integers(1, SHAPE["vocab_size"], rng.integers(low, high + 1)).tolist() for _ in range(rows)]


TASKS: dict[str, Callable[[], Task]] = {"prompts": prompts, "episodes": episodes}


def ours(folder: str) -> Begin:
    from flax import nnx

    from mma_jax.models.convert import load_llama
    from mma_jax.sampling.sampler import Sampler

    model = load_llama(folder)
    sampler = Sampler(model, (), (512, 640, 768, 1024, 1280), (16, 64, 128, 256), block=16)

    def begin(rows: int) -> Converse:
        session = sampler.open(nnx.state(model), rows, 512)
        keys = np.random.default_rng(0).integers(0, 2**32, (rows, 2), dtype=np.uint32)

        def converse(ids: Ids, new: int) -> None:
            session.extend(range(rows), ids)
            session.sample(range(rows), keys, new, 1.0)

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

    layers, kv_heads, head_dim = SHAPE["layers"], SHAPE["kv_heads"], SHAPE["head_dim"]
    config = ModelConfig(
        num_layers=layers,
        vocab_size=SHAPE["vocab_size"],
        embed_dim=SHAPE["width"],
        hidden_dim=SHAPE["hidden"],
        num_heads=SHAPE["heads"],
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

        def converse(ids: Ids, new: int) -> None:
            for history, more in zip(histories, ids, strict=True):
                history += more
            for history, completion in zip(histories, generate(histories, new), strict=True):
                history += completion

        return converse

    return begin


CONTESTANTS: dict[str, Callable[[str], Begin]] = {REFERENCE: ours, "transformers": transformers, "tunix": tunix}


def write_model(folder: str) -> None:
    from flax import nnx

    from mma_jax.models.convert import save_llama
    from mma_jax.models.llama import Llama, LlamaConfig

    save_llama(Llama(LlamaConfig(**SHAPE), rngs=nnx.Rngs(0)), folder)


def tunix_python(folder: pathlib.Path) -> str | None:
    """The interpreter of tunix' virtual environment; None, with a line that says why, if it cannot be made."""
    python = folder / "bin" / "python"
    for command in ([sys.executable, "-m", "venv", str(folder)], [str(python), "-m", "pip", "install", "-q", *TUNIX]):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            reason = done.stderr.strip().rpartition("\n")[2]
            print(f"tunix is left out: {reason}")
            return None
    return str(python)


if __name__ == "__main__":
    main()
