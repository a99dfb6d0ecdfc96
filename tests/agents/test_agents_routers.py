"""Scripted policies on the hand-made evidence: their routes, their scores, and what they earn."""

import doubles
import numpy as np
import pytest

from mma_jax.agents import overlap, routers
from mma_jax.agents.notes import read
from mma_jax.agents.rollout import play
from mma_jax.envs.environment import Environment, Options
from mma_jax.envs.evidence import Evidence
from mma_jax.features.text import tokenize
from mma_jax.types import FAMILIES, Message


def tools(policy, family, **options):
    env = Environment(doubles.evidence(), Options(context=8192, **options))
    [trajectory] = play(policy, env, [doubles.episode(family=family)], batch=4)
    assert trajectory.stop_reason in ("scored", "turn_limit")
    return [turn.tool for turn in trajectory.turns], trajectory


FUSE = routers.rule_router(overlap.fused)
STOP = routers.router(routers.until_first_success, overlap.fused)
PEEK = routers.router(routers.peeked, overlap.fused)
TEXT, GRAPH, IMAGE, SCORE = "Analyze_Text", "Retrieve_Graph", "Analyze_Image", "Score_Candidates"


@pytest.mark.parametrize(
    ("most", "named"), [(None, "all"), (4, ["1", "2", "3", "4"]), (9, ["1", "2", "3", "4"]), (1, "1")]
)
def test_a_probe_names_the_pool_in_a_way_the_environment_takes(most, named):
    _, trajectory = tools(STOP, "text_only", max_items=most)
    assert trajectory.turns[0].error == "" and trajectory.turns[0].args == {"item_id": named}


@pytest.mark.parametrize("family", FAMILIES)
def test_fuse_probes_everything_once(family):
    assert tools(FUSE, family)[0] == [TEXT, GRAPH, IMAGE, SCORE]


@pytest.mark.parametrize(
    ("family", "route"),
    [
        ("text_only", [TEXT, SCORE]),
        ("behavior_only", [TEXT, GRAPH, SCORE]),
        ("image_only", [TEXT, GRAPH, IMAGE, SCORE]),
        ("full", [TEXT, SCORE]),
    ],
)
def test_stop_at_first_success(family, route):
    assert tools(STOP, family)[0] == route


@pytest.mark.parametrize(
    ("family", "route"),
    [
        ("text_only", [TEXT, SCORE]),
        ("behavior_only", [GRAPH, SCORE]),
        ("image_only", [IMAGE, SCORE]),
        ("cold_user", [TEXT, IMAGE, SCORE]),
    ],
)
def test_peek_reads_the_mask_off_the_summaries(family, route):
    assert tools(PEEK, family)[0] == route
    assert tools(PEEK, family, summaries="none")[0] == [TEXT, GRAPH, IMAGE, SCORE]


def test_expert_switches_after_null_and_gives_reasons():
    route, trajectory = tools(routers.expert(overlap.fused), "image_only", summaries="none")
    assert route == [TEXT, GRAPH, IMAGE, SCORE]
    assert [turn.null for turn in trajectory.turns] == [True, True, False, False]
    assert "Null" in trajectory.turns[1].text.splitlines()[0]


def test_asking_follows_the_evidence_that_answered():
    route, trajectory = tools(routers.asking(overlap.fused), "image_only", interactive=True)
    assert route == [TEXT, GRAPH, IMAGE, "Ask_User", SCORE]
    assert trajectory.turns[3].args["modality_type"] == "image"


def test_overlap_scores_by_hand():
    """History: red nail polish, lip balm. Pool: hair dryer, blue nail polish, an item without text, face cream."""
    _, trajectory = tools(FUSE, "text_only")
    notes = heard(trajectory)
    # every text shares "care" of the category; item 1 shares "nail" and "polish" as well
    lexical = overlap.lexical(notes)
    words = [len(set(tokenize(overlap.candidate_text(notes, n)))) for n in range(4)]
    np.testing.assert_allclose(lexical[[0, 1, 3]], [1 / words[0] ** 0.5, 3 / words[1] ** 0.5, 1 / words[3] ** 0.5])
    assert lexical[2] == 0
    assert np.argmax(overlap.fused(notes)) == 1
    assert trajectory.scores[1] == overlap.fused(notes)[1] == 1.0


def heard(trajectory):
    """What the agent had in front of it when it scored."""
    history = trajectory.prompt
    for turn in trajectory.turns[:-1]:
        history = (*history, Message("assistant", turn.text), Message("tool", turn.observation))
    return read(history)


def test_tags_that_no_answer_gives_are_read_off_the_summaries():
    """With one item to a call (the paper) the others' tags stand in the prompt alone: the same, and the same scores."""

    def notes(most):
        env = Environment(doubles.evidence(), Options(context=8192, max_items=most))
        [trajectory] = play(FUSE, env, [doubles.episode(family="image_only", pool=(3, 1, 5, 6))], batch=4)
        return heard(trajectory)

    one, every = notes(1), notes(None)
    assert overlap.candidate_tags(one, 1) == list(doubles.TAGS[1]) == overlap.candidate_tags(every, 1)
    assert sum(len(overlap.candidate_tags(one, n)) for n in range(4)) == 15  # and the item without a picture has none
    np.testing.assert_array_equal(overlap.tags(one), overlap.tags(every))
    assert len(set(overlap.tags(one))) > 1


def test_words_are_split_as_the_profile_s_are():
    """Two neighbors of a run of Chinese are a word, and marks belong to their letters, as in `features.text`."""
    titles = ("红色手表", "红色手环", "cafe\u0301 cup", "hair dryer", "", "eye liner", "face cream", "sun screen")

    class Text(doubles.TextDouble):
        def profile(self, history):
            return {"title": {"红色": 2, "café": 1}, "category": {}, "description": {}}

    env = Environment(Evidence(Text(titles)), Options(context=8192))
    [trajectory] = play(FUSE, env, [doubles.episode("text_only", pool=(0, 1, 2, 3))], batch=4)
    scores = overlap.lexical(heard(trajectory))
    assert (scores[:3] > 0).all() and scores[3] == 0


def test_rule_11_exploiters_earn_less_than_an_expert_where_evidence_decides():
    """The target is the candidate that shares the user's words and stands last in the first stage (DESIGN §6.11)."""
    env = Environment(doubles.evidence(), Options(context=8192, alpha=0.3))
    episode = doubles.episode(family="text_only", pool=(3, 4, 6, 1), target=1, scores=[1.0, 0.6, 0.3, 0.2])

    def earned(policy):
        [trajectory] = play(policy, env, [episode], batch=1)
        return sum(trajectory.rewards)

    expert = earned(routers.expert(overlap.fused))
    assert expert == pytest.approx(1 - 0.02)
    for exploit in (routers.score_at_once, routers.spam_invalid, routers.repeat_null):
        assert earned(routers.repeat(exploit)) < expert - 0.2
