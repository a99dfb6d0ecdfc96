"""The audit passes on a sound benchmark and fails on each way of spoiling it (one spoilt setting at a time)."""

import json

import numpy as np
import pytest

from mma_jax.config import base
from mma_jax.evaluation import audit
from mma_jax.runs.audit import audit_experiment
from mma_jax.runs.prepare import experiment, run
from mma_jax.types import Case, Episode


def audited(directory, **spoilt):
    """check -> row, on a small generated world without images."""
    config = base()
    config.world.n_items, config.world.n_users = 300, 800
    config.episodes.train, config.episodes.valid, config.episodes.test = 400, 100, 300
    config.pool.size = 20
    config.eval.bootstrap = 300
    for key, value in spoilt.items():
        section, name = key.split("__")
        config[section][name] = value
    run(config, directory, dry_run=False)
    rows = audit_experiment(experiment(config, directory))
    assert all(set(row) >= {"check", "dataset", "value", "threshold", "pass"} for row in json.loads(json.dumps(rows)))
    return {row["check"]: row for row in rows}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return audited(tmp_path_factory.mktemp("sound"))


def test_a_sound_benchmark_passes(sound):
    assert set(sound) == set(audit.MEANING)
    assert all(row["pass"] for row in sound.values()), [r for r in sound.values() if not r["pass"]]


def test_paper_pools_fail(tmp_path):
    rows = audited(tmp_path, pool__kind="paper")
    assert not rows["inverse_rank"]["pass"] and not rows["rank_only"]["pass"]


@pytest.mark.parametrize("kind", ["paper", "calibrated"])
def test_inserted_targets_stand_where_the_bound_thinks(tmp_path, kind):
    config = base()
    config.world.images, config.pool.kind, config.pool.size = False, kind, 20
    config.world.n_items, config.world.n_users, config.episodes.test = 200, 400, 100
    made = experiment(config, tmp_path)
    for family in made.families("ooma"):
        members = [e for e in made.episodes("test", "ooma") if e.family == family and e.inserted]
        ranks = [int(e.case.ranks[e.target_position]) for e in members if e.case.scores.any()]
        chance = made.distribution(family)[np.array(ranks) - 1].mean()
        assert len(ranks) > 20 and (chance == 1 if kind == "paper" else chance < 0.5)


def test_self_edges_fail(tmp_path):
    rows = audited(tmp_path, evidence__crossfit=False)
    assert not rows["self_edges"]["pass"] and rows["self_edges"]["value"] > 100


def test_a_planted_canary_is_found(tmp_path):
    rows = audited(tmp_path, evidence__parts="all")
    assert not rows["canary"]["pass"]
    assert rows["self_edges"]["value"] == 400 + 100 + 300  # every part's targets stand in their own evidence


def episode(pool, target, n=0, history=()):
    size = len(pool)
    case = Case(
        np.array(pool, np.int32), np.linspace(1, 0, size, dtype=np.float32), np.arange(1, size + 1, dtype=np.int32),
        np.array(history, np.int32), (True, False, False),
    )  # fmt: skip
    return Episode(f"e{n}", case, n, target, "text_only", "ooma", True)


def test_duplicates():
    first, second = episode([1, 2], 1), episode([1, 2], 1, n=1)
    assert audit.duplicates("d", {"train": [first], "test": [second]})["pass"]
    assert audit.duplicates("d", {"train": [first], "test": [first]})["value"] == 1
    assert audit.duplicates("d", {"test": [first, first]})["value"] == 1


def test_pool_hygiene():
    forbidden = np.array([3, 9])
    for dirty in (episode([1, 1, 2], 2), episode([1, 2, 3], 2), episode([1, 2, 9], 2)):
        assert audit.pool_hygiene("d", [(dirty, forbidden)])["value"] == 1
    for clean in (episode([1, 2, 4], 2), episode([1, 2, 9], 9)):
        assert audit.pool_hygiene("d", [(clean, forbidden)])["pass"]


def test_listed_pairs_are_trusted_in_a_generated_world_only():
    assert audit.timeless_pairs("d", "copurchases", "generated")["pass"]
    assert audit.timeless_pairs("d", "interactions", "amazon2014")["pass"]
    assert not audit.timeless_pairs("d", "copurchases", "amazon2014")["pass"]


def test_self_edges_counts_pairs():
    episodes = [episode([1, 2], 1, n=0), episode([1, 2], 2, n=1)]
    known, nothing = (np.array([0, 1]), np.array([1, 1])), (np.empty(0, int), np.empty(0, int))
    assert audit.self_edges("d", [(*known, episodes)])["value"] == 1
    assert audit.self_edges("d", [(*nothing, episodes), (*known, episodes)])["value"] == 1


def test_pools_that_single_the_target_out_as_unpopular_fail():
    counts, config = np.arange(200), base()
    rng = np.random.default_rng(0)
    pools = [np.sort(rng.choice(200, 10, replace=False)) for _ in range(100)]
    for place, sound in ((0, False), (9, True)):  # of the target among the pool's counts; the first stage is at random
        seen = []
        for n, pool in enumerate(pools):
            scores = rng.random(10).astype(np.float32)
            ranks = np.argsort(np.argsort(-scores)).astype(np.int32) + 1
            case = Case(pool.astype(np.int32), scores, ranks, np.array([], np.int32), (False, False, True))
            seen.append(Episode(str(n), case, n, int(pool[place]), "behavior_only", "ooma", True))
        row = audit.inverse_popularity("shop", seen, counts, config)
        assert row["pass"] == sound and (row["value"] > 0.3) != sound
