"""Which tokens the grammar of actions forces: after some pieces of JSON only one token can follow."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np

from mma_jax.models.tokenizer import Tokenizer


def forced_next(tokenizer: Tokenizer, actions: Iterable[str]) -> np.ndarray:
    """The only token that follows each token in `actions`, or -1: int32 [V].

    A token is looked at only if it has a quote or a brace in it, for words also occur in reasoning, where anything
    may follow; what ends an action is followed by the end token.

    Args:
        tokenizer: the model's.
        actions: examples of action lines that cover the grammar: every tool, lists of every length, all numbers.
    """
    followers: dict[int, set[int]] = {}
    for action in actions:
        ids = [*tokenizer.encode(action), tokenizer.stop_ids[0]]
        for token, after in itertools.pairwise(ids):
            followers.setdefault(token, set()).add(after)
    table = np.full(tokenizer.vocab_size, -1, np.int32)
    for token, after in followers.items():
        if len(after) == 1 and set('"{}') & set(tokenizer.decode([token])):
            table[token] = next(iter(after))
    return table


def examples(pool_size: int) -> list[str]:
    """Action lines that cover the grammar for a pool: every handle and score beside many others."""
    rng, handles = np.random.default_rng(0), [str(n + 1) for n in range(pool_size)]
    found = ['{"tool":"Retrieve_Graph","args":{"user_id":"u"}}']
    found += [f'{{"tool":"Analyze_{kind}","args":{{"item_id":"all"}}}}' for kind in ("Text", "Image")]
    for modality in ("text", "image", "behavior"):
        for query in ("What do you look for?", "which one"):
            found.append(f'{{"tool":"Ask_User","args":{{"modality_type":"{modality}","query":"{query}"}}}}')
    for kind, _ in itertools.product(("Text", "Image"), range(20)):
        order = rng.permutation(handles).tolist()
        found += [f'{{"tool":"Analyze_{kind}","args":{{"item_id":"{handle}"}}}}' for handle in handles]
        for size in {min(2, pool_size), pool_size}:
            listed = ",".join(f'"{handle}"' for handle in order[:size])
            found.append(f'{{"tool":"Analyze_{kind}","args":{{"item_id":[{listed}]}}}}')
    for number, _ in itertools.product(range(101), range(4)):
        first, second, last = rng.choice(handles, 3)
        scores = f'"{first}":{number},"{second}":{rng.integers(101)},"{last}":{number}'
        found.append(f'{{"tool":"Score_Candidates","args":{{"scores":{{{scores}}}}}}}')
    return found
