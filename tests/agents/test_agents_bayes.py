"""The Bayes scorer knows the pool rule: without evidence its posterior is exactly what the rule says."""

import dataclasses
import types

import doubles
import numpy as np
import pytest

from mma_jax.agents import bayes
from mma_jax.data.world import DEFAULT, World
from mma_jax.envs.environment import Environment, Options
from mma_jax.types import FAMILIES, Case, Episode

NOTHING = (False, False, False)
RULE = np.array([0.4, 0.3, 0.2, 0.1])


@pytest.fixture(scope="module")
def world():
    return World(dataclasses.replace(DEFAULT, n_items=60))


def posterior(world, scores=(1.0, 0.6, 0.3, 0.0), rule=RULE, **changes):
    ranks = np.argsort(np.argsort(-np.array(scores), kind="stable"), kind="stable").astype(np.int32) + 1
    case = Case(np.arange(4, dtype=np.int32), np.array(scores, np.float32), ranks, np.array([9, 12], np.int32), NOTHING)
    episode = Episode("e", case, 0, 2, "text_only", "ooma", recalled=True)
    episode = dataclasses.replace(episode, **changes)
    return bayes.posterior(world, {"text_only": rule}, [episode], NOTHING)[0]


def test_a_natural_pool_says_nothing(world):
    np.testing.assert_allclose(posterior(world), 0.25)
    np.testing.assert_allclose(posterior(world, recalled=False, protocol="full_catalog"), 0.25)


def test_an_inserted_target_says_what_the_ranks_were_drawn_from(world):
    np.testing.assert_allclose(posterior(world, recalled=False, inserted=True), RULE)
    tied = posterior(world, (1.0, 0.5, 0.5, 0.0), recalled=False, inserted=True)
    np.testing.assert_allclose(tied, [0.4, 0.25, 0.25, 0.1])


def test_a_paper_pool_gives_the_inserted_target_away(world):
    last = np.array([0, 0, 0, 1.0])
    np.testing.assert_allclose(posterior(world, rule=last, recalled=False, inserted=True), last)
    tied = posterior(world, (1.0, 0.5, 0.0, 0.0), last, recalled=False, inserted=True)
    np.testing.assert_allclose(tied, [0, 0, 0.5, 0.5])


def test_values_cover_every_evidence_within_the_mask(world):
    case = Case(
        np.arange(4, dtype=np.int32),
        np.array([1, 0.6, 0.3, 0], np.float32),
        np.arange(1, 5, dtype=np.int32),
        np.array([9, 12], np.int32),
        (True, False, True),
    )
    table = bayes.values(world, {}, [Episode("e", case, 0, 2, "no_image", "lomo", True)])
    assert set(table) == {(case.mask, (t, False, b)) for t in (False, True) for b in (False, True)}
    assert table[(case.mask, NOTHING)] == min(table.values())


@pytest.mark.parametrize(
    ("options", "route"),
    [
        ({"summary_tokens": 16}, ["Analyze_Text", "Score_Candidates"]),
        ({"summary_tokens": 2}, ["Analyze_Text", "Analyze_Image", "Score_Candidates"]),
        ({"summaries": "none"}, ["Analyze_Text", "Analyze_Image", "Score_Candidates"]),
    ],
)
def test_the_optimal_router_knows_of_the_mask_what_the_prompt_shows(options, route, monkeypatch):
    """Only text survives, and a summary of two tokens says no more than that text does: so an image may be there."""
    families = ("text_only", "cold_user")
    table = {
        (FAMILIES[family], evidence): 0.2 * sum(evidence)
        for family in families
        for evidence in np.ndindex(2, 2, 2)
        if all(m or not e for m, e in zip(FAMILIES[family], evidence, strict=True))
    }
    monkeypatch.setattr(bayes, "values", lambda *_: table)
    monkeypatch.setattr(bayes, "posterior", lambda *_: np.full((1, 4), 0.25))
    train = [doubles.episode(family=family) for family in families]
    context = types.SimpleNamespace(train=train, world=None, distributions={})
    env = Environment(doubles.evidence(), Options(context=8192, **options))
    [trajectory] = bayes.optimal_router(context)(env, train[:1])
    assert [turn.tool for turn in trajectory.turns] == route
