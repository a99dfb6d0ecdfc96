"""The curriculum's documents, their answers worked out again from their texts."""

import json

import numpy as np
import pytest

from mma_jax.envs.actions import parse
from mma_jax.envs.environment import Environment
from mma_jax.envs.options import Options
from mma_jax.envs.tools import toolbox
from mma_jax.envs.tools.schema import handles
from mma_jax.learning import curriculum
from mma_jax.learning.curriculum import SKILLS, TOPICS, Stage

FINAL = Stage(1.0, 0.7, 0.9)
MEANING = {word: number for number, topic in enumerate(TOPICS) for word in topic}


def documents(skill, count=40, stage=FINAL):
    return [SKILLS[skill](np.random.default_rng(n), stage) for n in range(count)]


def weights(profile):
    """Meaning -> sum of its words' numbers."""
    fields = profile.values() if isinstance(next(iter(profile.values())), dict) else [profile]
    found = {}
    for field in fields:
        for word, number in field.items():
            found[MEANING[word]] = found.get(MEANING[word], 0) + number
    return found


def words(entry):
    return entry if isinstance(entry, list) else " ".join(entry.values()).replace(",", "").split()


def expected(answer):
    """Level of every entry, by a plain sum."""
    weight = weights(answer["profile"])
    return [curriculum.level(sum(weight.get(MEANING[w], 0) for w in words(e))) for e in answer["items"].values()]


def test_every_word_has_one_meaning():
    assert len(MEANING) == sum(map(len, TOPICS))


def test_level_is_exact_for_small_sums_and_grows():
    assert [curriculum.level(n) for n in range(5)] == [0, 1, 2, 3, 4]
    assert [curriculum.level(n) for n in (5, 6, 10, 11, 100)] == [4, 5, 6, 7, 9]


def test_scoring_answers_are_sums_over_meanings():
    for document in documents("scoring"):
        answer, scored = json.loads(document[-2][1]), json.loads(document[-1][1])
        assert list(scored["args"]["scores"].values()) == expected(answer)
        assert list(scored["args"]["scores"]) == list(answer["items"])


def test_numbers_of_synonyms_count_for_each_other():
    met = 0
    for document in documents("scoring"):
        answer = json.loads(document[-2][1])
        known = {w for f in answer["profile"].values() if isinstance(f, dict) for w in f}
        weight = weights(answer["profile"])
        met += sum(weight.get(MEANING[w], 0) > 0 and w not in known for e in answer["items"].values() for w in words(e))
    assert met > 50


def test_match_writes_the_level_behind_every_word():
    for [(role, text)] in documents("match"):
        assert role == "drill"
        profile, _, stream = text.partition("\n")
        weight, tokens = weights(json.loads(profile)["profile"]), stream.split()
        for word, number in zip(tokens[::2], tokens[1::2], strict=True):
            assert int(number) == curriculum.level(weight.get(MEANING[word], 0))


def test_taken_levels_follow_counts_and_mentions():
    for document in documents("taken"):
        answer, scored = json.loads(document[-2][1]), json.loads(document[-1][1])["args"]["scores"]
        for handle, number in answer["taken"].items():
            near = sum(handle in n["near"] for n in answer["neighbors"])
            assert scored[handle] == min(9, number // 10 + 2 * min(near, 2))


@pytest.mark.parametrize("skill", ["schema", "lookup", "scoring", "taken"])
def test_actions_are_valid_in_the_environment(skill):
    tools = toolbox(Options(interactive=True))
    for document in documents(skill):
        assert parse(document[-1][1], tools, handles(30)).error == ""


def test_no_document_goes_on_from_a_call_to_a_score():
    """The routing is what SFT and PPO teach: pre-training must not show it."""
    for skill in SKILLS:
        for document in documents(skill):
            assert sum(role == "assistant" for role, _ in document) <= 1


def test_symbols_are_what_the_environment_writes():
    said = " ".join(piece for piece in curriculum.symbols()).lower()
    assert "rerank" in said and Environment is not None
