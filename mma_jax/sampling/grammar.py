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
    """Action lines of a pool: every tool, one handle and several, scores of one and two digits."""
    handles = [str(n + 1) for n in range(pool_size)]
    calls = [f'{{"tool":"Analyze_{kind}","args":{{"item_id":' for kind in ("Text", "Image")]
    lists = ["[" + ",".join(f'"{h}"' for h in handles[:n]) + "]" for n in (2, 3, pool_size)]
    found = [call + f'"{handle}"}}}}' for call in calls for handle in handles]
    found += [call + listed + "}}" for call in calls for listed in lists]
    found.append('{"tool":"Retrieve_Graph","args":{"user_id":"u"}}')
    for modality in ("text", "image", "behavior"):
        found += [
            f'{{"tool":"Ask_User","args":{{"modality_type":"{modality}","query":"{q}"}}}}' for q in ("What?", "a b")
        ]
    for number in range(100):
        last, first = handles[number % pool_size], handles[(number + 1) % pool_size]
        found.append(f'{{"tool":"Score_Candidates","args":{{"scores":{{"{first}":{number},"{last}":{number}}}}}}}')
    return found
