"""Regret by its parts: by hand, as an identity, against Bayes in a small world, and with a fitted reference."""

import dataclasses

import doubles
import numpy as np
import pytest

from mma_jax.agents import bayes, overlap, routers
from mma_jax.agents.rollout import judged, play
from mma_jax.data.world import DEFAULT, World
from mma_jax.envs.environment import Environment, Options
from mma_jax.evaluation import regret
from mma_jax.evaluation.judge import choose_alpha, episode_rows
from mma_jax.evaluation.results import Cell
from mma_jax.types import FAMILIES, Case, Episode, Message, Trajectory, Turn

CELL = Cell("d", "ooma", "A", 0)
PROMPT = (Message("system", ""), Message("user", ""))
TOOLS = {"text": "Analyze_Text", "image": "Analyze_Image", "behavior": "Retrieve_Graph"}
STEP = 0.05


def call(modality, null=False, error=""):
    return Turn("", TOOLS[modality], {}, "Null" if null else "{}", -0.02, error, null)


def trajectory(n, agent, heard=(), target=0, family="text_only", first=(1.0, 0.5, 0.0), user=None, history=(), **also):
    pool = also.pop("pool", np.arange(len(first), dtype=np.int32))
    ranks = np.arange(1, len(first) + 1, dtype=np.int32)
    case = Case(pool, np.array(first, np.float32), ranks, np.array(history, np.int32), FAMILIES[family])
    item = int(pool[target]) if target >= 0 else 10_000
    episode = Episode(f"e{n}", case, n if user is None else user, item, family, "ooma", True, **also)
    turns = tuple(call(modality) for modality in heard)
    return Trajectory(episode, PROMPT, turns, "scored", np.array(agent, float))


def gain(rank):
    return 1 / np.log2(1 + rank)


def test_every_part_by_hand():
    """Three candidates with s0 = 1, .5, 0; the target is the third in the first two episodes, absent in the last."""
    played = [
        trajectory(0, [0, 1, 0.9], heard=["text"], target=2),
        trajectory(1, [1, 0.5, 0], target=2),
        trajectory(2, [1, 0, 0], target=-1),
    ]
    everything = np.array([[0, 0, 1], [0, 1, 0.5], [0, 0, 1]], float)
    raw = np.array([[9, 9, 9], [0, 0, 0], [0, 0, 0]], float)  # a constant carries no order: the first stage remains

    parts = regret.split(played, 0.5, lambda _: (everything, raw), np.linspace(0, 1, 21))
    np.testing.assert_allclose(parts["retrieval"], [0, 0, 1])
    np.testing.assert_allclose(parts["uncertainty"], [0, 1 - gain(2), 0])
    # the first episode heard all that survives, so what is heard is everything; the second has the first stage only
    np.testing.assert_allclose(parts["routing"], [0, gain(2) - gain(3), 0])
    # at alpha 0 its own scores put the target second; at alpha .5 fused to .5, .75, .45 it is third
    np.testing.assert_allclose(parts["scoring"], [1 - gain(2), 0, 0])
    np.testing.assert_allclose(parts["fusion"], [gain(2) - gain(3), 0, 0])
    np.testing.assert_allclose(parts["achieved"], [gain(3), gain(3), 0])


def random_played(rng, count=60):
    played = []
    for n in range(count):
        family = ("text_only", "no_image", "full")[n % 3]
        heard = [m for m, there in zip(TOOLS, FAMILIES[family], strict=True) if there and rng.random() < 0.6]
        first = np.sort(rng.random(20))[::-1]
        scores = np.where(rng.random(20) < 0.1, np.nan, rng.normal(size=20))
        target = int(rng.integers(-1, 20))
        played.append(trajectory(n, scores, heard, target, family, first, user=n // 2))
    return played


def test_parts_sum_to_what_is_lost_whatever_the_reference():
    rng = np.random.default_rng(0)
    played = random_played(rng)
    final, raw = rng.normal(size=(2, 60, 20))
    rows = regret.decompose(CELL, played, 0.35, lambda _: (final, raw), STEP)
    value = {(row["subset"], row["part"]): row["value"] for row in rows}
    judged_by = episode_rows(played, 0.35)
    for subset in ("all", "text_only", "no_image", "full"):
        mine = [row["ndcg@10"] for row in judged_by if subset in ("all", row["subset"])]
        assert value[subset, "achieved"] == pytest.approx(np.mean(mine))
        assert sum(value[subset, part] for part in regret.LOSSES) == pytest.approx(1 - np.mean(mine), abs=1e-12)
        three = sum(value[subset, part] for part in ("routing", "scoring", "fusion"))
        assert value[subset, "regret"] == pytest.approx(three, abs=1e-12)
        assert value[subset, "fusion"] >= 0  # alpha .35 lies on the grid of the oracle
        assert {row["n"] for row in rows if row["subset"] == subset} == {len(mine)}
    assert set(rows[0]) == {"dataset", "protocol", "method", "seed", "subset", "part", "value", "se", "n"}


def test_oracle_fusion_is_the_best_weight_of_each_family():
    played = random_played(np.random.default_rng(1))
    raw = np.stack([t.scores for t in played])
    final = regret.best_fusion(played, raw, np.linspace(0, 1, 21))
    for family in ("text_only", "no_image", "full"):
        members = [n for n, t in enumerate(played) if t.episode.family == family]
        mine = [played[n] for n in members]
        best = max(np.mean([r["ndcg@10"] for r in episode_rows(mine, a)]) for a in np.linspace(0, 1, 21))
        chosen = np.mean([r["ndcg@10"] for r in episode_rows(mine, choose_alpha(mine, STEP)[0])])
        inside = [dataclasses.replace(t, scores=s) for t, s in zip(mine, final[members], strict=True)]
        assert np.mean([r["ndcg@10"] for r in episode_rows(inside, 0.0)]) == pytest.approx(best) == chosen


def test_standard_errors_respect_clusters():
    rng = np.random.default_rng(2)
    values = rng.normal(size=40)
    alone = regret.clustered_error(values, np.arange(40))
    assert alone == pytest.approx(values.std(ddof=1) / np.sqrt(40))
    # every value twice, both of one user: nothing was learned by repeating
    assert regret.clustered_error(np.repeat(values, 2), np.repeat(np.arange(40), 2)) == pytest.approx(alone)
    assert np.isnan(regret.clustered_error(values, np.zeros(40)))


def test_what_counts_as_heard():
    turns = (
        call("text", null=True),
        call("image"),
        call("behavior", error="bad_args"),
        Turn("", "Ask_User", {"modality_type": "behavior"}, '{"answer":""}', -0.1, "", False),
        Turn("", "Score_Candidates", {"scores": {}}, "Scored.", 0.4, "", False),
    )
    base = trajectory(0, [1, 2, 3])
    assert regret.heard(dataclasses.replace(base, turns=turns)) == (False, True, True)
    assert regret.heard(dataclasses.replace(base, turns=turns[:3])) == (False, True, False)
    assert regret.heard(base) == (False, False, False)


def test_methods_that_are_not_played_have_no_route():
    table = [judged(trajectory(0, [1, 2, 3]).episode, np.zeros(3))]
    assert regret.decompose(CELL, table, 0.0, lambda _: (None, None), STEP) == []


@pytest.fixture(scope="module")
def world():
    return World(dataclasses.replace(DEFAULT, n_items=200))


def world_episodes(world, family, count=150):
    """Users of the world: eight earlier items, the ninth is the target among random negatives."""
    rng = np.random.default_rng(3)
    chosen = world.draw_choices(world.draw_preferences(count, rng), 9, rng)
    episodes = []
    for n, items in enumerate(chosen):
        others = np.setdiff1d(np.arange(200), items)
        pool = rng.permutation(np.append(rng.choice(others, 19, replace=False), items[8])).astype(np.int32)
        target = int(np.flatnonzero(pool == items[8])[0])
        first = np.linspace(1, 0, 20)
        episodes.append(trajectory(n, np.full(20, np.nan), (), target, family, first, history=items[:8], pool=pool))
    return episodes


@pytest.mark.parametrize("family", ["full", "text_only"])
def test_bayes_itself_has_no_regret_but_what_it_did_not_call_for(world, family):
    silent = world_episodes(world, family)
    mask = FAMILIES[family]
    episodes = [t.episode for t in silent]
    everything = np.log(bayes.posterior(world, {}, episodes, mask))
    calls = tuple(call(m) for m, there in zip(TOOLS, mask, strict=True) if there)
    reference = regret.bayes_reference(world, {})

    def parts(trajectories):
        rows = regret.decompose(CELL, trajectories, 0.0, reference, STEP)
        return {row["part"]: row["value"] for row in rows if row["subset"] == family}

    full = [dataclasses.replace(t, turns=calls, scores=s) for t, s in zip(silent, everything, strict=True)]
    found = parts(full)
    assert found["routing"] == 0 and found["retrieval"] == 0
    assert found["regret"] == pytest.approx(0, abs=1e-12)
    assert -0.03 < found["scoring"] <= 0  # what a weight chosen on these episodes can seem to add
    assert found["uncertainty"] == pytest.approx(1 - found["achieved"])

    quiet = parts(silent)
    # uniform beliefs leave the first stage, which is arbitrary here, and the agent gave no scores either
    assert quiet["routing"] > 0.15 and quiet["scoring"] == quiet["fusion"] == 0

    blind = [dataclasses.replace(t, turns=calls) for t in silent]
    assert parts(blind)["scoring"] == pytest.approx(quiet["routing"]) and parts(blind)["routing"] == 0


def test_hearing_some_of_what_survives_costs_some_routing(world):
    silent = world_episodes(world, "full")
    lost = []
    for heard in ((), ("text",), ("text", "behavior"), tuple(TOOLS)):
        played = [dataclasses.replace(t, turns=tuple(map(call, heard))) for t in silent]
        rows = regret.decompose(CELL, played, 0.0, regret.bayes_reference(world, {}), STEP)
        lost.append(next(row["value"] for row in rows if row["part"] == "routing"))
    assert lost == sorted(lost, reverse=True) and lost[-1] == 0 and lost[0] > lost[2] + 0.05


def doubles_env(**options):
    return Environment(doubles.evidence(), Options(context=8192, **options))


def doubles_episodes():
    families = ("text_only", "behavior_only", "full")
    return [
        dataclasses.replace(doubles.episode(target=target, family=family), episode_id=f"{family} {target}", user=target)
        for family in families
        for target in (3, 1, 4, 6)
    ]


def test_the_fitted_reference_has_no_regret_against_itself():
    env, episodes = doubles_env(), doubles_episodes()
    reference = regret.FittedReference(env, episodes, overlap.fused, 4, STEP)
    fuse = play(routers.rule_router(overlap.fused), env, episodes, 4)
    parts = regret.split(fuse, 0.0, reference, np.linspace(0, 1, 21))
    for name in ("routing", "scoring"):
        np.testing.assert_allclose(parts[name], 0, atol=1e-12)
    hasty = play(routers.repeat(routers.score_at_once), env, episodes, 4)
    parts = regret.split(hasty, 0.0, reference, np.linspace(0, 1, 21))
    np.testing.assert_allclose(parts["scoring"] + parts["fusion"], 0, atol=1e-12)  # it had but the first stage
    assert parts["routing"].sum() == pytest.approx(parts["regret"].sum())


def test_notes_join_the_answers_of_one_tool_and_survive_any_text():
    texts = [
        '{"tool":"Analyze_Text","args":{"item_id":"2"}',  # cut off
        'I think.\n{"tool":"Analyze_Text","args":{"item_id":"2"}}',
        '{"tool":"Analyze_Text","args":{"item_id":["1","4"]}}',
        '{"tool":"Analyze_Image","args":{"item_id":"1"}}',
    ]
    policy = lambda histories: [texts[(len(h) - 2) // 2] for h in histories]  # noqa: E731
    [played] = play(policy, doubles_env(turns=4), [doubles.episode(family="text_only")], 1)
    notes = regret.notes_of(played)
    [fuse] = play(routers.rule_router(overlap.fused), doubles_env(), [doubles.episode(family="text_only")], 1)
    whole = regret.notes_of(fuse)
    assert list(notes.got("text")["items"]) == ["2", "1", "4"]
    assert notes.got("text")["profile"] == whole.got("text")["profile"]
    assert all(notes.got("text")["items"][h] == whole.got("text")["items"][h] for h in "124")
    assert notes.got("image") is None
    np.testing.assert_allclose(overlap.fused(whole), fuse.scores, atol=1e-6)
