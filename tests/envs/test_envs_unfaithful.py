"""Tools that lie: what changes, what must not, and that the lie is the same every time."""

import dataclasses
import json

import doubles
import numpy as np
import pytest

from mma_jax.envs.environment import Environment, Options
from mma_jax.envs.unfaithful import LIES, UnfaithfulEnvironment
from mma_jax.types import FAMILIES, InputError

TEXT = '{"tool":"Analyze_Text","args":{"item_id":["1","2","3","4"]}}'
IMAGE = '{"tool":"Analyze_Image","args":{"item_id":["1","2","3","4"]}}'
GRAPH = '{"tool":"Retrieve_Graph","args":{"user_id":"u"}}'
ASK = '{"tool":"Ask_User","args":{"modality_type":"text","query":"?"}}'
SCORE = '{"tool":"Score_Candidates","args":{"scores":{"1":1,"2":4,"3":2,"4":3}}}'
OPTIONS = Options(context=8192, interactive=True)


def liar(lie, episodes, seed=0):
    return UnfaithfulEnvironment(doubles.evidence(), OPTIONS, lie, [e.case for e in episodes], seed)


def episodes(family="full"):
    return [doubles.episode(family=family), doubles.episode(family=family, history=(5, 7, 7))]


def answers(env, episode, texts=(TEXT, IMAGE, GRAPH, ASK)):
    state, _ = env.reset(episode)
    heard = []
    for text in texts:
        state, observation, *_ = env.step(state, text)
        heard.append(observation if observation == "Null" else json.loads(observation))
    return heard


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("family", FAMILIES)
def test_prompt_null_and_reward_stay_true(lie, family):
    played = episodes(family)
    honest, lying = Environment(doubles.evidence(), OPTIONS), liar(lie, played)
    for episode in played:
        assert lying.reset(episode)[1] == honest.reset(episode)[1]
        nulls = [[heard == "Null" for heard in answers(env, episode)] for env in (honest, lying)]
        assert nulls[0] == nulls[1]
        ends = [env.step(env.reset(episode)[0], SCORE) for env in (honest, lying)]
        assert ends[0][2] == ends[1][2] and ends[0][4]["ndcg"] == ends[1][4]["ndcg"]


def test_wrong_gives_every_handle_the_facts_of_another_and_the_profile_of_another_user():
    mine, other = episodes()
    honest = Environment(doubles.evidence(), OPTIONS)
    for seed in range(5):
        text, image, _, asked = answers(liar("wrong", [mine, other], seed), mine)
        true, true_image, _, _ = answers(honest, mine)
        stranger = answers(honest, other)
        assert text["profile"] == stranger[0]["profile"] != true["profile"]
        assert image["profile"] == stranger[1]["profile"]
        assert asked == stranger[3]
        for told, truth in ((text["items"], true["items"]), (image["items"], true_image["items"])):
            assert all(told[handle] != truth[handle] for handle in truth)
            assert sorted(map(str, told.values())) == sorted(map(str, truth.values()))
            # one cycle through the whole pool: no smaller circle of handles keeps its facts among itself
            step = {h: next(k for k in truth if truth[k] == told[h]) for h in truth}
            seen, at = ["1"], step["1"]
            while at != "1":
                seen, at = [*seen, at], step[at]
            assert len(seen) == len(truth)


def test_wrong_permutes_the_graph_as_it_permutes_the_facts():
    mine, other = episodes()
    told, truth = (
        answers(env, mine) for env in (liar("wrong", [mine, other]), Environment(doubles.evidence(), OPTIONS))
    )
    assert sorted(told[2]["taken"].values()) == sorted(truth[2]["taken"].values())
    moved = {h: next(k for k in truth[0]["items"] if truth[0]["items"][k] == told[0]["items"][h]) for h in "1234"}
    assert {h: truth[2]["taken"][moved[h]] for h in "1234"} == told[2]["taken"]


def test_a_lie_depends_on_seed_and_case_alone():
    mine, other = episodes()
    copy = dataclasses.replace(mine, case=dataclasses.replace(mine.case, pool=mine.case.pool.copy()), target=3)
    told = answers(liar("wrong", [mine, other]), mine)
    assert answers(liar("wrong", [mine, other]), copy) == told
    env = liar("wrong", [mine, other])
    assert answers(env, mine, (GRAPH, ASK, IMAGE, TEXT))[3] == told[0]
    assert any(answers(liar("wrong", [mine, other], seed), mine) != told for seed in range(1, 5))


def test_wrong_borrows_within_the_mask_only():
    mine, other = doubles.episode(family="text_only"), doubles.episode(family="image_only", history=(5, 7))
    with pytest.raises(InputError, match="at least two users"):
        answers(liar("wrong", [mine, other]), mine)


def test_stale_knows_the_older_half_of_the_history():
    mine = doubles.episode(history=(0, 1, 2, 3, 5))
    young = doubles.episode(history=(0, 1, 2))
    assert answers(liar("stale", [mine]), mine) == answers(Environment(doubles.evidence(), OPTIONS), young)
    single = doubles.episode(history=(2,))
    assert answers(liar("stale", [single]), single) == answers(Environment(doubles.evidence(), OPTIONS), single)
    empty = doubles.episode(history=())
    assert len(liar("stale", [empty]).lie(empty.case).history) == 0


def test_the_case_itself_is_left_alone():
    mine, other = episodes()
    before = mine.case.pool.copy(), mine.case.history.copy()
    answers(liar("wrong", [mine, other]), mine)
    np.testing.assert_array_equal(mine.case.pool, before[0])
    np.testing.assert_array_equal(mine.case.history, before[1])


def test_unknown_lies_are_refused():
    with pytest.raises(InputError, match="known are wrong, stale"):
        liar("white", [])
