"""Tokens that the grammar of actions forces, against every continuation found by brute force."""

import itertools

import numpy as np
import pytest

from mma_jax.learning import vocabulary
from mma_jax.models.tokenizer import load_tokenizer, train_tokenizer
from mma_jax.sampling import grammar


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    train_tokenizer(folder, vocabulary.corpus(), vocabulary.symbols(), vocabulary.CONTROL, 2600, vocabulary.TEMPLATE)
    return load_tokenizer(folder)


def continuations(tokenizer, actions):
    found = {}
    for action in actions:
        for token, after in itertools.pairwise([*tokenizer.encode(action), *tokenizer.stop_ids]):
            found.setdefault(token, set()).add(after)
    return found


def test_only_tokens_with_a_single_continuation_are_forced(tokenizer):
    actions = grammar.examples(20)
    table, found = grammar.forced_next(tokenizer, actions), continuations(tokenizer, actions)
    forced = np.flatnonzero(table >= 0)
    assert len(forced) > 100  # the closing braces behind every last score, among others
    for token in forced:
        assert found[int(token)] == {table[token]}


def test_names_of_tools_and_handles_stay_free(tokenizer):
    """They also occur in reasoning, where anything may follow."""
    table = grammar.forced_next(tokenizer, grammar.examples(20))
    for text in ("Analyze_Text", "Retrieve_Graph", "12", " text"):
        assert (table[tokenizer.encode(text)] == -1).all()


@pytest.mark.parametrize(
    "action",
    [
        '{"tool":"Score_Candidates","args":{"scores":{"3":7,"8":0,"20":55}}}',
        '{"tool":"Analyze_Image","args":{"item_id":["3","9","11"]}}',
        '{"tool":"Analyze_Text","args":{"item_id":"all"}}',
        '{"tool":"Retrieve_Graph","args":{"user_id":"u"}}',
    ],
)
def test_forcing_never_leaves_a_valid_action(tokenizer, action):
    """An action that is not among the examples is written as it would be without forcing."""
    table = grammar.forced_next(tokenizer, grammar.examples(20))
    ids = [*tokenizer.encode(action), *tokenizer.stop_ids]
    for token, after in itertools.pairwise(ids):
        assert table[token] in (-1, after)
