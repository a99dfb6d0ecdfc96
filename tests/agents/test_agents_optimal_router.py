import itertools

import numpy as np
import pytest

from mma_jax.agents.optimal_router import SCORE, plan
from mma_jax.envs.rewards import Costs
from mma_jax.types import FAMILIES, MODALITIES

EVIDENCE = list(itertools.product((False, True), repeat=3))


def random_values(rng, masks):
    """More evidence is worth more, with gains on the scale of the call costs."""
    gains = rng.uniform(0, 0.12, size=(8, 3))
    return {
        (mask, evidence): 0.2 + float(gains[EVIDENCE.index(mask)] @ np.array(evidence))
        for mask in masks
        for evidence in EVIDENCE
        if all(m or not e for m, e in zip(mask, evidence, strict=True))
    }


def all_trees(tools, turns):
    """Every deterministic policy: "score", or (tool, tree after Null, tree after evidence)."""
    yield SCORE
    if turns > 1:
        for tool in tools:
            rest = tools - {tool}
            for null, evidence in itertools.product(list(all_trees(rest, turns - 1)), repeat=2):
                yield tool, null, evidence


def earned(tree, mask, values, costs):
    evidence, reward = [False] * 3, 0.0
    while tree != SCORE:
        tool, null, found = tree
        reward += costs.tool
        evidence[tool] = mask[tool]
        tree = found if mask[tool] else null
    return reward + values[mask, tuple(evidence)]


def played(route, mask, values, costs):
    called, reward = {}, 0.0
    while (choice := route.next(called, mask)) != SCORE:
        assert choice not in called
        called[choice] = not mask[MODALITIES.index(choice)]
        reward += costs.tool
    return reward + values[mask, tuple(called.get(name) is False for name in MODALITIES)], len(called) + 1


@pytest.mark.parametrize("turns", [1, 2, 3, 8])
def test_hidden_mask_equals_the_best_of_all_policies(turns):
    rng = np.random.default_rng(turns)
    trees = list(all_trees(frozenset(range(3)), turns))
    assert len(trees) == {1: 1, 2: 4, 3: 28, 8: 244}[turns]
    for costs in (Costs(), Costs(tool=-0.05), Costs(tool=0.0)):
        values = random_values(rng, FAMILIES.values())
        route = plan(values, FAMILIES, costs, turns, revealed=0)
        best = max(np.mean([earned(tree, mask, values, costs) for mask in FAMILIES.values()]) for tree in trees)
        rewards, lengths = zip(*(played(route, mask, values, costs) for mask in FAMILIES.values()), strict=True)
        assert route.expected == pytest.approx(best, abs=1e-12)
        assert np.mean(rewards) == pytest.approx(best, abs=1e-12)
        assert max(lengths) <= turns


@pytest.mark.parametrize("turns", [1, 2, 8])
def test_revealed_mask_equals_the_best_set_of_tools(turns):
    rng, costs = np.random.default_rng(7), Costs()
    values = random_values(rng, FAMILIES.values())
    route = plan(values, FAMILIES, costs, turns, revealed=3)
    best = {
        mask: max(
            values[mask, tuple(m and c for m, c in zip(mask, calls, strict=True))] + sum(calls) * costs.tool
            for calls in EVIDENCE
            if sum(calls) < turns
        )
        for mask in FAMILIES.values()
    }
    assert route.expected == pytest.approx(np.mean(list(best.values())), abs=1e-12)
    for mask in FAMILIES.values():
        assert played(route, mask, values, costs)[0] == pytest.approx(best[mask], abs=1e-12)


@pytest.mark.parametrize("count", [1, 2])
def test_a_part_of_the_mask_equals_the_best_policies_of_those_that_look_alike(count):
    """A summary with room for one modality names text wherever it survives, so that says nothing of the others."""
    rng, costs, trees = np.random.default_rng(count), Costs(), list(all_trees(frozenset(range(3)), 8))
    alike = {}
    for mask in FAMILIES.values():
        named = [m for m, there in zip(MODALITIES, mask, strict=True) if there][:count]
        alike.setdefault(tuple(named), []).append(mask)
    assert len(alike) == {1: 3, 2: 6}[count]
    values = random_values(rng, FAMILIES.values())
    route = plan(values, FAMILIES, costs, 8, revealed=count)
    best = sum(max(sum(earned(tree, m, values, costs) for m in masks) for tree in trees) for masks in alike.values())
    assert route.expected == pytest.approx(best / len(FAMILIES), abs=1e-12)
    rewards = [played(route, mask, values, costs)[0] for mask in FAMILIES.values()]
    assert np.mean(rewards) == pytest.approx(route.expected, abs=1e-12)


def test_knowing_more_of_the_mask_never_hurts():
    rng = np.random.default_rng(0)
    for _ in range(20):
        values = random_values(rng, FAMILIES.values())
        expected = [plan(values, FAMILIES, Costs(), 8, revealed=count).expected for count in range(4)]
        assert (np.diff(expected) >= -1e-12).all()


def test_by_hand():
    """Two families, evidence worth .3: ask for text (.02); after Null the mask is known, so ask for the image."""
    families = {name: FAMILIES[name] for name in ("text_only", "image_only")}
    text, image, nothing = FAMILIES["text_only"], FAMILIES["image_only"], (False,) * 3
    values = {(text, nothing): 0.2, (image, nothing): 0.2, (text, text): 0.5, (image, image): 0.5}
    route = plan(values, families, Costs(tool=-0.02), turns=8, revealed=0)
    assert route.next({}, text) == route.next({}, image) == "text"
    assert route.next({"text": False}, text) == SCORE
    assert route.next({"text": True}, image) == "image"
    assert route.next({"text": True, "image": False}, image) == SCORE
    assert route.expected == pytest.approx((0.48 + 0.46) / 2)
    assert plan(values, families, Costs(tool=-0.4), 8, revealed=0).next({}, text) == SCORE
    with pytest.raises(ValueError, match="turn"):
        plan(values, families, Costs(), 0, revealed=0)
