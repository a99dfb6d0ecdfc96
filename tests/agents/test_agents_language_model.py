"""Histories grow by ids alone; masks, turns and rewards are what was played (DESIGN §6.3, 6.4, 6.7, 6.15)."""

import functools
import threading

import doubles
import jax
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict

from mma_jax.agents import overlap, routers
from mma_jax.agents.language_model import Forced, generate, play, sampling_key
from mma_jax.agents.rollout import play as play_policy
from mma_jax.envs.environment import Environment, Options
from mma_jax.learning import ppo
from mma_jax.learning.sequences import pad
from mma_jax.learning.sharing import share
from mma_jax.models.heads import TRAINABLE, ActorCritic
from mma_jax.models.llama import Llama, LlamaConfig
from mma_jax.models.tokenizer import Chat
from mma_jax.sampling.grammar import compile_grammar
from mma_jax.sampling.sampler import Sampler
from mma_jax.types import InputError, Message

TOKENIZER = doubles.CharTokenizer()
CHAT = Chat(TOKENIZER)
TEXT = '{"tool":"Analyze_Text","args":{"item_id":"1"}}'
SCORE = 'Done.\n{"tool":"Score_Candidates","args":{"scores":{"1":1,"2":9}}}'
ROOM = {"max_new": 200, "context": 4000}


def environment(**options):
    return Environment(doubles.evidence(), Options(context=8192, **options), CHAT.count)


def text_then_score(seen):
    return SCORE if TEXT in seen else TEXT


def run(say, episodes, env=None, **changes):
    sampler = doubles.ScriptedSampler(say)
    settings = {"batch": 3, "key": (0, 0), "temperature": 0.7, **ROOM, **changes}
    return play(sampler, None, CHAT, env or environment(), episodes, **settings), sampler


def test_a_row_reads_as_the_template_would_write_it():
    [played], sampler = run(text_then_score, [doubles.episode()])
    system, user = played.trajectory.prompt
    first, last = played.trajectory.turns
    expected = (
        f"<s><system>{system.content}<end><user>{user.content}<end><assistant>{TEXT}<end>"
        f"<tool>{first.observation}<end><assistant>{SCORE}<end>"
    )
    assert TOKENIZER.show(played.sequence.tokens) == expected
    assert sampler.sessions[0].ids[0] == played.sequence.tokens.tolist()  # each id fed or sampled exactly once
    assert (first.text, last.text, played.trajectory.stop_reason) == (TEXT, SCORE, "scored")
    assert played.trajectory.scores[:2].tolist() == [1, 9]


def test_rule_3_prompts_continue_prompts():
    """Each turn's prompt ids start with the previous prompt + completion ids."""
    seen = []
    run(lambda text: seen.append(text) or text_then_score(text), [doubles.episode()])
    assert seen[1].startswith(seen[0] + TEXT + "<end>")


def test_masks_turns_and_rewards():
    [played], _ = run(text_then_score, [doubles.episode()])
    sequence, turns = played.sequence, played.trajectory.turns
    for n, text in enumerate((TEXT, SCORE)):
        assert TOKENIZER.show(sequence.tokens[sequence.turn == n]) == text + "<end>"
        assert TOKENIZER.show(sequence.tokens[: sequence.starts[n] + 1]).endswith("<assistant>")
        assert turns[n].tokens == tuple(sequence.tokens[sequence.turn == n])
        assert turns[n].value == sequence.starts[n] + 1  # the double's: how much the row had read
    assert (sequence.logprobs == np.where(sequence.action, -0.5, 0)).all()
    np.testing.assert_allclose(sequence.rewards, played.trajectory.rewards)
    assert sequence.rewards[0] == np.float32(-0.02)


def test_a_turn_cut_off_has_no_end_token_of_its_own():
    [played], _ = run(lambda seen: SCORE if "Error" in seen else "hm " * 99, [doubles.episode()], max_new=70)
    sequence = played.sequence
    assert TOKENIZER.show(sequence.tokens[sequence.turn == 0]) == ("hm " * 99)[:70]
    behind = int(np.flatnonzero(sequence.turn == 0)[-1]) + 1
    assert TOKENIZER.show(sequence.tokens[behind:]).startswith("<end><tool>Error: ")
    assert not sequence.action[behind]
    assert TOKENIZER.show(sequence.tokens[sequence.turn == 1]) == SCORE + "<end>"


def test_texts_alone_decide_what_is_earned():
    """The same texts earn the same through the player of scripted policies."""
    env, family = environment(), "image_only"
    policy = routers.rule_router(overlap.fused)
    [expected] = play_policy(policy, env, [doubles.episode(family=family)], batch=1)
    texts = iter([turn.text for turn in expected.turns])
    [played], _ = run(lambda seen: next(texts), [doubles.episode(family=family)], env)
    assert played.trajectory.rewards == expected.rewards
    assert [t.observation for t in played.trajectory.turns] == [t.observation for t in expected.turns]
    np.testing.assert_array_equal(played.trajectory.scores, expected.scores)


def test_rows_of_different_lengths_share_a_session():
    def say(seen):
        calls = 2 if "~" in seen else 0  # behavior's marker in a summary
        return SCORE if seen.count("<tool>") == calls else TEXT

    episodes = [doubles.episode(family=f) for f in ("text_only", "image_only", "full", "behavior_only", "text_only")]
    together, sampler = run(say, episodes)
    alone = [run(say, [episode], batch=1)[0][0] for episode in episodes]
    assert [len(p.trajectory.turns) for p in together] == [1, 1, 3, 3, 1]
    [session] = sampler.sessions  # where an episode ends the next begins
    assert [rows for rows, _, _ in session.calls] == [[0, 1, 2], [0, 1, 2], [0, 2], [0]]
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_array_equal(one.sequence.tokens, other.sequence.tokens)
        assert one.trajectory.rewards == other.trajectory.rewards


@pytest.mark.parametrize("lanes", [2, 3, 9])
def test_lanes_play_what_one_session_plays(lanes):
    families = ("text_only", "image_only", "full", "behavior_only", "text_only")
    episodes = [doubles.episode(family=family) for family in families]
    alone, _ = run(text_then_score, episodes, samples=2, batch=4)
    shared, sampler = run(text_then_score, episodes, samples=2, batch=4, lanes=lanes)
    assert len(sampler.sessions) == {2: 2, 3: 3, 9: 3}[lanes]  # never more than rows; five episodes in shares of two
    for one, other in zip(alone, shared, strict=True):
        assert one.trajectory.episode is other.trajectory.episode
        np.testing.assert_array_equal(one.sequence.tokens, other.sequence.tokens)
        assert one.trajectory.rewards == other.trajectory.rewards


@pytest.mark.parametrize("lanes", [1, 2])
def test_nothing_to_play_is_no_error(lanes):
    assert run(text_then_score, [], lanes=lanes)[0] == []


def test_one_lane_stays_in_the_thread_that_an_interrupt_reaches():
    threads = []
    run(lambda seen: threads.append(threading.current_thread()) or text_then_score(seen), [doubles.episode()])
    assert set(threads) == {threading.main_thread()}


def test_lanes_are_under_way_at_the_same_time():
    """Each lane's first completion waits for the other's, which would never come if they took turns."""
    together = threading.Barrier(2, timeout=30)

    def say(seen):
        if TEXT not in seen:
            together.wait()
        return text_then_score(seen)

    played, _ = run(say, [doubles.episode(), doubles.episode()], batch=2, lanes=2)
    assert [one.trajectory.stop_reason for one in played] == ["scored", "scored"]


def test_what_goes_wrong_in_a_lane_is_told():
    with pytest.raises(InputError, match="opens with"):
        run(text_then_score, [doubles.episode(), doubles.episode()], batch=2, lanes=2, context=210)


def test_a_row_that_never_sampled_is_read_anew():
    """Of an episode forced whole the session knows nothing: the next one in its row keeps only what is there."""
    forced = [doubles.episode(family=f) for f in ("text_only", "text_only", "full")]

    def script(episode, turn, history):
        return Forced(SCORE, complete=True) if episode is forced[1] else None

    played, sampler = run(text_then_score, forced, batch=1, script=script)
    [alone], _ = run(text_then_score, forced[2:], batch=1)
    np.testing.assert_array_equal(played[2].sequence.tokens, alone.sequence.tokens)
    assert sampler.sessions[0].ids[0] == played[2].sequence.tokens.tolist()


def test_siblings_lie_side_by_side_with_keys_of_their_own():
    episodes = [doubles.episode(), doubles.episode(family="text_only")]
    played, sampler = run(text_then_score, episodes, samples=2, batch=4)
    assert [p.trajectory.episode.family for p in played] == ["full", "full", "text_only", "text_only"]
    (_, first, temperature), (_, second, _) = sampler.sessions[0].calls
    assert first.dtype == np.uint32 and first.shape == (4, 2) and temperature == 0.7
    # the doubles' episodes share an id, so rows 0 and 2 share a key, and no others do
    assert len({tuple(key) for key in (*first, *second)}) == 4
    np.testing.assert_array_equal(first[0], first[2])


def test_rule_15_keys_depend_on_what_is_played_and_not_on_where():
    base = sampling_key(0, 0, 0, 0, "a")
    others = [(1, 0, 0, 0, "a"), (0, 1, 0, 0, "a"), (0, 0, 1, 0, "a"), (0, 0, 0, 1, "a"), (0, 0, 0, 0, "b")]
    assert len({tuple(base), *(tuple(sampling_key(*other)) for other in others)}) == 6
    _, wide = run(text_then_score, [doubles.episode(), doubles.episode()], batch=2, key=(3, 5))
    _, narrow = run(text_then_score, [doubles.episode(), doubles.episode()], batch=1, key=(3, 5))
    np.testing.assert_array_equal(wide.sessions[0].calls[1][1][1], narrow.sessions[0].calls[3][1][0])
    np.testing.assert_array_equal(narrow.sessions[0].calls[3][1][0], sampling_key(3, 5, 0, 1, doubles.FORBIDDEN))


def test_context_limit_ends_an_episode_where_nothing_fits():
    opening = len(CHAT.open(environment().reset(doubles.episode())[1]))
    [played], sampler = run(lambda _: TEXT, [doubles.episode()], max_new=60, context=opening + 60)
    assert played.trajectory.stop_reason == "context_limit"
    assert played.trajectory.rewards == [-0.02]
    assert np.isnan(played.trajectory.scores).all()
    assert len(played.sequence) == opening + len(TEXT) + 1  # the reply that no turn saw is left out
    with pytest.raises(InputError, match=f"opens with {opening} tokens"):
        run(lambda _: TEXT, [doubles.episode()], max_new=60, context=opening + 59)
    assert len(sampler.sessions) == 1


def test_a_turn_may_fill_the_context_to_its_last_token():
    [whole], _ = run(text_then_score, [doubles.episode()])
    used = len(whole.sequence)
    [exact], _ = run(text_then_score, [doubles.episode()], context=used)
    np.testing.assert_array_equal(exact.sequence.tokens, whole.sequence.tokens)
    [cut], _ = run(text_then_score, [doubles.episode()], context=used - 4)
    assert len(cut.sequence) == used - 4
    assert (cut.trajectory.stop_reason, cut.trajectory.rewards[1]) == ("malformed_terminal", -0.2)
    [none], _ = run(text_then_score, [doubles.episode()], context=int(whole.sequence.starts[1]) + 1)
    assert (none.trajectory.stop_reason, len(none.trajectory.turns)) == ("context_limit", 1)


def test_rule_14_tokens_forced_by_the_grammar_are_no_actions():
    class Grammar(doubles.ScriptedSession):
        def _complete(self, row, max_new):
            completion = super()._complete(row, max_new)
            completion.forced = [token == TOKENIZER.encode('"')[0] for token in completion.tokens]
            return completion

    sampler = doubles.ScriptedSampler(text_then_score)
    sampler.open = lambda state, rows, slots: Grammar(text_then_score, rows, slots)
    settings = {"batch": 1, "key": (0, 0), "temperature": 1.0, **ROOM}
    [played] = play(sampler, None, CHAT, environment(), [doubles.episode()], **settings)
    sequence = played.sequence
    assert TOKENIZER.show(sequence.tokens[sequence.turn == 0]) == TEXT.replace('"', "") + "<end>"
    assert TOKENIZER.decode(played.trajectory.turns[0].tokens) == TEXT


def test_a_whole_turn_can_be_forced():
    """Counterfactual replay: another call in place of the first; the policy goes on from there."""
    graph = '{"tool":"Retrieve_Graph","args":{"user_id":"u"}}'

    def script(episode, turn, history):
        assert len(history) == 2 + 2 * turn and history[0].role == "system"
        return Forced(graph, complete=True) if turn == 0 else None

    [played], sampler = run(lambda seen: SCORE if graph in seen else TEXT, [doubles.episode()], script=script)
    first, last = played.trajectory.turns
    assert (first.tool, first.tokens, last.tool) == ("Retrieve_Graph", (), "Score_Candidates")
    assert np.isnan(first.value) and last.value == last.value
    assert played.sequence is None
    read = TOKENIZER.show(sampler.sessions[0].ids[0])
    assert read.endswith(f"<assistant>{graph}<end><tool>{first.observation}<end><assistant>{SCORE}<end>")
    assert len(sampler.sessions[0].calls) == 1


def test_every_turn_can_be_forced():
    texts = [TEXT, SCORE]
    [played], sampler = run(
        lambda seen: pytest.fail("nothing to sample"),
        [doubles.episode()],
        script=lambda e, n, h: Forced(texts[n], True),
    )
    assert [turn.text for turn in played.trajectory.turns] == texts
    assert sampler.sessions[0].calls == []


def test_the_beginning_of_a_turn_can_be_forced():
    begin = SCORE[:30]
    [played], _ = run(
        lambda seen: SCORE[30:], [doubles.episode()], script=lambda e, n, h: Forced(begin, complete=False)
    )
    [turn] = played.trajectory.turns
    assert turn.text == SCORE and played.trajectory.stop_reason == "scored"
    sequence = played.sequence
    assert TOKENIZER.show(sequence.tokens[sequence.action]) == SCORE[30:] + "<end>"
    assert TOKENIZER.show(sequence.tokens[: sequence.starts[0] + 1]).endswith("<assistant>" + begin)
    assert TOKENIZER.decode(turn.tokens) == SCORE[30:]


def test_generate_completes_prompts_in_order():
    def history(name, *begun):
        return (Message("system", "s"), Message("user", name), *begun)

    prompts = [history("anna"), history("bert"), history("carl", Message("assistant", "I am "))]
    sampler = doubles.ScriptedSampler(lambda seen: seen.partition("<user>")[2].partition("<end>")[0])
    texts = generate(sampler, None, CHAT, prompts, batch=2, max_new=20, context=60)
    assert texts == ["anna", "bert", "carl"]
    assert sampler.sessions[0].calls[0][2] == 0.0
    assert TOKENIZER.show(sampler.sessions[1].ids[0]).endswith("<assistant>I am carl<end>")
    with pytest.raises(InputError, match="more than the context of 30"):
        generate(sampler, None, CHAT, prompts, batch=2, max_new=20, context=30)


def test_what_is_sampled_is_what_the_model_says_of_the_whole_sequence():
    """With a real model: the log-probabilities and values along the way are those of one pass over the sequence.

    Four games in three rows: one is played in a row that another has left, whose opening it keeps.
    """
    config = LlamaConfig(
        vocab_size=TOKENIZER.vocab_size, width=16, layers=1, heads=2, kv_heads=1, head_dim=8, hidden=16, tied=True
    )
    model = ActorCritic(Llama(config, rngs=nnx.Rngs(0)), 8, nnx.Rngs(1))
    model.value.w2[...] = jax.random.normal(jax.random.key(2), (8,))
    sampler = Sampler(model, CHAT.stop_ids, slots_buckets=(2048,), chunk_buckets=(256,))
    episodes = [doubles.episode(family="text_only"), doubles.episode(family="image_only")]
    settings = {"batch": 3, "samples": 2, "key": (1, 0), "temperature": 0.7, "max_new": 12, "context": 2048}
    played = play(sampler, nnx.state(model), CHAT, environment(turns=2), episodes, **settings)
    assert len({tuple(p.trajectory.turns[0].tokens) for p in played}) > 1
    batch = pad([one.sequence for one in played], (2048,), max_turns=2)
    logprobs, values = _whole(*nnx.split(model), batch.tokens)
    for n, one in enumerate(played):
        sequence = one.sequence
        chosen = np.flatnonzero(sequence.action)
        expected = logprobs[n, chosen - 1, sequence.tokens[chosen]]
        np.testing.assert_allclose(sequence.logprobs[chosen], expected, atol=1e-4)
        np.testing.assert_allclose(sequence.values, values[n, sequence.starts], atol=1e-4)
        np.testing.assert_array_equal(sequence.values, np.float32([t.value for t in one.trajectory.turns]))
        assert len(one.trajectory.turns) == len(sequence.starts) == 2


def test_rule_14_sampler_and_trainer_agree_under_a_grammar():
    """DESIGN §6.14: turns of a real model of random weights are valid actions, and ratios of their tokens are 1."""
    shape = LlamaConfig(
        vocab_size=TOKENIZER.vocab_size, width=16, layers=1, heads=2, kv_heads=1, head_dim=8, hidden=16, tied=True
    )
    model = ActorCritic(Llama(shape, rngs=nnx.Rngs(0)), 8, nnx.Rngs(1))
    model.value.w2[...] = jax.random.normal(jax.random.key(2), (8,))
    env = environment(turns=3, interactive=True)
    grammar = compile_grammar(TOKENIZER, CHAT.stop_ids[0], env.tools, 4)
    sampler = Sampler(model, CHAT.stop_ids, slots_buckets=(4096,), chunk_buckets=(8, 256))
    settings = {"batch": 4, "samples": 4, "key": (1, 0), "temperature": 0.7, "max_new": 110, "context": 4096}
    played = play(sampler, nnx.state(model), CHAT, env, [doubles.episode()], grammar=grammar, **settings)
    turns = [turn for one in played for turn in one.trajectory.turns]
    assert {turn.error for turn in turns} == {""} and len(turns) == 3 * len(played)
    batch = pad([one.sequence for one in played], (4096,), max_turns=3)
    lengths, group = np.array([len(one.sequence) for one in played]), np.zeros(4, int)
    packed = share(batch.tokens, lengths, group, 4, (4096,))
    config = ConfigDict({"temperature": 0.7, "remat": False})
    graphdef, params, frozen = nnx.split(model, TRAINABLE, ...)
    measure, _ = ppo.make_passes(graphdef, config, allowed=grammar.allowed)
    logprobs, entropy, values = (np.asarray(x) for x in measure(params, frozen, batch, packed))
    np.testing.assert_allclose(np.stack([one.sequence.values for one in played]), values, atol=1e-4)
    assert np.abs(values).min() > 1e-3
    np.testing.assert_allclose(np.exp(logprobs - batch.logprobs)[batch.action], 1, atol=1e-4)
    written = sum(len(turn.tokens) for turn in turns)
    assert 0 < batch.action.sum() < written
    assert not batch.logprobs[~batch.action].any() and not entropy[~batch.action].any()
    free, _ = ppo.make_passes(graphdef, config)
    assert np.abs(np.asarray(free(params, frozen, batch, packed)[0]) - logprobs).max() > 1


@functools.partial(jax.jit, static_argnums=0)
def _whole(graphdef, state, tokens):
    model = nnx.merge(graphdef, state)
    hidden = model.model(tokens)
    return jax.nn.log_softmax(model.model.logits(hidden) / 0.7), model.values(hidden)
