import dataclasses
import itertools

import numpy as np
import pytest
from scipy import stats

from mma_jax.data.world import (
    DEFAULT,
    POPULARITY_TIERS,
    PRESETS,
    Attribute,
    World,
    WorldConfig,
    expected_ndcg,
    recovered_bits,
    without_information,
)
from mma_jax.types import FAMILIES, MODALITIES, InputError

TEXT, IMAGE, BEHAVIOR, FULL = (FAMILIES[name] for name in ("text_only", "image_only", "behavior_only", "full"))
NOTHING = (False, False, False)
CHANCE = float((1 / np.log2(np.arange(10) + 2)).sum() / 20)  # NDCG@10 of a constant score, 20 candidates

TINY = WorldConfig(
    n_items=8,
    attributes=(Attribute("theme", 1.2, ("text",), 2), Attribute("color", 0.8, ("image",), 2)),
    noise=(0.0, 0.0, 0.0),
    popularity=0.0,
    history=(2, 4),
)


def simulate(world, n, seed=0, size=20):
    """Users with histories of all lengths, the next choice (row 0 of the pool), and random negatives."""
    rng = np.random.default_rng(seed)
    shortest, longest = world.config.history
    choices = world.draw_choices(world.draw_preferences(n, rng), longest, rng)
    lengths = rng.integers(shortest - 1, longest, size=n)
    keys = rng.random((n, world.config.n_items))
    for row, length in enumerate(lengths):
        keys[row, choices[row, : length + 1]] = np.inf
    negatives = np.argsort(keys, axis=1)[:, : size - 1]
    pools = np.concatenate([np.take_along_axis(choices, lengths[:, None], axis=1), negatives], axis=1)
    return pools, [row[:length] for row, length in zip(choices, lengths, strict=True)]


def ndcg_of_first(scores, k=10):
    """NDCG@k of column 0, expected over ties, by its definition."""
    better = (scores[:, 1:] > scores[:, :1]).sum(1)
    tied = (scores[:, 1:] == scores[:, :1]).sum(1)
    return np.array(
        [
            np.mean([1 / np.log2(r + 2) * (r < k) for r in range(b, b + t + 1)])
            for b, t in zip(better, tied, strict=True)
        ]
    )


def exact_predictive(utilities, history, pool):
    """By enumeration: P(target | unordered history) with choice without replacement.

    utilities: [W, P, I], equally probable worlds (hidden latents) and preferences.
    """
    weights = np.exp(utilities)
    joint = np.zeros((len(pool), *weights.shape[:2]))
    for order in itertools.permutations(history):
        left, probability = weights.sum(-1), np.ones(weights.shape[:2])
        for item in order:
            probability = probability * weights[..., item] / left
            left = left - weights[..., item]
        for row, item in enumerate(pool):
            joint[row] += probability * weights[..., item] / left
    return joint.sum(axis=(1, 2)) / joint.sum()


@pytest.mark.parametrize("length", [1, 2, 3])
def test_everything_seen_against_enumeration(length):
    """Two attributes with two values, eight items, all of it visible."""
    world = World(TINY)
    observer = world.observer(FULL)
    agree = observer.preferences[:, None, :] == world.latents[None]
    utilities = (agree @ np.array([1.2, 0.8]))[None]  # [1, P, I]
    for history in itertools.combinations(range(8), length):
        pool = [item for item in range(8) if item not in history]
        expected = exact_predictive(utilities, history, pool)
        got = observer.predictive(np.array([pool]), [np.array(history)])[0]
        np.testing.assert_allclose(got, expected, atol=0.006 * length)


@pytest.mark.parametrize("length", [1, 2, 3])
def test_hidden_attribute_against_enumeration(length):
    """Only text is seen: the color of each of the eight items is summed over, 2^8 worlds."""
    world = World(TINY)
    observer = world.observer(TEXT)
    assert observer.preferences.shape == (2, 1)
    colors = np.array(list(itertools.product((0, 1), repeat=8)))  # [W, I]
    full = np.array(list(itertools.product((0, 1), repeat=2)))  # [P, 2]
    theme = full[:, None, 0] == world.shown["text"][None, :, 0]  # [P, I]
    color = full[None, :, None, 1] == colors[:, None, :]  # [W, P, I]
    for history in itertools.combinations(range(8), length):
        pool = [item for item in range(8) if item not in history]
        expected = exact_predictive(1.2 * theme[None] + 0.8 * color, history, pool)
        got = observer.predictive(np.array([pool]), [np.array(history)])[0]
        np.testing.assert_allclose(got, expected, atol=0.006 * length)


@pytest.mark.parametrize("length", [2, 3])
def test_hidden_popularity_against_enumeration(length):
    """Text and image are seen; the popularity tier of each of seven items is summed over, 4^7 worlds."""
    config = dataclasses.replace(TINY, n_items=7, popularity=1.0)
    world = World(config)
    observer = world.observer(FAMILIES["cold_user"])
    tiers = np.array(list(itertools.product(POPULARITY_TIERS, repeat=7)))  # [W, I]
    utility = (observer.preferences[:, None, :] == world.latents[None]) @ np.array([1.2, 0.8])  # [P, I]
    for history in list(itertools.combinations(range(7), length))[::4]:
        pool = [item for item in range(7) if item not in history]
        expected = exact_predictive(utility[None] + tiers[:, None, :], history, pool)
        got = observer.predictive(np.array([pool]), [np.array(history)])[0]
        np.testing.assert_allclose(got, expected, atol=0.015)


def test_large_catalog_limit_with_noise_and_redundancy():
    """With many items, choices are independent draws from prod_a 1 + (e^w - 1) P(agree | shown), normalized."""
    config = dataclasses.replace(DEFAULT, n_items=20_000, noise=(0.1, 0.2, 0.3), popularity=0.0)
    world = World(config)
    observer = world.observer((True, False, True))
    assert observer.columns == [0, 1, 4, 5]
    values = np.arange(4)
    attraction = np.ones((config.n_items, len(observer.preferences)))
    for place, column in enumerate(observer.columns):
        likelihood = np.ones((config.n_items, 4))
        for modality, error in (("text", 0.1), ("behavior", 0.3)):
            if modality in config.attributes[column].reveals:
                shown = world.shown[modality][:, config.shown_by(modality).index(column)]
                likelihood *= np.where(shown[:, None] == values, 1 - error, error / 3)
        chance = likelihood / likelihood.sum(1, keepdims=True)
        gain = np.exp(config.attributes[column].weight) - 1
        attraction *= 1 + gain * chance[:, observer.preferences[:, place]]
    history, pool = np.array([5, 17, 123]), np.arange(1000, 1020)
    chosen = attraction / attraction.sum(0)  # [I, P]
    expected = chosen[pool] @ chosen[history].prod(0)
    np.testing.assert_allclose(observer.predictive(pool[None], [history])[0], expected / expected.sum(), rtol=0.01)


@pytest.fixture(scope="module")
def simulated():
    world = World(DEFAULT)
    return world, *simulate(world, 3000, seed=3)


@pytest.mark.parametrize("evidence", [TEXT, IMAGE, BEHAVIOR, FAMILIES["no_image"]])
def test_calibrated(simulated, evidence):
    world, pools, histories = simulated
    probability = world.predictive(pools, histories, evidence)
    assert np.allclose(probability.sum(1), 1)
    is_target = np.zeros(probability.shape, bool)
    is_target[:, 0] = True
    edges = np.quantile(probability, [0, 0.5, 0.8, 0.9, 0.95, 0.98, 1])
    for low, high in itertools.pairwise(edges):
        inside = (probability > low) & (probability <= high)
        predicted, frequency = probability[inside].mean(), is_target[inside].mean()
        assert abs(predicted - frequency) < 4 * np.sqrt(predicted * (1 - predicted) / inside.sum())
    gap = expected_ndcg(probability) - ndcg_of_first(probability)
    assert abs(gap.mean()) < 3 * gap.std() / np.sqrt(len(gap))


def test_default_leaves_room_between_chance_one_modality_and_all(simulated):
    world, pools, histories = simulated
    for evidence in (TEXT, IMAGE, BEHAVIOR):
        assert 0.40 < expected_ndcg(world.predictive(pools, histories, evidence)).mean() < 0.50
    some = slice(0, 600)
    assert 0.60 < expected_ndcg(world.predictive(pools[some], histories[some], FULL)).mean() < 0.70


def test_no_fixed_scorer_beats_it(simulated):
    """Weighted counts of shared shown values, over a grid of weights."""
    world, pools, histories = simulated
    best = ndcg_of_first(world.predictive(pools, histories, TEXT))
    shown = world.shown["text"]
    matches = np.stack(
        [(shown[pool][:, None] == shown[history][None]).mean(1) for pool, history in zip(pools, histories, strict=True)]
    )
    for weights in itertools.product((0.3, 1.0, 2.0), repeat=3):
        gap = best - ndcg_of_first(matches @ np.array(weights))
        assert gap.mean() > -2 * gap.std() / np.sqrt(len(gap))


def test_no_evidence_and_no_information_are_chance(simulated):
    world, pools, histories = simulated
    np.testing.assert_allclose(world.predictive(pools, histories, NOTHING), 1 / 20, rtol=1e-12)
    for modality, evidence in zip(MODALITIES, (TEXT, IMAGE, BEHAVIOR), strict=True):
        empty = World(PRESETS[f"empty_{modality}"])
        assert empty.shown[modality].shape[1] > 0
        probability = empty.predictive(pools, histories, evidence)
        np.testing.assert_allclose(probability, 1 / 20, rtol=1e-9)
        assert expected_ndcg(probability).mean() == pytest.approx(CHANCE)


def test_an_empty_modality_leaves_what_others_show():
    empty = without_information(DEFAULT, "behavior")
    weights = {attribute.name: attribute.weight for attribute in empty.attributes}
    assert weights["circle"] == 0 and weights["audience"] == 1.0 and empty.popularity == 0
    assert empty.attributes[-1].reveals == ("text",)
    assert without_information(DEFAULT, "text").popularity == DEFAULT.popularity


def test_only_behavior_shows_popularity():
    world = World(dataclasses.replace(without_information(DEFAULT, "text"), popularity=0.7))
    pool, nobody = np.arange(20)[None], [np.zeros(0, np.int32)]
    expected = np.exp(world.popularity[:20])
    np.testing.assert_allclose(world.predictive(pool, nobody, BEHAVIOR)[0], expected / expected.sum(), rtol=1e-9)
    np.testing.assert_allclose(world.predictive(pool, nobody, (True, True, False))[0], 1 / 20, rtol=1e-9)


def test_pool_prior_multiplies_and_batch_equals_single(simulated):
    world, pools, histories = simulated
    pools, histories = pools[:30], histories[:30]
    prior = np.random.default_rng(0).random(pools.shape)
    batch = world.predictive(pools, histories, TEXT, prior)
    plain = world.predictive(pools, histories, TEXT)
    np.testing.assert_allclose(batch, plain * prior / (plain * prior).sum(1, keepdims=True), rtol=1e-12)
    for row in range(30):
        single = world.predictive(pools[row : row + 1], [histories[row]], TEXT, prior[row : row + 1])[0]
        np.testing.assert_allclose(single, batch[row], rtol=1e-9)


def test_choices_follow_their_law():
    """First and second choices of one preference vector against the exact probabilities, chi-square."""
    world = World(dataclasses.replace(TINY, popularity=0.5))
    preference = np.array([[1, 0]])
    chosen = world.draw_choices(np.repeat(preference, 20_000, axis=0), 2, np.random.default_rng(5))
    weight = np.array(
        [
            np.exp(1.2 * (z[0] == 1) + 0.8 * (z[1] == 0) + s)
            for z, s in zip(world.latents, world.popularity, strict=True)
        ]
    )
    first = weight / weight.sum()
    np.testing.assert_allclose(np.exp(world.log_choice(preference))[0], first)
    expected = np.array([[0 if i == j else first[i] * first[j] / (1 - first[i]) for j in range(8)] for i in range(8)])
    counts = np.zeros((8, 8))
    np.add.at(counts, (chosen[:, 0], chosen[:, 1]), 1)
    assert np.all(np.diag(counts) == 0)
    off = ~np.eye(8, dtype=bool)
    assert stats.chisquare(counts[off], 20_000 * expected[off]).pvalue > 0.01


def test_latents_balanced_noise_as_configured_and_deterministic():
    config = dataclasses.replace(DEFAULT, n_items=8000, noise=(0.0, 0.1, 0.5))
    world, again = World(config), World(config)
    assert np.array_equal(world.latents, again.latents)
    assert not np.array_equal(world.latents, World(dataclasses.replace(config, seed=1)).latents)
    assert all(np.all(np.bincount(column) == 2000) for column in world.latents.T)
    assert world.popularity.std() == pytest.approx(0.4, abs=1e-3)
    for modality, noise in zip(MODALITIES, config.noise, strict=True):
        assert np.array_equal(world.shown[modality], again.shown[modality])
        wrong = world.shown[modality] != world.latents[:, config.shown_by(modality)]
        assert wrong.mean(0) == pytest.approx(np.full(wrong.shape[1], noise), abs=0.02)
    wrong = world.shown["behavior"][:, 0] != world.latents[:, 4]
    shift = (world.shown["behavior"][wrong, 0] - world.latents[wrong, 4]) % 4
    assert stats.chisquare(np.bincount(shift, minlength=4)[1:]).pvalue > 0.01  # every wrong value equally often


def test_bits_by_enumeration_and_recovered():
    config = dataclasses.replace(DEFAULT, n_items=8000, noise=(0.0, 0.05, 0.75))
    world = World(config)
    bits = world.bits()
    assert set(bits["text"]) == {"theme", "style", "audience"} and bits["text"]["theme"] == 2.0
    joint = np.where(np.eye(4, dtype=bool), 0.95, 0.05 / 3) / 4
    assert bits["image"]["color"] == pytest.approx((joint * np.log2(joint / (1 / 16))).sum())
    assert bits["behavior"]["circle"] == pytest.approx(0, abs=1e-12)  # a wrong value as likely as any
    for modality in MODALITIES:
        for place, column in enumerate(config.shown_by(modality)):
            recovered = recovered_bits(world.latents[:, column], world.shown[modality][:, place])
            assert recovered == pytest.approx(bits[modality][config.attributes[column].name], abs=0.03)


def test_recovered_bits_is_unbiased_without_information():
    rng = np.random.default_rng(0)
    estimates = [recovered_bits(rng.integers(4, size=300), rng.integers(16, size=300)) for _ in range(300)]
    assert abs(np.mean(estimates)) < 0.01  # the plug-in alone would say 45 / (600 ln 2) = .108
    assert recovered_bits(np.arange(400) % 4, (np.arange(400) + 1) % 4) == pytest.approx(2 - 9 / (800 * np.log(2)))


def test_expected_ndcg_is_the_best_order():
    rng = np.random.default_rng(0)
    for k in (1, 2, 4, 10):
        p = rng.dirichlet(np.ones(4))
        gains = [1 / np.log2(rank + 2) if rank < k else 0.0 for rank in range(4)]
        orders = [sum(p[item] * gains[rank] for rank, item in enumerate(o)) for o in itertools.permutations(range(4))]
        assert expected_ndcg(p, k) == pytest.approx(max(orders))
    assert expected_ndcg(np.full((3, 20), 0.05)) == pytest.approx(np.full(3, CHANCE))


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"attributes": ()}, "distinct names"),
        ({"attributes": (Attribute("theme", 1.0, ("smell",)),)}, "'theme' must be revealed"),
        ({"attributes": tuple(Attribute(f"a{n}", 1.0, ("text",), 8) for n in range(6))}, "preference vectors"),
        ({"noise": (0.1, 0.2, 1.5)}, "three probabilities"),
        ({"history": (5, 1000)}, "history"),
        ({"n_users": 0}, "n_users"),
    ],
)
def test_impossible_worlds_are_refused(knobs, message):
    with pytest.raises(InputError, match=message):
        WorldConfig(**knobs)
