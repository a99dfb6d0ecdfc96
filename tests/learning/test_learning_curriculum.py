"""The curriculum's documents, their answers worked out again from their texts."""

import json
import re

import numpy as np
import pytest

from mma_jax.envs.actions import parse
from mma_jax.envs.options import Options
from mma_jax.envs.prompts import system_message
from mma_jax.envs.tools import toolbox
from mma_jax.envs.tools.schema import handles
from mma_jax.learning import curriculum, vocabulary
from mma_jax.learning.curriculum import SKILLS, TOPICS, Stage

FINAL = Stage(1.0, 0.7)
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
        answer, scored = json.loads(document[-2].text), json.loads(document[-1].text)
        assert list(scored["args"]["scores"].values()) == expected(answer)
        assert list(scored["args"]["scores"]) == list(answer["items"])


@pytest.mark.parametrize("skill", ["scoring", "taken", "schema"])
def test_a_catalogs_words_stand_where_those_without_synonyms_would(skill):
    catalog = ("film", "1995", "noir", "war", "k9", "love", "heat", "ransom", "vertigo", "psycho", "twister")
    stage = Stage(1.0, 0.0, catalog)
    plain = {topic[0] for topic in TOPICS if len(topic) == 1}
    found = {w for d in documents(skill, stage=stage) for said in d for w in re.findall(r"\w+", said.text.lower())}
    assert found >= set(catalog)
    looks = {word for topic in curriculum.ATTRIBUTES.values() for word in topic}  # tags, whatever the catalog
    system = set(re.findall(r"\w+", system_message(Options(interactive=True), toolbox(Options())).lower()))
    said = {"title", "description", "category", "profile", "items", "call", "read", "text", "image", "for"}
    assert not (found & plain) - looks - system - said - set(catalog)


def test_lookup_shows_what_it_asks_for():
    for answer, scored in documents("lookup"):
        numbers = [int(n) for n in re.findall(r',"score":(\d+)', answer.text)]
        assert list(json.loads(scored.text)["args"]["scores"].values()) == numbers
        shown = [t for t in answer.thoughts if t.kind == curriculum.HANDLE and answer.text[t.at].isdigit()]
        assert [t.number for t in shown] == list(range(1, len(numbers) + 1))


def test_numbers_of_synonyms_count_for_each_other():
    met = 0
    for document in documents("scoring"):
        answer = json.loads(document[-2].text)
        known = {w for f in answer["profile"].values() if isinstance(f, dict) for w in f}
        weight = weights(answer["profile"])
        met += sum(weight.get(MEANING[w], 0) > 0 and w not in known for e in answer["items"].values() for w in words(e))
    assert met > 50


def test_thoughts_are_what_a_reader_would_count():
    """Every thought, from the text before it alone."""
    for [said] in documents("reading"):
        weight = weights(json.loads(said.text)["profile"])
        items = said.text.index('"items":')
        for thought in said.thoughts:
            if thought.kind == curriculum.OWNER:
                assert re.search(r'"\w+":\d+$', said.text[: thought.at + 1]) and thought.at < items
                continue
            read = said.text[: thought.at + 1]
            begun = list(re.finditer(r'"(\d+)":[{\[]', read[items:]))[-1]
            found = [w for w in re.findall(r"\w+", read[items + begun.end() :]) if w in MEANING]
            values = [weight.get(MEANING[w], 0) for w in found]
            answers = {
                curriculum.WORD: curriculum.level(values[-1]),
                curriculum.SUM: curriculum.level(sum(values)),
                curriculum.TOTAL: curriculum.level(sum(values)),
                curriculum.HANDLE: int(begun[1]),
            }
            assert thought.number == answers[thought.kind]


def test_every_number_of_a_profile_has_an_owner():
    for [said] in documents("match"):
        numbers = len(re.findall(r'":\d', said.text.partition("\n")[0]))
        assert numbers == sum(thought.kind == curriculum.OWNER for thought in said.thoughts) > 0


def test_match_names_every_word_once():
    for [said] in documents("match"):
        named = [MEANING[word] for word in re.findall(r" ([a-z]+) \d", said.text.partition("\n")[2])]
        assert len(named) == len(set(named)) == sum(thought.kind == curriculum.WORD for thought in said.thoughts)


def test_every_entry_ends_with_its_total():
    for [said] in documents("reading"):
        totals = [t.number for t in said.thoughts if t.kind == curriculum.TOTAL]
        assert totals == expected(json.loads(said.text))


def test_taken_levels_follow_counts_and_mentions():
    for document in documents("taken"):
        answer, scored = json.loads(document[-2].text), json.loads(document[-1].text)["args"]["scores"]
        for handle, number in answer["taken"].items():
            near = sum(handle in n["near"] for n in answer["neighbors"])
            assert scored[handle] == min(9, curriculum.level(number) + 2 * min(near, 2))


@pytest.mark.parametrize("skill", ["schema", "lookup", "scoring", "taken"])
def test_actions_are_valid_in_the_environment(skill):
    tools = toolbox(Options(interactive=True))
    for document in documents(skill):
        assert parse(document[-1].text, tools, handles(30)).error == ""


def test_no_document_goes_on_from_a_call_to_a_score():
    """The routing is what SFT and PPO teach: pre-training must not show it."""
    for skill in SKILLS:
        for document in documents(skill):
            assert sum(said.role == "assistant" for said in document) <= 1


def test_the_environment_s_own_texts_are_few_tokens():
    """The system message, 20 candidate lines and a score map in the order of ten tokens a candidate."""
    sentences = [piece for piece in vocabulary.symbols() if len(piece) > 40]
    message = system_message(Options(), toolbox(Options())).lower().replace(" ", "\u2581")
    assert sum(len(piece) for piece in sentences if piece in message) > 0.7 * len(message)
