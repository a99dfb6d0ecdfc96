"""Tokens that stand for a number, and which number was to be expected where one of them was drawn."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mma_jax.models.tokenizer import Tokenizer
from mma_jax.sampling.grammar import RULED_OUT

_NUMBER = re.compile(r"[0-9]+")


class Numbers(NamedTuple):
    """Of a vocabulary; tokens that differ in their number alone, "3" and "7" or `":3,"` and `":7,"`, are of a kind."""

    value: jax.Array  # float32 [V], 0 where there is no number
    kind: jax.Array  # int32 [V], 0 where there is no number

    def mean(self, logits: jax.Array, token: jax.Array, allowed: jax.Array | None) -> jax.Array:
        """The number on average over the tokens that are of one kind with the one drawn.

        Args:
            logits: float32 [R, V], at temperature 1.
            token: int32 [R], drawn.
            allowed: bool [R, V], what might have been drawn; None for everything.

        Returns:
            float32 [R], nan where the token stands for no number.
        """
        kind = self.kind[token]
        alike = self.kind == kind[:, None]
        if allowed is not None:
            alike &= allowed
        p = jax.nn.softmax(jnp.where(alike, logits, RULED_OUT), axis=-1)
        return jnp.where(kind > 0, p @ self.value, jnp.nan)


def find_numbers(tokenizer: Tokenizer, vocab_size: int) -> Numbers:
    """The numbers of a tokenizer. vocab_size: V, the model's, where it has more tokens than the tokenizer."""
    value, kind = np.zeros(vocab_size, np.float32), np.zeros(vocab_size, np.int32)
    kinds: dict[str, int] = defaultdict(lambda: len(kinds) + 1)
    for token in range(min(vocab_size, tokenizer.vocab_size)):
        text = tokenizer.decode([token])
        if len(found := _NUMBER.findall(text)) == 1:
            value[token], kind[token] = float(found[0]), kinds[_NUMBER.sub("0", text)]
    return Numbers(jnp.asarray(value), jnp.asarray(kind))
