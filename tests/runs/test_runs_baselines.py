"""Baselines in an experiment: what they learn from, how they are chosen, and that evaluation plays them."""

import json

import numpy as np
import pytest

from mma_jax.config import base
from mma_jax.runs import evaluate
from mma_jax.runs.agents import Agents
from mma_jax.runs.baselines import Baselines, _before, combinations, corpus
from mma_jax.runs.prepare import experiment
from mma_jax.types import FIT, TRAIN, InputError


@pytest.fixture
def config():
    config = base()
    config.methods, config.protocols = "First-stage,BPR-MF", "ooma"
    config.world.n_items, config.world.n_users, config.world.images = 120, 250, False
    config.pool.size = 5
    config.episodes.train, config.episodes.valid, config.episodes.test = 60, 20, 30
    config.eval.bootstrap, config.eval.reference = 20, "First-stage"
    config.baselines.bpr.epochs, config.baselines.bpr.validate_every, config.baselines.bpr.batch = 2, 1, 256
    return config


def test_a_corpus_is_the_training_part(config, tmp_path):
    made = experiment(config, tmp_path)
    found, log = corpus(made), made.dataset.interactions
    allowed = made.positive & np.isin(made.parts, (FIT, TRAIN))
    pairs = set(zip(log.user[allowed].tolist(), log.item[allowed].tolist(), strict=True))
    assert set(zip(found.users.tolist(), found.items.tolist(), strict=True)) == pairs
    assert len(found.users) == len(pairs)
    assert (np.diff(found.users) >= 0).all()
    assert "image" not in found.content and found.content["text"].shape[0] == len(made.dataset.catalog)
    assert all(mask[1] is False for mask in found.families)


def test_before_counts_strictly_earlier_rows():
    users = np.array([0, 0, 0, 1, 1, 2])
    times = np.array([1.0, 1.0, 2.0, 2.0, 2.0, 0.0])
    assert _before(users, times, ordered=True).tolist() == [0, 0, 2, 0, 0, 0]
    assert _before(users, times, ordered=False).tolist() == [-1] * 6


def test_evaluation_plays_a_baseline_and_reads_it_again(config, tmp_path):
    evaluate.run(config, tmp_path, dry_run=False)
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").open()]
    found = {row["method"]: row["value"] for row in rows if row["subset"] == "all" and row["metric"] == "ndcg@10"}
    assert set(found) == {"First-stage", "BPR-MF"}
    again = experiment(config, tmp_path)
    play = Agents(again).player("BPR-MF", 0)
    episodes = again.episodes("test", "ooma")
    first, second = (play(again.environment("test", "ooma"), episodes) for _ in range(2))
    assert all(np.array_equal(a.scores, b.scores) for a, b in zip(first, second, strict=True))
    assert len(first) == len(episodes) == 2 * 30


def test_a_grid_is_searched_on_validation_once(config, tmp_path):
    config.baselines.bpr.grid = "lr=1e-5,1e-2;dim=4"
    made = Baselines(experiment(config, tmp_path))
    chosen = made._chosen("BPR-MF")
    tried = json.loads((tmp_path / "baselines" / "BPR-MF" / "grid.json").read_text())
    assert [one["settings"] for one in tried] == [{"lr": 1e-5, "dim": 4}, {"lr": 1e-2, "dim": 4}]
    assert chosen.lr == max(tried, key=lambda one: one["valid"])["settings"]["lr"]
    assert config.baselines.bpr.lr == 1e-3
    assert made._chosen("BPR-MF") == chosen


@pytest.mark.parametrize(
    "grid, said",
    [
        ("rate=1", "rate"),
        ("dim=big", "int"),
        ("grid=1", "grid"),
        ("lr=", "no value of lr"),
        ("lr=1e-3;dim", "no value of dim"),
        ("epochs=1,0;batch=8", r"baselines\.bpr\.grid: epochs=0: give a number at least 1"),
        ("lr=nan", "lr=nan: give a number at least 0"),
    ],
)
def test_a_grid_that_cannot_be_meant_is_one_line(config, tmp_path, grid, said):
    config.baselines.bpr.grid = grid
    with pytest.raises(InputError, match=said):
        experiment(config, tmp_path)


@pytest.mark.parametrize("key, method", [("sasrec", "SASRec"), ("gre_mc", "GRE-MC")])
def test_heads_that_do_not_divide_are_told_before_any_training(config, tmp_path, key, method):
    config.methods = f"First-stage,{method}"
    config.baselines[key].grid = "heads=2,4;dim=8,10"
    with pytest.raises(InputError, match=rf"{key}\.dim=10 cannot be shared by {key}\.heads=4"):
        experiment(config, tmp_path)


def test_a_loss_of_a_grid_that_is_unknown_is_told_before_any_training(config, tmp_path):
    config.methods, config.baselines.sasrec.grid = "SASRec", "loss=ce,foo"
    with pytest.raises(InputError, match=r"unknown 'foo' in config\.baselines\.sasrec\.grid: loss: known are bce, ce"):
        experiment(config, tmp_path)


def test_combinations_have_the_types_of_the_settings(config):
    assert combinations("", config.baselines.bpr) == [{}]
    assert combinations("dim=8, 16", config.baselines.bpr) == [{"dim": 8}, {"dim": 16}]
