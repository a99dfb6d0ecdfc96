"""The sampler against full recomputation without a cache and the chi-square distribution."""

import dataclasses
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import stats

from mma_jax.envs.actions import parse
from mma_jax.envs.options import Options
from mma_jax.envs.tools import toolbox
from mma_jax.envs.tools.schema import handles
from mma_jax.models.convert import L0_TINY
from mma_jax.models.heads import ActorCritic
from mma_jax.models.llama import Llama, LlamaConfig
from mma_jax.models.tokenizer import load_tokenizer
from mma_jax.sampling import step
from mma_jax.sampling.grammar import compile_grammar
from mma_jax.sampling.sampler import Sampler
from mma_jax.types import InputError

CONFIG = LlamaConfig(vocab_size=23, width=16, layers=2, heads=4, kv_heads=2, head_dim=8, hidden=24, rope_theta=100.0)
STOPS = (0, 1)
SLOTS, CHUNKS = (24, 48, 80), (4, 16)
MAP = '{"tool":"Score_Candidates","args":{"scores":{'
KEYS = np.random.default_rng(1).integers(0, 2**32, (8, 2), dtype=np.uint32)


@pytest.fixture(scope="module")
def model() -> ActorCritic:
    """Weights large enough that the distributions are peaked, and a value head that is not zero."""
    model = ActorCritic(Llama(CONFIG, rngs=nnx.Rngs(0)), 8, nnx.Rngs(1))
    model.model.lm_head.kernel.set_value(model.model.lm_head.kernel[...] * 3)
    model.value.w2.set_value(jax.random.normal(jax.random.key(2), model.value.w2.shape))
    return model


@pytest.fixture(scope="module")
def sampler(model):
    """Batches of three rows, shared by the tests because compiling takes most of their time."""
    return Sampler(model, STOPS, SLOTS, CHUNKS, block=3)


@pytest.fixture(scope="module")
def alone(model):
    """One row at a time and prompts in pieces of another size."""
    return Sampler(model, STOPS, (80,), (8,), block=1)


def prompts(n, low=1, high=20, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(2, CONFIG.vocab_size, rng.integers(low, high)).tolist() for _ in range(n)]


@jax.jit
def recompute(model, tokens, key):
    """Logits [T, V] and values [T] of a whole row, without a cache, and the noise [T, V] of its key."""
    hidden = model.model(tokens[None])[0]
    fold = jax.vmap(lambda p: jax.random.fold_in(jax.random.wrap_key_data(key), p))
    noise = jax.vmap(lambda key: jax.random.gumbel(key, (CONFIG.vocab_size,)))(fold(jnp.arange(len(tokens))))
    return model.model.logits(hidden), model.values(hidden), noise


def check(model, history, completion, key, temperature):
    """Tokens, log-probabilities and value are those of the row computed at once."""
    tokens = np.zeros(SLOTS[-1], np.int32)
    tokens[: len(history) + len(completion.tokens)] = history + completion.tokens
    logits, values, noise = (np.asarray(x, np.float64) for x in recompute(model, tokens, key))
    for i, (token, logprob) in enumerate(zip(completion.tokens, completion.logprobs, strict=True)):
        position = len(history) + i
        scaled = logits[position - 1] / (temperature or 1.0)
        assert token == np.argmax(scaled + (noise[position] if temperature else 0))
        np.testing.assert_allclose(logprob, scaled[token] - np.logaddexp.reduce(scaled), atol=1e-4)
    np.testing.assert_allclose(completion.value, values[len(history) - 1], atol=1e-4)


@pytest.mark.parametrize("temperature", [0.0, 0.2, 1.0])
def test_rule_6_log_probabilities_agree_alone_padded_batched_and_cached(model, sampler, alone, temperature):
    """DESIGN §6.6 over three turns in which ever fewer rows, of different lengths, take part."""
    session, histories = sampler.open(nnx.state(model), rows=7, slots=24), [[] for _ in range(7)]
    for turn, rows in enumerate([[0, 1, 2, 3, 4, 5, 6], [6, 1, 4, 3], [4, 1]]):
        new = prompts(len(rows), seed=turn)
        session.extend(rows, new)
        for row, ids in zip(rows, new, strict=True):
            histories[row] += ids
        completions = session.sample(rows, KEYS[rows], max_new=6, temperature=temperature)
        for row, completion in zip(rows, completions, strict=True):
            check(model, histories[row], completion, KEYS[row], temperature)
            if row in (1, 4):
                single = alone.open(nnx.state(model), rows=1, slots=80)
                single.extend([0], [histories[row]])
                again = single.sample([0], KEYS[[row]], 6, temperature)[0]
                assert again.tokens == completion.tokens
                np.testing.assert_allclose(again.logprobs, completion.logprobs, atol=1e-4)
            histories[row] += completion.tokens
            assert session.length(row) == len(histories[row])


def test_zero_temperature_is_argmax_without_a_division():
    logits = np.array([[-1e30, 3.0, 2.9], [1e30, -1e30, 0.0]], np.float32)
    with jax.debug_nans(True), jax.debug_infs(True):
        token, logprob = step.draw(logits, KEYS[:2], np.array([5, 6]), np.float32(0.0))
    assert token.tolist() == [1, 0]
    np.testing.assert_allclose(logprob, [-np.log(1 + np.exp(-0.1)), 0.0], atol=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_distribution(temperature):
    logits = np.array([0.0, 1.0, -1.0, 2.0, 0.5, -0.5, 1.5], np.float32)
    n = 8000
    keys = np.random.default_rng(0).integers(0, 2**32, (n, 2), dtype=np.uint32)
    token, logprob = jax.jit(step.draw)(np.tile(logits, (n, 1)), keys, np.arange(n) % 50, np.float32(temperature))
    p = np.exp(logits.astype(np.float64) / temperature)
    p /= p.sum()
    assert stats.chisquare(np.bincount(token, minlength=7), n * p).pvalue > 1e-3
    np.testing.assert_allclose(logprob, np.log(p)[token], atol=1e-5)


def test_rule_15_keys_depend_on_position_alone(model, sampler):
    """DESIGN §6.15: the same text and key give the same completion in any row, another key or position another."""
    ids = prompts(1)[0]
    session = sampler.open(nnx.state(model), rows=6, slots=24)
    session.extend(range(6), [ids] * 6)
    drawn = [c.tokens for c in session.sample([5, 0, 3, 1], KEYS[[0, 1, 0, 2]], 12, 2.0)]
    assert drawn[0] == drawn[2]
    assert len({tuple(tokens) for tokens in drawn}) == 3
    token, _ = step.draw(np.zeros((8, 99), np.float32), KEYS[[0] * 8], np.arange(8), np.float32(1))
    assert len(set(token.tolist())) > 4


def test_stops_and_truncation(model, sampler):
    """DESIGN §6.7: a finished completion ends with its stop id, a truncated one has none; both then go on."""
    session, histories = sampler.open(nnx.state(model), rows=8, slots=48), prompts(8)
    session.extend(range(8), histories)
    limits = [1, 2, 3, 4, 9, 9, 9, 9]
    first = session.sample(range(8), KEYS, limits, 2.0)
    assert {c.finished for c in first} == {True, False}
    for completion, limit in zip(first, limits, strict=True):
        assert completion.finished == (completion.tokens[-1] in STOPS)
        assert not set(completion.tokens[:-1]) & set(STOPS)
        assert len(completion.tokens) <= limit and (completion.finished or len(completion.tokens) == limit)
    session.extend([1, 2, 3], [[5], [6], []])  # some continue at once, from the token sampled last
    second = session.sample(range(8), KEYS, 3, 2.0)
    for row, new in zip(range(8), [[], [5], [6], [], [], [], [], []], strict=True):
        check(model, histories[row] + first[row].tokens + new, second[row], KEYS[row], 2.0)


def test_rows_grow_into_the_next_bucket_while_they_are_sampled(model):
    """Text that crosses two bucket sizes equals text in one large cache."""
    ids = prompts(3, low=5, high=9)
    texts = []
    for buckets, slots in (((12, 20, 60), 12), ((60,), 60)):
        session = Sampler(model, (), buckets, (4,)).open(nnx.state(model), rows=3, slots=slots)
        session.extend(range(3), ids)
        texts.append([c.tokens for c in session.sample(range(3), KEYS[:3], [30, 20, 3], 1.0)])
    assert texts[0] == texts[1]
    assert [len(tokens) for tokens in texts[0]] == [30, 20, 3]


def test_other_rows_are_left_alone(model, sampler):
    session = sampler.open(nnx.state(model), rows=5, slots=48)
    session.extend(range(5), prompts(5))
    session.sample(range(5), KEYS[:5], 4, 1.0)
    before = jax.tree.map(lambda cache: np.array(cache[jnp.array([0, 2, 3])]), session._caches)
    session.extend([1, 4], prompts(2, seed=3))
    session.sample([4, 1], KEYS[:2], 8, 1.0)
    after = jax.tree.map(lambda cache: np.array(cache[jnp.array([0, 2, 3])]), session._caches)
    jax.tree.map(np.testing.assert_array_equal, before, after)


def test_copies_share_a_prompt_and_part_ways(model, sampler):
    shared, own = prompts(1, low=18)[0], prompts(4, seed=5)
    session = sampler.open(nnx.state(model), rows=4, slots=24)
    session.extend([2, 1], [shared, [7, 7]])
    session.copy([2, 2], [0, 3])
    session.extend(range(4), own)
    histories = [shared + own[0], [7, 7, *own[1]], shared + own[2], shared + own[3]]
    for row, completion in enumerate(session.sample(range(4), KEYS[:4], 4, 1.0)):
        check(model, histories[row], completion, KEYS[row], 1.0)


def test_rule_2_sampler_and_trainer_agree_in_bfloat16(model):
    """The alarm of the stability panel is at .05 nats."""
    rough = nnx.eval_shape(lambda: Llama(CONFIG, rngs=nnx.Rngs(0), dtype=jnp.bfloat16, param_dtype=jnp.bfloat16))
    nnx.update(rough, jax.tree.map(lambda x: x.astype(jnp.bfloat16), nnx.state(model.model, nnx.Param)))
    histories = prompts(8)
    session = Sampler(rough, (), SLOTS, CHUNKS, block=8).open(nnx.state(rough), rows=8, slots=48)
    session.extend(range(8), histories)
    completions = session.sample(range(8), KEYS, 24, 1.0)
    rows = np.zeros((8, 48), np.int32)
    for row, history, completion in zip(rows, histories, completions, strict=True):
        row[: len(history) + 24] = history + completion.tokens
    log_p = jax.jit(lambda model, tokens: jax.nn.log_softmax(model.logits(model(tokens))))(rough, rows)
    differences = []
    for n, (history, completion) in enumerate(zip(histories, completions, strict=True)):
        chosen = np.arange(len(history), len(history) + 24)
        differences.append(np.asarray(log_p)[n, chosen - 1, rows[n, chosen]] - completion.logprobs)
    differences = np.abs(np.concatenate(differences))
    assert np.quantile(differences, 0.95) < 0.01 and differences.max() < 0.05
    exact = jax.nn.log_softmax(model.model.logits(model.model(rows)))
    assert np.abs(np.asarray(log_p - exact)).max() > 0.01  # it is bfloat16


@pytest.mark.parametrize("kept", [0, 2, 7])
def test_truncated_rows_take_other_text(model, sampler, kept):
    """Behind what is kept of a row, computed or still queued, other text follows."""
    session = sampler.open(nnx.state(model), rows=2, slots=24)
    session.extend([0, 1], prompts(2))
    begun = session.sample([0, 1], KEYS[:2], 5, 1.0)
    session.extend([1], [[9, 8, 7, 6]])
    history = [*prompts(2)[1], *begun[1].tokens, 9, 8, 7, 6][:kept]
    with pytest.raises(ValueError, match=f"not {session.length(1) + 1} to keep"):
        session.truncate([1], [session.length(1) + 1])
    session.truncate([1], [kept])
    assert session.length(1) == kept
    session.extend([1], [[3, 4, 5]])
    check(model, [*history, 3, 4, 5], session.sample([1], KEYS[[1]], 5, 1.0)[0], KEYS[1], 1.0)


class Watched:
    """A model of random weights with L0-tiny's tokenizer, and the grammar of pools of `size` candidates."""

    def __init__(self, size):
        self.tokenizer, self.size, self.tools = load_tokenizer(L0_TINY), size, toolbox(Options(interactive=True))
        self.grammar = compile_grammar(self.tokenizer, self.tokenizer.stop_ids[0], self.tools, size)
        shape = dataclasses.replace(CONFIG, vocab_size=self.tokenizer.vocab_size, tied=True)
        self.model = Llama(shape, rngs=nnx.Rngs(0))

    def sample(self, rows, max_new, begun="", temperature=1.0, grammar=None, **settings):
        """Completions of prompts that differ, and the shapes that went through the model while they were decoded."""
        calls, extend = [], Llama.extend

        def counted(model, tokens, length, caches, first=False):
            jax.debug.callback(lambda: calls.append(tokens.shape))
            return extend(model, tokens, length, caches, first)

        grammar, ids = grammar or self.grammar, self.tokenizer.encode(begun) if begun else []
        settings = {"stop_ids": self.tokenizer.stop_ids, "slots_buckets": (64, 512), "block": 4} | settings
        with mock.patch.object(Llama, "extend", counted):
            session = Sampler(self.model, chunk_buckets=(8, 32), **settings).open(nnx.state(self.model), rows, 64)
            session.extend(range(rows), [[9 + row, 7, *ids] for row in range(rows)])
            watched = (grammar, [grammar.start(begun)] * rows) if settings["stop_ids"] else ()
            found = session.sample(range(rows), KEYS[:rows], max_new, temperature, *watched)
        jax.effects_barrier()
        return found, [shape for shape in calls if shape[1] < 8]


@pytest.fixture(scope="module")
def watched():
    return Watched(9)


@pytest.mark.parametrize(
    ("begun", "temperature"), [("", 1.0), ("", 0.0), (MAP, 0.5), ('{"tool":"Ask_User","args":{', 1.0)]
)
def test_rule_14_whatever_is_sampled_is_a_valid_action(watched, begun, temperature):
    """DESIGN §6.14, from random weights, in as many tokens as there are; against the row computed at once."""
    limits = [90, 40, 30, 25, 60]
    found, _ = watched.sample(5, limits, begun, temperature)
    forward = jax.jit(lambda model, tokens: model.logits(model(tokens))[0])
    for row, (completion, limit) in enumerate(zip(found, limits, strict=True)):
        action = parse(begun + watched.tokenizer.decode(completion.tokens), watched.tools, handles(watched.size))
        assert action.error == "" and completion.finished and len(completion.tokens) <= limit
        history = [9 + row, 7, *(watched.tokenizer.encode(begun) if begun else [])]
        tokens = np.zeros((1, 200), np.int32)
        tokens[0, : len(history) + len(completion.tokens)] = history + completion.tokens
        logits = np.asarray(forward(watched.model, tokens), np.float64) / (temperature or 1.0)
        allowed = np.asarray(watched.grammar.allowed(np.array(completion.rules)))
        for n, token in enumerate(completion.tokens):
            scaled = np.where(allowed[n], logits[len(history) + n - 1], -np.inf)
            noise = jax.random.gumbel(
                jax.random.fold_in(jax.random.wrap_key_data(KEYS[row]), len(history) + n), scaled.shape
            )
            assert token == np.argmax(scaled + (noise if temperature else 0))
            np.testing.assert_allclose(completion.logprobs[n], scaled[token] - np.logaddexp.reduce(scaled), atol=1e-4)
            assert completion.forced[n] == (n > 0 and allowed[n].sum() == 1)
            assert completion.logprobs[n] == 0 or not completion.forced[n]


def test_what_is_forced_costs_no_step_and_changes_nothing(watched):
    """Against decoding step by step, in other batches and caches: the same tokens, and as many calls as choices."""
    slow = dataclasses.replace(watched.grammar)
    vars(slow)["width"] = 1
    for begun, limit in (("", 70), (MAP, 40)):
        fast, few = watched.sample(6, limit, begun)
        steps, many = watched.sample(6, limit, begun, grammar=slow, slots_buckets=(512,), block=6)
        for one, other in zip(fast, steps, strict=True):
            assert (one.tokens, one.rules, one.forced) == (other.tokens, other.rules, other.forced)
            np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-4)
        assert {shape[1] for shape in few} == {3} and {shape[1] for shape in many} == {1}
        assert len(many) == max(len(completion.tokens) for completion in steps)
    longest = max(sum(not forced for forced in completion.forced) for completion in fast[:4])
    assert longest <= len(few) // 2 + 1  # two batches


def test_a_map_of_100_candidates_takes_half_the_steps():
    watched = Watched(100)
    [completion], few = watched.sample(1, 300, MAP)
    assert (
        len(parse(MAP + watched.tokenizer.decode(completion.tokens), watched.tools, handles(100)).args["scores"]) == 100
    )
    _, many = watched.sample(1, len(completion.tokens), MAP, stop_ids=())
    assert len(many) == len(completion.tokens) and len(many) >= 2 * len(few)


def test_a_completion_that_cannot_end_in_time_is_refused(watched):
    with pytest.raises(InputError, match="max_new is 3 and the shortest action takes 4 tokens"):
        watched.sample(2, [9, 3])


def test_rule_12_compilations_do_not_exceed_the_buckets_over_mixed_rollouts(model, sampler):
    """DESIGN §6.12: sessions, turns, lengths, subsets, temperatures and weights vary, shapes do not."""
    rng = np.random.default_rng(0)
    state = nnx.state(model)
    for rollout in range(50):
        n = int(rng.choice([2, 7]))
        session = sampler.open(state, n, int(rng.choice(SLOTS)))
        for _turn in range(2):
            rows = rng.permutation(n)[: rng.integers(1, n + 1)].tolist()
            session.extend(rows, prompts(len(rows), high=30, seed=rollout))
            session.sample(rows, KEYS[: len(rows)], int(rng.integers(1, 6)), float(rng.choice([0.0, 0.5, 1.0])))
        state = jax.tree.map(lambda x: x * 0.999, state)
    assert 1 <= sampler.prefill._cache_size() <= 2 * len(SLOTS) * len(CHUNKS)  # rows begun or gone on with
    assert 1 <= sampler.decode._cache_size() <= len(SLOTS)


def test_what_does_not_fit_is_refused_before_anything_runs(model):
    sampler = Sampler(model, STOPS, SLOTS, CHUNKS)
    with pytest.raises(InputError, match=r"81 slots.*80"):
        sampler.open(nnx.state(model), 2, 81)
    session = sampler.open(nnx.state(model), 2, 24)
    session.extend([0], [[2] * 70])
    with pytest.raises(InputError, match=r"70 tokens and 11 more"):
        session.extend([1, 0], [[3], [4] * 11])
    assert [session.length(row) for row in (0, 1)] == [70, 0]
    session.extend([1], [[3]])
    with pytest.raises(InputError, match=r"70 tokens and 11 more"):
        session.sample([1, 0], KEYS[:2], 11, 1.0)
    assert sampler.prefill._cache_size() == sampler.decode._cache_size() == 0


@pytest.mark.parametrize(
    ("rows", "keys", "max_new", "temperature"),
    [
        ([0, 0], KEYS[:2], 3, 1.0),
        ([0, 2], KEYS[:2], 3, 1.0),
        ([0, 1], KEYS[:2], 3, 1.0),  # row 1 is empty
        ([0], KEYS[:2], 3, 1.0),
        ([0], KEYS[:1].astype(np.int64), 3, 1.0),
        ([0], KEYS[:1], 0, 1.0),
        ([0], KEYS[:1], 3, -1.0),
    ],
)
def test_wrong_calls_are_refused(model, sampler, rows, keys, max_new, temperature):
    session = sampler.open(nnx.state(model), 2, 24)
    session.extend([0], [[2, 3]])
    with pytest.raises(ValueError):
        session.sample(rows, keys, max_new, temperature)


def test_empty_buckets_are_refused(model):
    with pytest.raises(InputError, match="slots_buckets"):
        Sampler(model, STOPS, (), CHUNKS)
    with pytest.raises(InputError, match="chunk_buckets"):
        Sampler(model, STOPS, SLOTS, (0, 4))
