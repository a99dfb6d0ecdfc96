"""Speed and memory of a PPO update, beside the same update written in plain torch with transformers and peft.

    python benchmarks/ppo.py --shapes=l0_tiny,d512

Episodes of 2,048 tokens in three turns, 600 of the tokens actions; LoRA on q and v, value head, one Adam step over
micro-batches of four: GAE, then loss and gradient, entropies and the KL to the reference. torch does as TRL does: the
policy's and the reference's log-probabilities and the values in passes of their own before. Ours takes the first and
the last from where they are known already (the gradient's own forward pass; the sampler), and asks the reference about
every fourth micro-batch, since nothing is paid for the KL. Both compute logits at action tokens alone, and start from
the same weights, so what they tell of round 0 (gradient norm, entropy) has to agree. "siblings" has the same episodes
as four samples of each prompt, which the first 1,248 tokens then are shared by: ours computes them once.
"""

from __future__ import annotations

import argparse
import math
import pathlib
import sys
import tempfile

import contest
import numpy as np

SHAPES = {
    "l0_tiny": dict(vocab_size=1636, width=128, layers=6, heads=4, kv_heads=2, head_dim=64, hidden=352),
    "d512": dict(vocab_size=8192, width=512, layers=8, heads=8, kv_heads=4, head_dim=64, hidden=1408),
}
TASKS = ("episodes", "siblings")
LENGTH, SHARED, TURNS = 2048, 1248, ((1248, 100), (1448, 100), (1648, 400))  # of a turn: start, tokens
RANK, ALPHA, TARGETS, HIDDEN = 16, 32.0, ("q_proj", "v_proj"), 256
PACKED = SHARED + 4 * (LENGTH - SHARED)  # of four samples of a prompt
MICRO, SAMPLES, RATE, VALUE_RATE, TEMPERATURE = 4, 4, 1e-5, 1e-4, 0.4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="l0_tiny")
    parser.add_argument("--episodes", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)  # a contestant's own process: name, folder
    options = parser.parse_args()
    if options.serve:
        name, folder = options.serve
        contest.serve(CONTESTANTS[name](pathlib.Path(folder)))
        return
    for shape in options.shapes.split(","):
        with tempfile.TemporaryDirectory() as folder:
            write_model(folder, SHAPES[shape])
            np.save(pathlib.Path(folder, "tokens.npy"), draw(options.episodes, SHAPES[shape]["vocab_size"]))
            pythons = dict.fromkeys(CONTESTANTS, sys.executable)
            results = contest.compare(__file__, pythons, folder, TASKS, options.rounds)
            print(f"\n{shape}, {options.episodes} episodes of {LENGTH} tokens\n")
            contest.print_table(results, lambda _: options.episodes * LENGTH)


def draw(episodes: int, vocabulary: int) -> np.ndarray:
    """int32 [episodes, LENGTH]"""
    return np.random.default_rng(0).integers(1, vocabulary, (episodes, LENGTH)).astype(np.int32)


def episodes(folder: pathlib.Path, task: str) -> tuple[np.ndarray, np.ndarray]:
    """Tokens int32 [N, LENGTH], rewards float32 [N, 3]."""
    tokens = np.load(folder / "tokens.npy")
    if task == "siblings":
        tokens[:, :SHARED] = np.repeat(tokens[::SAMPLES, :SHARED], SAMPLES, axis=0)
    return tokens, np.random.default_rng(1).random((len(tokens), len(TURNS))).astype(np.float32)


def write_model(folder: str, shape: dict) -> None:
    from flax import nnx

    from mma_jax.models.convert import save_llama
    from mma_jax.models.llama import Llama, LlamaConfig
    from mma_jax.models.peft import save_peft

    model = Llama(LlamaConfig(**shape), rngs=nnx.Rngs(0))
    save_llama(model, folder)
    save_peft(adapted(model).model, folder)


def adapted(model):
    from mma_jax.models import heads

    return heads.adapted(model, RANK, ALPHA, TARGETS, HIDDEN, seed=0)


def ours(folder: pathlib.Path):
    from flax import nnx

    from mma_jax.config import base
    from mma_jax.learning import ppo
    from mma_jax.learning.sequences import Sequence
    from mma_jax.learning.state import copy
    from mma_jax.models.convert import load_llama
    from mma_jax.models.heads import TRAINABLE

    graph, params, frozen = nnx.split(adapted(load_llama(folder)), TRAINABLE, ...)
    turn = np.full(LENGTH, -1, np.int32)
    for number, (start, length) in enumerate(TURNS):
        turn[start : start + length] = number
    starts = np.array([start - 1 for start, _ in TURNS], np.int32)

    def do(task: str) -> dict:
        config = base().ppo
        config.samples, config.micro_batch, config.warmup = SAMPLES if task == "siblings" else 1, MICRO, 0
        config.ratio, config.lr, config.value_lr, config.temperature = "token", RATE, VALUE_RATE, TEMPERATURE
        if task not in updates:
            update = ppo.make_update(graph, config, (LENGTH, PACKED), len(TURNS), folder)
            updates[task] = update, ppo.init(params, config)
        update, state = updates[task]
        # a rollout's sampler tells V, which is 0 before the first update
        rows = [
            Sequence(
                ids,
                turn >= 0,
                turn,
                starts,
                rewards,
                np.zeros(LENGTH, np.float32),
                f"e{n // config.samples}",
                "full",
                values=np.zeros(len(TURNS), np.float32),
            )
            for n, (ids, rewards) in enumerate(zip(*episodes(folder, task), strict=True))
        ]
        _, figures = update(copy(state), frozen, params, rows, np.random.default_rng(0))
        return {name: figures[name] for name in ("grad_norm", "entropy")}

    updates: dict = {}
    return do


def torch(folder: pathlib.Path):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, folder, is_trainable=True)
    width = base.config.hidden_size
    value = torch.nn.Sequential(torch.nn.Linear(width, HIDDEN), torch.nn.Tanh(), torch.nn.Linear(HIDDEN, 1))
    for parameter in value[2].parameters():
        torch.nn.init.zeros_(parameter)
    adapter = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam([{"params": adapter, "lr": RATE}, {"params": value.parameters(), "lr": VALUE_RATE}])
    places = torch.cat([torch.arange(start, start + length) for start, length in TURNS])
    of_turn = torch.cat([torch.full((length,), number) for number, (_, length) in enumerate(TURNS)])
    starts = torch.tensor([start - 1 for start, _ in TURNS])

    def forward(ids):
        """Log-probabilities and entropies at actions [n, A], values [n, 3]."""
        hidden = base.model(ids, use_cache=False).last_hidden_state  # peft has put its layers into base
        log_p = torch.log_softmax(base.lm_head(hidden[:, places - 1]) / TEMPERATURE, -1)
        chosen = log_p.gather(-1, ids[:, places, None])[..., 0]
        return chosen, -(log_p.exp() * log_p).sum(-1), value(hidden[:, starts].detach())[..., 0]

    def do(task: str) -> dict:
        tokens, rewards = (torch.from_numpy(array) for array in episodes(folder, task))
        tokens, parts = tokens.long(), range(0, len(tokens), MICRO)
        with torch.no_grad():
            old, entropy, values = (
                torch.cat(x) for x in zip(*(forward(tokens[n : n + MICRO]) for n in parts), strict=True)
            )
            with model.disable_adapter():
                for n in parts:
                    forward(tokens[n : n + MICRO])  # the reference, for the KL that is logged
            advantages, running = torch.zeros_like(rewards), 0.0
            for turn in reversed(range(len(TURNS))):
                after = values[:, turn + 1] if turn + 1 < len(TURNS) else 0.0
                running = rewards[:, turn] + after - values[:, turn] + 0.95 * running
                advantages[:, turn] = running
            goals = advantages + values
            advantages = (advantages - advantages.mean()) / advantages.std(correction=0)
        optimizer.zero_grad()
        for n in parts:
            chosen, _, predicted = forward(tokens[n : n + MICRO])
            ratio, gain = (chosen - old[n : n + MICRO]).exp(), advantages[n : n + MICRO][:, of_turn]
            surrogate = torch.minimum(ratio * gain, ratio.clamp(0.8, 1.2) * gain)
            errors = 0.5 * (predicted - goals[n : n + MICRO]) ** 2
            (errors.sum() / goals.numel() - surrogate.sum() / old.numel()).backward()
        norm = torch.nn.utils.clip_grad_norm_(adapter, math.inf).item()  # each has a clip of its own, as ours
        optimizer.step()
        return {"grad_norm": norm, "entropy": entropy.mean().item()}

    return do


CONTESTANTS = {contest.REFERENCE: ours, "torch": torch}


if __name__ == "__main__":
    main()
