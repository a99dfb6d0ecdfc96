"""Nothing of the future reaches what is learned from, and nothing of the answer what is read (DESIGN §5.1, §6).

`tests/leakage.py` makes the shops and knows what training reads; baselines are held to the same by its `assert_blind`.
"""

import dataclasses

import numpy as np
import pytest
from leakage import CANARY, ITEMS, assert_blind, colors, episodes, evidence, prompt, shop, training, twins
from scipy.stats import chisquare

from mma_jax.agents.registry import METHODS, Context
from mma_jax.agents.routers import action
from mma_jax.data.histories import Histories
from mma_jax.evaluation.experiment import Experiment
from mma_jax.features import text
from mma_jax.types import TEST


@pytest.fixture(scope="module")
def held_out(tmp_path_factory):
    """Alike up to the end of the training part."""
    return twins(tmp_path_factory.mktemp("held_out"))


@pytest.fixture(scope="module")
def test_only(tmp_path_factory):
    """Alike up to the end of validation."""
    return twins(tmp_path_factory.mktemp("test_only"), since=0.9)


@pytest.fixture(scope="module")
def canary(tmp_path_factory):
    """A shop whose canary item is taken in the test part alone."""
    made = shop(tmp_path_factory.mktemp("canary"), 0, canary=True)
    taken = made.parts[made.dataset.interactions.item == ITEMS - 1]
    assert len(taken) > 5 and (taken == TEST).all()
    return made


def changed(pair, directory, key, value):
    """The same shops with another setting."""
    configs = [made.config.copy_and_resolve_references() for made in pair]
    for config in configs:
        config.update_from_flattened_dict({key: value})
    return tuple(Experiment(config, directory / str(number), colors) for number, config in enumerate(configs))


def test_evidence_knows_nothing_held_out(held_out):
    assert_blind(held_out, evidence)


def test_training_knows_nothing_held_out(held_out):
    assert_blind(held_out, training)


def test_what_negatives_are_matched_to_knows_nothing_held_out(held_out, tmp_path):
    pair = changed(held_out, tmp_path, "pool.negatives", "popularity")
    assert_blind(pair, lambda made: training(made) | {"density": made._density})
    thinned = [len(query.absent) for query in pair[0].sampled("train").queries]
    assert len(thinned) > 20 and min(thinned) > 0


def test_validation_knows_nothing_of_the_test_part(test_only):
    assert_blind(test_only, lambda made: evidence(made) | training(made) | episodes(made, "valid"))


def test_held_out_interactions_do_reach_test_episodes(held_out):
    with pytest.raises(AssertionError, match="ooma pool"):
        assert_blind(held_out, lambda made: episodes(made, "test"))


def test_the_check_finds_evidence_from_all_parts(held_out, tmp_path):
    leaky = changed(held_out, tmp_path, "evidence.parts", "all")
    with pytest.raises(AssertionError, match="graph popularity"):
        assert_blind(leaky, evidence)


def test_the_check_finds_negatives_that_know_the_future(held_out, tmp_path, monkeypatch):
    """A training pool without what its user likes later would tell of it."""
    known = Histories.known
    monkeypatch.setattr(Histories, "known", lambda self, user, part=TEST: known(self, user))
    leaky = tuple(Experiment(m.config, tmp_path / str(n), colors) for n, m in enumerate(held_out))
    with pytest.raises(AssertionError, match="ooma pool"):
        assert_blind(leaky, episodes)


def test_negatives_leave_out_what_is_liked_up_to_the_part(held_out):
    made = held_out[0]
    log = made.dataset.interactions
    for part, code in (("train", 1), ("valid", 2), ("test", 3)):
        for e in made.episodes(part, "ooma"):
            own = log.item[(log.user == e.user) & (made.parts <= code)]
            assert not set(own.tolist()) & set(e.case.pool[e.case.pool != e.target].tolist())


def test_a_word_of_the_future_weighs_nothing(canary):
    """The store lists every word that an item shows, for candidates must be readable; none of its weights knows it."""
    for part in ("train", "test"):
        view = canary.view(part)
        assert not view.in_training[ITEMS - 1] and not view.graph.has[ITEMS - 1]
        assert view.graph.popularity[ITEMS - 1] == 0 and not (view.graph.neighbors == ITEMS - 1).any()
        assert not view.text.idf[:, view.text.vocabulary.index(CANARY)].any()
        assert not view.bm25.scores([[CANARY, f"{CANARY}s"]]).any()
        blank = {name: (*getattr(canary.dataset.catalog, name)[:-1], "") for name in ("title", "description")}
        without = text.build(dataclasses.replace(canary.dataset.catalog, **blank), view.in_training)
        rows = [view.text.vocabulary.index(word) for word in without.vocabulary]
        np.testing.assert_array_equal(view.text.idf[:, rows], without.idf)


@pytest.mark.parametrize("part", ["train", "valid"])
def test_a_word_of_the_future_stays_out_of_what_is_read(canary, part):
    """Of profiles, neighbors and prompts, save as the text of the item itself where it is a candidate."""
    view, read = canary.view(part), 0
    for protocol in ("ooma", "lomo", "full_catalog"):
        env = canary.environment(part, protocol)
        for e in canary.episodes(part, protocol):
            assert CANARY not in str(view.text.profile(e.case.history)) and ITEMS - 1 not in e.case.history
            state, _ = env.reset(e)
            said = prompt(env, e)
            for tool, argument in (("Analyze_Text", {"item_id": "all"}), ("Retrieve_Graph", {"user_id": "u"})):
                state, observation, *_ = env.step(state, action(tool, **argument))
                said += observation
            read += len(said)
            assert CANARY not in said or ITEMS - 1 in e.case.pool
    assert read


def permuted(episode, shift):
    """The same pool with another of its candidates as the answer."""
    pool = episode.case.pool
    return dataclasses.replace(episode, target=int(pool[(episode.target_position + shift) % len(pool)]))


@pytest.mark.parametrize("protocol", ["ooma", "lomo"])
def test_another_target_changes_nothing_that_is_read(held_out, protocol):
    env = held_out[0].environment("test", protocol)
    calls = [action("Analyze_Text", item_id="all"), action("Retrieve_Graph", user_id="u"), "nonsense"]
    for n, e in enumerate(held_out[0].episodes("test", protocol)):
        states = [env.reset(one)[0] for one in (e, permuted(e, 1 + n % 9))]
        assert prompt(env, e) == prompt(env, permuted(e, 1 + n % 9))
        for call in calls:
            steps = [env.step(state, call) for state in states]
            assert steps[0][1:4] == steps[1][1:4]
            states = [step[0] for step in steps]


SCRIPTED = [name for name, m in METHODS.items() if not (m.needs_language_model or m.needs_world or m.randomness)]


@pytest.mark.parametrize("name", [name for name in SCRIPTED if not METHODS[name].asks])
def test_another_target_changes_no_method(held_out, name):
    """Fitted on training episodes as they are, judged on test pools whose answer is another candidate."""
    made = held_out[0]
    context = Context(name, made.environment("train", "ooma"), made.fit_episodes("ooma"), {}, None, 0, 64)
    play = METHODS[name].make(context)
    test = made.episodes("test", "ooma")[::3]
    first, second = (
        play(made.environment("test", "ooma"), members) for members in (test, [permuted(e, 3) for e in test])
    )
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.scores, b.scores)
        assert [turn.text for turn in a.turns] == [turn.text for turn in b.turns]


def test_the_order_of_candidates_is_no_sign(held_out):
    """Where the target stands among the handles is uniform, and so is where the first stage's best stands."""
    made = held_out[0]
    found = [e for part in ("train", "valid", "test") for e in made.episodes(part, "ooma")]
    one_each = {e.episode_id.split(":")[2]: e for e in found}.values()  # families of a target share their shuffle
    size = made.config.pool.size
    for places in ([e.target_position for e in one_each], [int(np.argmin(e.case.ranks)) for e in one_each]):
        assert chisquare(np.bincount(places, minlength=size)).pvalue > 0.001
