"""AgentCF on a scripted language model: who meets whom, what is remembered, and what each mask lets through."""

import types

import doubles
import numpy as np
import pytest

from mma_jax.agents import agentcf
from mma_jax.agents.agentcf import Interaction, Memories, disjoint, learn, remind
from mma_jax.envs.environment import Environment, Options
from mma_jax.metrics.diagnostics import diagnose
from mma_jax.types import FAMILIES

CONFIG = types.SimpleNamespace(interactions=10, words=6, max_new=40)


def environment(**options):
    return Environment(doubles.evidence(), Options(**{"context": 8192, **options}))


class Scripted:
    """Answers by what kind of question it is; keeps the prompts."""

    def __init__(self, choice="neither", taste="", fan="", scores='"1":3,"2":9}}}'):
        self.answers = {"I take ": choice, "I like ": taste, "They like ": fan, agentcf.OPENING: scores}
        self.asked = []

    def __call__(self, histories, max_new):
        self.asked += [(history, max_new) for history in histories]
        texts = [self.answers[history[-1].content] for history in histories]
        return [text(history) if callable(text) else text for text, history in zip(texts, histories, strict=True)]

    def prompts(self, begin):
        return [history[1].content for history, _ in self.asked if history[-1].content == begin]


def right(history):
    """The letter of blue nail polish, which the training user takes."""
    question = history[1].content
    return "A" if question.split("\nA: ")[1].startswith("blue") else "B."


def wrong(history):
    return "B, I guess" if right(history) == "A" else "A, I guess"


def train(family="text_only", **changes):
    return [doubles.episode(family=family, history=(0,), **changes)]


def test_right_choices_change_nothing():
    generate = Scripted(choice=right)
    assert learn(environment(), train(), generate, CONFIG, 0) == Memories()
    assert len(generate.asked) == 1


@pytest.mark.parametrize("answer", [wrong, "", "both", "Apples"])
def test_wrong_or_unreadable_choices_make_both_agents_reflect(answer):
    taste, fan = "Blue or red nail polish!", "nail polish in blue"
    memories = learn(environment(), train(), Scripted(answer, taste, fan), CONFIG, 0)
    assert memories == Memories({0: taste}, {1: fan})


def test_agents_are_shown_each_other():
    generate = Scripted(wrong, "blue nail polish", "polish")
    learn(environment(), train(), generate, CONFIG, 0)
    [choice], [taste], [fan] = (generate.prompts(begin) for begin in ("I take ", "I like ", "They like "))
    assert choice.startswith("You like: red nail polish care\n")
    assert "blue nail polish Beauty > Care" in choice
    assert "But you took: blue nail polish" in taste and "I guess" in taste
    assert "You are: blue nail polish" in fan
    assert "who likes: blue nail polish" in fan  # the user's new memory: preferences travel


@pytest.mark.parametrize("text", ["", "the the the", "I am a large language model of great help", "nail"])
def test_poor_reflections_fall_back_to_words(text):
    memories = learn(environment(), train(), Scripted(wrong, text, text), CONFIG, 0)
    assert memories.users == {0: "blue red nail polish beauty care"}
    assert memories.items == {1: "blue red nail polish beauty care"}


def test_memories_are_bounded_and_clean():
    long = "nail polish <|eot_id|>\nred blue nail polish and so on"
    memories = learn(environment(), train(), Scripted(wrong, long, long), CONFIG, 0)
    assert memories.users[0] == "nail polish red blue nail polish"


def test_what_an_item_has_learned_is_told_to_the_next_user():
    """A second user meets the item: there the first one's taste has arrived (preference propagation)."""
    first, second = train()[0], doubles.episode(family="text_only", history=(0, 2))
    second = types.SimpleNamespace(**{**vars(second), "user": 1, "target_position": 1})
    generate = Scripted(wrong, "blue nail polish", "red nail polish")
    learn(environment(), [second, first], generate, CONFIG, 0)
    early, late = generate.prompts("I take ")  # shorter histories first
    assert "liked for" not in early
    assert "blue nail polish Beauty > Care; liked for: red nail polish" in late


def test_only_episodes_with_text_are_simulated_and_each_target_once():
    episodes = [*train("behavior_only"), *train("text_only"), *train("full"), *train(target=7)]
    assert len(agentcf.interactions(environment(), episodes, CONFIG, 0)) == 1
    none = types.SimpleNamespace(**{**vars(CONFIG), "interactions": 0})
    assert agentcf.interactions(environment(), episodes, none, 0) == []


def test_negatives_and_places_are_drawn():
    found = [agentcf.interactions(environment(), train(), CONFIG, seed)[0] for seed in range(40)]
    assert {one.other for one in found} == {3, 4, 6}
    assert {one.taken_first for one in found} == {True, False}
    assert {(one.user, one.taken) for one in found} == {(0, 1)}


def test_disjoint_keeps_each_agents_order():
    def meets(user, taken, other):
        return Interaction(user, taken, other, "", "", "", True)

    a, b, c, d = meets(0, 1, 2), meets(1, 2, 3), meets(2, 3, 4), meets(3, 5, 6)
    assert disjoint([a, b, c, d]) == ([a, d], [b, c])  # c waits for b, which waits for a
    assert disjoint([b, c]) == ([b], [c])


def always(history, max_new):
    return True


MEMORIES = Memories({0: "LEARNED TASTE"}, {1: "LEARNED FANS"})


@pytest.mark.parametrize("family", FAMILIES)
def test_masks(family):
    """Text: what an agent begins with. Behavior: what it has learned. Images: nothing AgentCF could use."""
    env, episode = environment(summaries="none"), doubles.episode(family=family)
    bare, shown = env.reset(episode)[1][1].content, remind(env, episode, MEMORIES, 6, 6)[1].content
    text, _, behavior = FAMILIES[family]
    assert shown.startswith(bare)
    added = shown.removeprefix(bare)
    assert ("blue nail polish Beauty" in added) == text
    assert ("LEARNED TASTE" in added) == ("LEARNED FANS" in added) == behavior
    assert ("u likes: red nail polish" in added) == (text and not behavior)
    assert (added == "") == (not text and not behavior)


def test_learned_words_need_titles_where_text_is_missing():
    episode = doubles.episode(family="behavior_only")
    assert "LEARNED" in remind(environment(), episode, MEMORIES, 6, 6)[1].content
    assert "LEARNED" not in remind(environment(graph_titles=False), episode, MEMORIES, 6, 6)[1].content
    full = doubles.episode()
    assert "LEARNED" in remind(environment(graph_titles=False), full, MEMORIES, 6, 6)[1].content


def test_the_target_changes_no_prompt():
    env = environment()
    prompts = {remind(env, doubles.episode(target=target), MEMORIES, 6, 6) for target in (1, 3, 4)}
    assert len(prompts) == 1


def test_plays_one_turn_of_scoring():
    env, generate = environment(), Scripted()
    episodes = [doubles.episode(family=family) for family in ("text_only", "image_only")]
    trajectories = agentcf.play(env, episodes, Memories(), generate, always, CONFIG)
    for trajectory in trajectories:
        assert trajectory.stop_reason == "scored"
        np.testing.assert_array_equal(trajectory.scores, [3, 9, np.nan, np.nan])
        assert diagnose(trajectory)["turns"] == 1 and diagnose(trajectory)["evidence_calls"] == 0
        assert trajectory.prompt in [history[:2] for history, _ in generate.asked]
    assert "u likes" in trajectories[0].prompt[1].content and "u likes" not in trajectories[1].prompt[1].content
    assert {max_new for _, max_new in generate.asked} == {env.budget(4).scores}


def test_memories_are_cut_to_what_the_context_has_room_for():
    """First the candidates' words, of all alike, then the user's; what has none left has no line."""
    env, episode = environment(), train()[0]
    bare = len(env.reset(episode)[1][1].content)
    told = {}
    for room in (1000, 120, 40, 20, 0):

        def fits(history, max_new, room=room):
            assert (history[-1].content, max_new) == (agentcf.OPENING, env.budget(4).scores)
            return len(history[1].content) <= bare + room

        [trajectory] = agentcf.play(env, [episode], MEMORIES, Scripted(), fits, CONFIG)
        told[room] = trajectory.prompt[1].content[bare:].split("\n")[1:]
    assert told[1000] == [
        "u likes: red nail polish care",
        "1 is: hair dryer Beauty > Care good",
        "2 is: blue nail polish Beauty > Care",
        "4 is: face cream Beauty > Care good",
    ]
    assert told[120] == [told[1000][0], *(" ".join(line.split()[:6]) for line in told[1000][1:])]
    assert told[40] == told[1000][:1]
    assert told[20] == ["u likes: red nail"]
    assert told[0] == []


def test_what_items_have_learned_is_cut_like_what_they_say():
    prompt = remind(environment(), doubles.episode(), MEMORIES, 6, 1)[1].content
    assert "u likes: LEARNED TASTE\n" in prompt and "\n2 is: blue; liked for: LEARNED\n" in prompt


def test_junk_is_a_malformed_terminal():
    junk = Scripted(scores="blah\nblah")
    [trajectory] = agentcf.play(environment(), train(), Memories(), junk, always, CONFIG)
    assert (trajectory.stop_reason, trajectory.rewards) == ("malformed_terminal", [-0.2])
    assert np.isnan(trajectory.scores).all()


def test_plays_without_any_text():
    env = Environment(doubles.Evidence(graph=doubles.GraphDouble(), search_graph=doubles.search_graph), Options())
    assert learn(env, train("behavior_only"), Scripted(), CONFIG, 0) == Memories()
