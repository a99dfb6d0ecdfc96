"""Every rule of MMA §3, with rewards worked out by hand."""

import dataclasses
import json
import subprocess
import sys

import doubles
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mma_jax.envs.environment import Environment, Options
from mma_jax.envs.evidence import Evidence
from mma_jax.envs.observations import read_observation
from mma_jax.envs.rewards import Costs
from mma_jax.envs.tools import TERMINAL
from mma_jax.types import FAMILIES, MODALITIES, InputError


def act(tool, **args):
    return json.dumps({"tool": tool, "args": args})


TEXT = act("Analyze_Text", item_id=["1", "2", "3"])
IMAGE = act("Analyze_Image", item_id="2")
GRAPH = act("Retrieve_Graph", user_id="u")
TOOL_OF = dict(zip(MODALITIES, (TEXT, IMAGE, GRAPH), strict=True))


def ask(modality):
    return act("Ask_User", modality_type=modality, query="What do you like?")


def score(**scores):
    return act("Score_Candidates", scores={handle[1:]: value for handle, value in scores.items()})


def play(texts, episode=None, **options):
    """Steps (observation, reward, done, info) of an episode played to its end or the end of the texts."""
    environment = Environment(doubles.evidence(), Options(**options))
    state, _ = environment.reset(episode or doubles.episode())
    steps = []
    for text in texts:
        state, *step = environment.step(state, text)
        steps.append(tuple(step))
    return steps


def rewards(*args, **options):
    return [step[1] for step in play(*args, **options)]


def answers(*args, **options):
    return [read_observation(step[0]) for step in play(*args, **options)]


# Module 1 and 2: what tools answer


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tool_answers_null_exactly_when_its_modality_is_missing(family):
    for modality, present in zip(MODALITIES, FAMILIES[family], strict=True):
        for text in (TOOL_OF[modality], ask(modality)):
            [(observation, reward, done, info)] = play([text], doubles.episode(family=family), interactive=True)
            assert (observation == "Null") == info["null"] == (not present)
            assert reward == (-0.10 if "Ask_User" in text else -0.02)
            assert not done and info["error"] == ""


def test_text_answer():
    [first, second] = answers([TEXT, TEXT])
    item = {"category": "Beauty > Care", "description": "good and long lasting"}
    items = {"1": {"title": "hair dryer", **item}, "2": {"title": "blue nail polish", **item}, "3": "no text"}
    words = {"red": 1, "nail": 1, "polish": 1, "lip": 1, "balm": 1}
    assert first == {"profile": {"title": words, "category": {"care": 2}, "description": {}}, "items": items}
    assert second == {"items": items}


def test_image_answer():
    [first, second] = answers([IMAGE, act("Analyze_Image", item_id=["1", "2"])], doubles.episode(pool=(5, 1, 4, 6)))
    assert first["profile"]["small"] == 2 and first["profile"]["red"] == 1
    assert first["items"] == {"2": ["blue", "gloss", "bottle", "small", "cap"]}
    assert second == {"items": {"1": "no image", "2": first["items"]["2"]}}


@pytest.mark.parametrize("tool", ["Analyze_Text", "Analyze_Image"])
def test_all_names_the_pool_in_its_order(tool):
    [word], [listed] = answers([act(tool, item_id="all")]), answers([act(tool, item_id=["1", "2", "3", "4"])])
    assert word == listed and list(word["items"]) == ["1", "2", "3", "4"]


def test_graph_answer():
    # History 0, 2: neighbours 1 (linked to 0 only) and 6 (linked to 2, 5, 7). Pool 3 1 4 6.
    [answer] = answers([GRAPH])
    assert answer == {
        "taken": {"1": 0, "2": 3, "3": 1, "4": 4},
        "neighbors": [{"title": "blue nail polish", "near": ["2"]}, {"title": "face cream", "near": ["4"]}],
    }
    assert list(answers([GRAPH], graph_counts=False)[0]) == ["neighbors"]
    # Pool 3 5 7 0: 1 links to 0, 6 to 5 and 7; neither is a candidate.
    for titles, names in ((True, ["blue nail polish", "face cream"]), (False, ["-", "-"])):
        [answer] = answers([GRAPH], doubles.episode(pool=(3, 5, 7, 0)), graph_titles=titles)
        assert answer["neighbors"] == [{"title": names[0], "near": ["4"]}, {"title": names[1], "near": ["2", "3"]}]
    [answer] = answers([GRAPH], graph_titles=False)
    assert [n["title"] for n in answer["neighbors"]] == ["2", "4"]


def test_graph_shows_titles_even_where_text_is_masked():
    [answer] = answers([GRAPH], doubles.episode(family="behavior_only"))
    assert answer["neighbors"][0]["title"] == "blue nail polish"
    [answer] = answers([GRAPH], doubles.episode(family="behavior_only", history=(7,), pool=(4, 1)))
    assert answer["neighbors"][0]["title"] == "face cream"
    [answer] = answers([GRAPH], doubles.episode(history=()))
    assert answer["neighbors"] == []


def test_ask_user_speaks_of_the_asked_modality_only():
    said = [a["answer"] for a in answers([ask(m) for m in MODALITIES], interactive=True)]
    assert "nail" in said[0] and "gloss" in said[1] and "blue nail polish (near 2)" in said[2]
    assert "gloss" not in said[0] + said[2] and "nail" not in said[1]
    assert answers([act("Ask_User", modality_type="text", query="x")], interactive=True)[0]["answer"] == said[0]


def test_a_dataset_without_a_modality_answers_null():
    environment = Environment(Evidence(doubles.TextDouble()), Options())
    state, _ = environment.reset(doubles.episode())
    assert environment.step(state, IMAGE)[1] == "Null"
    assert environment.step(state, GRAPH)[1] == "Null"


# Eq. 3


def test_costs_of_calls_and_of_repeating_a_null():
    episode = doubles.episode(family="text_only")
    steps = play([IMAGE, act("Analyze_Image", item_id="3"), TEXT, TEXT, GRAPH, GRAPH, GRAPH], episode)
    assert [reward for _, reward, *_ in steps] == [-0.02, -0.20, -0.02, -0.02, -0.02, -0.20, -0.20]
    assert [info["error"] for *_, info in steps] == ["", "repeat_null", "", "", "", "repeat_null", "repeat_null"]
    assert [step[0] == "Null" for step in steps] == [True, True, False, False, True, True, True]


def test_ask_user_nulls_are_told_apart_by_modality_and_from_the_tools():
    episode = doubles.episode(family="text_only")
    texts = [ask("image"), ask("behavior"), ask("image"), ask("text"), ask("text"), IMAGE]
    assert rewards(texts, episode, interactive=True) == [-0.10, -0.10, -0.20, -0.10, -0.10, -0.02]


def test_invalid_actions_cost_and_go_on():
    texts = ["hm", act("Search", query="x"), act("Analyze_Text", item_id="99"), ask("text"), TEXT]
    steps = play(texts)
    assert [reward for _, reward, *_ in steps] == [-0.20, -0.20, -0.20, -0.20, -0.02]
    assert [info["error"] for *_, info in steps] == ["invalid_json", "unknown_tool", "bad_args", "unknown_tool", ""]
    assert not any(done for *_, done, _ in steps)
    assert all(isinstance(read_observation(step[0]), str) for step in steps[:4])
    assert "profile" in read_observation(steps[4][0])


def test_terminal_reward_is_ndcg_of_the_fused_ranking():
    # s0 = 1 2/3 1/3 0; scores 0 . . 10 -> s_MMA 0 . . 1; fused at 1/2: .5 2/3 1/3 .5; the target is handle 2.
    [(observation, reward, done, info)] = play([score(_1=0, _4=10)])
    assert (reward, done, info["stop_reason"], observation) == (1.0, True, "scored", "Scored.")
    assert info["ndcg"] == reward and info["error"] == ""
    np.testing.assert_array_equal(info["scores"], [0, np.nan, np.nan, 10])
    # Target 6 = handle 4, tied with handle 1 for ranks 2 and 3.
    expected = (1 / np.log2(3) + 1 / np.log2(4)) / 2
    assert rewards([score(_1=0, _4=10)], doubles.episode(target=6)) == [pytest.approx(expected)]
    # alpha = 0: the agent alone decides among those it scored.
    assert rewards([score(_1=0, _4=10)], doubles.episode(target=6), alpha=0.0) == [1.0]
    # A constant map is the first stage: target 1 is second.
    assert rewards([score(_1=5, _2=5)]) == [pytest.approx(1 / np.log2(3))]


def test_target_outside_the_pool_is_worth_nothing():
    assert rewards([score(_1=1, _2=2)], doubles.episode(target=7, protocol="full_catalog")) == [0.0]


def test_malformed_terminal_ends_with_the_penalty():
    for text in (act("Score_Candidates", scores={}), score(_9=1), '{"tool":"Score_Candidates","args":{"sco'):
        [(_, reward, done, info)] = play([text])
        assert (reward, done, info["stop_reason"]) == (-0.20, True, "malformed_terminal")
        assert info["error"] == "malformed_terminal" and info["scores"] is None and info["ndcg"] is None


def test_turn_limit():
    steps = play([TEXT] * 8)
    assert [done for _, _, done, _ in steps] == [False] * 7 + [True]
    assert steps[-1][3]["stop_reason"] == "turn_limit" and sum(step[1] for step in steps) == pytest.approx(-0.16)
    steps = play(["?", score(_2=1, _1=0)], turns=2)
    assert steps[-1][3]["stop_reason"] == "scored"
    assert play(["?"], turns=1)[0][3]["stop_reason"] == "turn_limit"


def test_an_episode_that_is_over_cannot_be_continued():
    with pytest.raises(ValueError, match="over"):
        play([score(_1=1), TEXT])


def test_costs_are_options():
    assert rewards(["?", TEXT, ask("text")], interactive=True, costs=Costs(-1, -2, -3)) == [-3, -1, -2]


def test_states_are_frozen_and_an_episode_replays_exactly():
    environment = Environment(doubles.evidence(), Options())
    start, _ = environment.reset(doubles.episode(family="text_only"))
    texts = ["?", TEXT, IMAGE, IMAGE, TEXT, score(_1=1, _2=3)]

    def run(environment):
        state, steps = start, []
        for text in texts:
            state, *step = environment.step(state, text)
            steps.append((state, *step[:3], {k: v for k, v in step[3].items() if k != "scores"}))
        return steps

    once = run(environment)
    assert once == run(environment) == run(Environment(doubles.evidence(), Options()))
    assert start.turn == 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        start.turn = 1


@pytest.mark.parametrize(
    "bad",
    [{"turns": 0}, {"context": 0}, {"summaries": "all"}, {"max_items": 0}, {"summary_tokens": -1}, {"alpha": 1.5}],
)
def test_options_out_of_range_are_refused(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        Options(**bad)


# No leak


moves = st.lists(
    st.sampled_from(
        [TEXT, IMAGE, GRAPH, ask("text"), ask("image"), ask("behavior"), "hm", act("X"), act("Analyze_Text")]
    ),
    max_size=7,
)


@settings(max_examples=150, deadline=None)
@given(
    pool=st.permutations(range(8)).map(lambda items: tuple(items[:5])),
    family=st.sampled_from(list(FAMILIES)),
    protocol=st.sampled_from(["ooma", "lomo", "full_catalog", "interactive"]),
    summaries=st.sampled_from(["surviving", "none"]),
    targets=st.tuples(st.integers(0, 7), st.integers(0, 7)),
    texts=moves,
    last=st.sampled_from([score(_1=3, _2=1), score(_7=1), TEXT]),
)
def test_changing_the_target_changes_nothing_the_agent_reads(pool, family, protocol, summaries, targets, texts, last):
    def read(target):
        episode = doubles.episode(target, family, protocol, pool=pool)
        environment = Environment(
            doubles.evidence(), Options(summaries=summaries, interactive=protocol == "interactive")
        )
        state, prompt = environment.reset(episode)
        lines = [message.content for message in prompt]
        for text in [*texts, last]:
            state, observation, *_ = environment.step(state, text)
            lines.append(observation)
        return lines

    first, second = map(read, targets)
    assert first == second
    assert doubles.FORBIDDEN not in "".join(first)


@settings(max_examples=50, deadline=None)
@given(
    masks=st.tuples(st.sampled_from(list(FAMILIES)), st.sampled_from(list(FAMILIES))),
    pool=st.permutations(range(8)).map(lambda items: tuple(items[:5])),
)
def test_without_summaries_the_prompt_says_nothing_of_the_mask(masks, pool):
    environment = Environment(doubles.evidence(), Options(summaries="none"))
    prompts = [environment.reset(doubles.episode(family=family, pool=pool))[1] for family in masks]
    assert [m.content.encode() for m in prompts[0]] == [m.content.encode() for m in prompts[1]]


def test_the_environment_needs_neither_jax_nor_torch():
    code = "import sys, mma_jax.envs.environment; print({'jax', 'torch', 'flax', 'gymnasium'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_score_is_no_evidence_tool():
    environment = Environment(doubles.evidence(), Options())
    assert TERMINAL not in environment.budget(4).observations
