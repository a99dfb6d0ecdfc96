"""Tokens per second of the sampler at the demo's size, beside transformers' generate and google-tunix's sampler.

    python benchmarks/sampler.py --peers /tmp/tunix

Two tasks, random weights (the same in all contestants): 16 prompts of 512 tokens, each continued by 128; and 64 episodes
of three turns, a prompt, then observations of 60 to 300 tokens, each answered by 48. No contestant stops early. The
peers know no cache that lives across calls: in the second task they read each history from its start at every turn.

tunix runs in a virtual environment of its own, made in the folder given by --peers (none: it is left out). Contestants
take turns, so that other work on the machine hits them alike; figures are medians over the rounds, after a first one
that compiles. The processor time is that of the contestant's process: with other work around it says more.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

SHAPE = {"vocab_size": 1500, "width": 128, "layers": 5, "heads": 4, "kv_heads": 2, "head_dim": 32, "hidden": 384}
TEMPERATURE = 1.0
TUNIX = ("google-tunix==0.1.7", "safetensors<0.8")
NEVER = SHAPE["vocab_size"] - 1  # the end token; no prompt has it and its logit is never the largest of a draw for long

History = list[int]
Generate = Callable[[list[History], int], list[History]]
"""Histories and the number of new tokens in, completions out."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", help="folder for tunix' virtual environment; none: without tunix")
    parser.add_argument("--episodes", type=int, default=64)
    parser.add_argument("--contestant", help=argparse.SUPPRESS)  # the process of one of them
    parser.add_argument("--model", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contestant:
        serve(options)
    else:
        compare(options)
