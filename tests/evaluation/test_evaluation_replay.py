"""Counterfactual replay: only what was changed changes, and scripted agents react as their rules say."""

import dataclasses
import json

import doubles
import numpy as np
import pytest

from mma_jax.agents import overlap, routers
from mma_jax.agents.rollout import play
from mma_jax.envs.environment import Environment, Options
from mma_jax.evaluation import replay
from mma_jax.evaluation.judge import trace
from mma_jax.types import FAMILIES


def method(policy):
    return lambda env, episodes: play(policy, env, episodes, 8)


STOP = method(routers.router(routers.until_first_success, overlap.fused))
FUSE = method(routers.rule_router(overlap.fused))
TEXT, GRAPH, IMAGE, SCORE = "Analyze_Text", "Retrieve_Graph", "Analyze_Image", "Score_Candidates"
TITLES = tuple(f"item {n}" for n in range(100))


@pytest.fixture
def env():
    return Environment(doubles.evidence(), Options(context=8192, summaries="none"))


def episode(name, user, family, history=(0, 2)):
    return dataclasses.replace(doubles.episode(family=family, history=history), episode_id=name, user=user)


def played(env, plays, *episodes):
    return plays(env, list(episodes))


def tools(turns):
    return [turn.tool for turn in turns]


def test_a_null_that_answers_ends_the_search(env):
    [before] = played(env, STOP, episode("a", 0, "behavior_only"))
    assert tools(before.turns) == [TEXT, GRAPH, SCORE]
    [flip] = replay.changes(env, before, [])
    assert (flip.kind, flip.turn) == ("flip", 0)
    [after] = replay.replay(STOP, env, [(before, flip)])
    assert tools(after.turns) == [TEXT, SCORE]
    assert after.prompt == before.prompt and after.turns[0].text == before.turns[0].text
    assert after.episode.episode_id == "a" and after.episode.case is before.episode.case
    # what it hears is what an episode with text would have told, and its scores are those of that episode
    [honest] = played(env, STOP, episode("a", 0, "text_only"))
    assert after.turns == honest.turns
    np.testing.assert_array_equal(after.scores, honest.scores)


def test_a_flipped_modality_stays_on(env):
    asked = ['{"tool":"Analyze_Text","args":{"item_id":"1"}}'] * 3 + [
        '{"tool":"Score_Candidates","args":{"scores":{"1":1}}}'
    ]
    policy = method(lambda histories: [asked[(len(h) - 2) // 2] for h in histories])
    [before] = played(env, policy, episode("a", 0, "image_only"))
    assert [turn.error for turn in before.turns] == ["", "repeat_null", "repeat_null", ""]
    [flip] = replay.changes(env, before, [])
    [after] = replay.replay(policy, env, [(before, flip)])
    assert [turn.null for turn in after.turns] == [False] * 4
    assert sum(after.rewards) - sum(before.rewards) == pytest.approx(2 * 0.18)
    assert "profile" in after.turns[0].observation and "profile" not in after.turns[1].observation


def test_a_swap_brings_another_users_answer_once(env):
    mine, other, elsewhere = (
        episode("a", 0, "full"),
        episode("b", 1, "full", (5, 7)),
        episode("c", 2, "text_only", (3,)),
    )
    [before] = played(env, FUSE, mine)
    found = replay.changes(env, before, [mine, other, elsewhere])
    assert [(c.kind, c.turn, c.answering.episode_id) for c in found] == [("swap", n, "b") for n in range(3)]
    after = replay.replay(FUSE, env, [(before, change) for change in found])
    [stranger] = played(env, FUSE, other)
    for n, trajectory in enumerate(after):
        told = [turn.observation for turn in trajectory.turns[:3]]
        truth, lie = ([turn.observation for turn in t.turns[:3]] for t in (before, stranger))
        assert told == [lie[k] if k == n else truth[k] for k in range(3)]
        assert tools(trajectory.turns) == tools(before.turns)
        assert trajectory.turns[-1].reward != 0 and trajectory.episode.case is mine.case
    assert any(not np.array_equal(t.scores, before.scores) for t in after)


def test_nothing_changes_without_a_change(env):
    for family in FAMILIES:
        [before] = played(env, FUSE, episode("a", 0, family))
        for n in range(len(before.turns) - 1):
            [after] = replay.replay(FUSE, env, [(before, replay.Change(n, "swap", before.episode, before.episode))])
            assert after.turns == before.turns and after.stop_reason == before.stop_reason
            np.testing.assert_array_equal(after.scores, before.scores)


def test_nothing_to_change_at_the_end_or_where_the_data_lacks_the_modality(env):
    hasty = method(routers.repeat(routers.score_at_once))
    [before] = played(env, hasty, episode("a", 0, "text_only"))
    assert replay.changes(env, before, [episode("b", 1, "text_only")]) == []
    from_text = doubles.evidence()
    from_text._present = (True, False, False)
    poor = Environment(from_text, Options(context=8192, summaries="none"))
    [before] = played(poor, FUSE, episode("a", 0, "full"))
    assert [turn.null for turn in before.turns] == [False, True, True, False]
    assert [c.kind for c in replay.changes(poor, before, [episode("b", 1, "full")])] == ["swap"]


def test_entries_tell_before_and_after(env):
    episodes = [
        episode("a", 0, "behavior_only"),
        episode("b", 1, "behavior_only", (5, 7)),
        episode("c", 2, "text_only"),
    ]
    trajectories = played(env, STOP, *episodes)
    found = replay.counterfactuals(STOP, env, trajectories, episodes, 0.25, TITLES)
    assert [[(e["change"], e["turn"]) for e in entries] for entries in found] == [
        [("flip", 1), ("swap", 2)], [("flip", 1), ("swap", 2)], []
    ]  # fmt: skip
    for trajectory, entries in zip(trajectories, found, strict=True):
        seen = trace(trajectory, 0.25, TITLES)
        for entry in entries:
            assert entry["rank_before"] == seen["target_rank_after"]
            assert entry["ndcg_before"] == seen["ndcg@10"]
            assert entry["return_before"] == pytest.approx(sum(trajectory.rewards))
            order = sorted(seen["candidates"], key=lambda c: c["final_rank"])
            assert entry["top_before"] == [c["handle"] for c in order]
            assert entry["turns"][0]["text"] == seen["turns"][entry["turn"] - 1]["text"]
            assert entry["turns"][0]["observation"] != seen["turns"][entry["turn"] - 1]["observation"]
    flip, swap = found[0]
    assert (flip["donor"], swap["donor"]) == (None, "b")
    changed = replay.replay(STOP, env, [(trajectories[0], replay.changes(env, trajectories[0], episodes)[0])])
    assert flip["return_after"] == pytest.approx(sum(changed[0].rewards)) != flip["return_before"]
    assert flip["rank_after"] == trace(changed[0], 0.25, TITLES)["target_rank_after"]
    assert json.dumps(found)


def test_a_replay_with_another_past_is_dropped(env):
    words = iter("abcdefgh")

    def fickle(histories):
        return [f"{next(words)}\n{routers.action('Retrieve_Graph', user_id='u')}" for _ in histories]

    def plays(env, episodes):
        return play(fickle, env, episodes, 8)

    short = Environment(doubles.evidence(), Options(context=8192, turns=2))
    trajectories = played(short, plays, episode("a", 0, "text_only"))
    [flip] = replay.changes(short, trajectories[0], [])
    assert replay.replay(plays, short, [(trajectories[0], flip)]) == [None]
    assert replay.counterfactuals(plays, short, trajectories, [], 0.0, TITLES) == [[]]
    assert replay.counterfactuals(plays, short, [], [], 0.0, TITLES) == []
