"""Scores as they would be on average, against one pass over the whole sequence."""

import re

import doubles
import jax
import numpy as np
import pytest
from flax import nnx

from mma_jax.agents import maps
from mma_jax.agents.language_model import Forced, play
from mma_jax.envs.environment import Environment, Options
from mma_jax.models.convert import L0_TINY, load_llama
from mma_jax.models.heads import ActorCritic
from mma_jax.models.tokenizer import Chat, load_tokenizer
from mma_jax.sampling.grammar import compile_grammar
from mma_jax.sampling.numbers import find_numbers
from mma_jax.sampling.sampler import Sampler

TOKENIZER = load_tokenizer(L0_TINY)
CHAT = Chat(TOKENIZER)
BEGUN = '{"tool":"Score_Candidates","args":{"scores":{'


@pytest.mark.parametrize("text", ['so {"scores":{"1":7,"2":0}}', 'é ü {"scores":{"1":7,"2":0}} 漢'])
def test_ends_are_those_of_the_prefixes_whatever_a_character_takes(text):
    tokens = (*TOKENIZER.encode(text), TOKENIZER.stop_ids[0])
    found = maps._ends(tokens, TOKENIZER.decode(tokens), TOKENIZER)
    assert found.tolist() == [len(TOKENIZER.decode(tokens[: n + 1])) for n in range(len(tokens))]


def test_expected_changes_scores_of_one_token_alone():
    tokens = TOKENIZER.encode('3 "9":1 {"scores":{"1":7,"2":4.5,"3":0}}')
    means = np.full(len(tokens), 5.25)
    places = dict(maps.written(tokens, 3, TOKENIZER))
    assert list(places) == [0, 1, 2] and len(places[1]) > 1
    means[places[2]] = np.nan  # it may stand for no number
    found = maps.expected(np.array([7.0, 4.5, 0.0]), tokens, means, TOKENIZER)
    assert found.tolist() == [5.25, 4.5, 0.0]


@pytest.mark.parametrize("scores", [[4.0, 4.0, 4.0], [4.0, 4.0, np.nan]])
def test_a_map_that_says_nothing_goes_on_saying_nothing(scores):
    tokens = TOKENIZER.encode('{"scores":{"1":4,"2":4}}')
    np.testing.assert_array_equal(maps.expected(np.array(scores), tokens, [5.25] * len(tokens), TOKENIZER), scores)


def test_what_is_played_has_the_means_of_one_pass_over_it():
    """L0-tiny as it ships, a grammar, maps of four candidates: sum_l p(l) l from softmax over what the sequence's rules
    allow and what reads like the token that was drawn."""
    model = ActorCritic(load_llama(L0_TINY), 8, nnx.Rngs(0))
    vocabulary = model.model.config.vocab_size
    env = Environment(doubles.evidence(), Options(context=8192), CHAT.count)
    grammar = compile_grammar(TOKENIZER, CHAT.end[-1], env.tools, 4, vocabulary)
    numbers = find_numbers(TOKENIZER, vocabulary)
    sampler = Sampler(model, TOKENIZER.stop_ids, (1024,), (16, 256), numbers=numbers)

    def script(episode, turn, history):
        return Forced(BEGUN, complete=False)

    how = {"batch": 3, "samples": 3, "key": (1, 0), "temperature": 1.0, "max_new": 60, "context": 1024}
    how |= {"grammar": grammar, "script": script}
    episodes = [doubles.episode()]
    as_written = play(sampler, nnx.state(model), CHAT, env, episodes, **how)
    on_average = play(sampler, nnx.state(model), CHAT, env, episodes, expected=True, **how)
    said = [TOKENIZER.decode([token]) for token in range(TOKENIZER.vocab_size)]
    logits_of = jax.jit(lambda model, tokens: model.model.logits(model.model(tokens[None])[0]))
    compared = 0
    for one, other in zip(as_written, on_average, strict=True):
        np.testing.assert_array_equal(one.sequence.tokens, other.sequence.tokens)
        assert one.trajectory.rewards == other.trajectory.rewards  # of what was written
        sequence, scores, tokens = one.sequence, one.trajectory.scores.copy(), one.trajectory.turns[0].tokens
        padded = np.zeros(1024, np.int32)
        padded[: len(sequence)] = sequence.tokens
        logits = np.asarray(logits_of(model, padded), np.float64)
        first = len(sequence) - len(tokens)
        for candidate, (place, *more) in maps.written(tokens, 4, TOKENIZER):
            if more or len(np.unique(scores)) == 1:
                continue
            allowed = np.asarray(grammar.allowed(sequence.rules[[first + place]]))[0]
            form = re.sub(r"\d+", "#", said[tokens[place]])
            alike = [t for t, text in enumerate(said) if re.sub(r"\d+", "#", text) == form and allowed[t]]
            p = np.exp(logits[first + place - 1, alike] - logits[first + place - 1, alike].max())
            levels = [int(re.search(r"\d+", said[t])[0]) for t in alike]
            scores[candidate] = p @ levels / p.sum()
            compared += len(alike) > 1
        np.testing.assert_allclose(other.trajectory.scores, scores, atol=1e-4)
    assert compared > 3
