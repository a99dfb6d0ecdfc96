"""What queries cost: a control, a router, a baseline and an agent on a base model of random weights, measured once."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from flax import nnx

from mma_jax.config import base
from mma_jax.models.convert import L0_TINY, save_llama
from mma_jax.models.llama import Llama, LlamaConfig
from mma_jax.models.tokenizer import load_tokenizer
from mma_jax.runs import baselines, cost

METHODS = ("First-stage", "RuleRouter-Fuse", "BPR-MF", "ReAct")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    for path in Path(L0_TINY).glob("tokenizer*"):
        shutil.copy(path, folder)
    shape = LlamaConfig(load_tokenizer(folder).vocab_size, 32, 1, 2, 1, 16, 48, 1e4, None, 1e-5, True)
    save_llama(Llama(shape, rngs=nnx.Rngs(0)), folder)
    return folder


@pytest.fixture(scope="module")
def measured(model, tmp_path_factory):
    config = base()
    config.methods, config.protocols = ",".join(METHODS), "ooma"
    config.model.path = str(model)
    config.world.n_items, config.world.n_users, config.world.images = 120, 250, False
    config.pool.size = 5
    config.episodes.train, config.episodes.valid, config.episodes.test = 60, 6, 8
    config.graph.source = "copurchases"
    config.env.turns, config.env.context, config.env.count = 2, 512, "model"
    config.sampler.slots, config.sampler.chunks, config.sampler.max_new = "512", "32,256", 8
    config.baselines.bpr.epochs = 1
    config.eval.queries = 3
    directory = tmp_path_factory.mktemp("run")
    chunk = baselines.CHUNK
    cost.run(config, directory, dry_run=False)
    assert chunk == baselines.CHUNK
    return config, directory


def rows(directory):
    return {row["method"]: row for row in map(json.loads, (directory / "cost.jsonl").read_text().splitlines())}


def test_every_method_has_a_row(measured):
    found = rows(measured[1])
    assert set(found) == set(METHODS)
    for row in found.values():
        assert row["queries"] == 3 and row["seconds"] > 0 and row["process_bytes"] > 1 << 20


@pytest.mark.parametrize("queries", [3, 8, 12, 50])
def test_queries_are_spread_over_all_families(queries):
    """18 episodes, one family after the other: the last one is asked as often as the first."""
    episodes = ["text"] * 6 + ["image"] * 6 + ["behavior"] * 6
    made = SimpleNamespace(episodes=lambda *_: episodes, config=SimpleNamespace(eval=SimpleNamespace(queries=queries)))
    chosen = cost._queries(made, "ooma")
    counts = [chosen.count(family) for family in ("text", "image", "behavior")]
    assert sum(counts) == min(queries, 18) and max(counts) - min(counts) <= 1


def test_the_host_costs_no_device_and_a_scorer_runs_one_program_a_query(measured):
    found = rows(measured[1])
    for name in ("First-stage", "RuleRouter-Fuse"):
        assert found[name]["flops"] == found[name]["passes"] == found[name]["program_bytes"] == 0
    assert found["First-stage"]["turns"] == 0 and found["RuleRouter-Fuse"]["turns"] == 2
    assert found["BPR-MF"]["passes"] == 1 and found["BPR-MF"]["flops"] > 0 and not found["BPR-MF"]["loops"]


def test_an_agent_pays_for_every_token(measured):
    agent = rows(measured[1])["ReAct"]
    assert agent["turns"] == 2  # nonsense, until the turns are over
    assert 2 * 8 <= agent["passes"] <= 2 * 8 + 8  # tokens of two turns, and pieces of the prompts
    assert agent["flops"] > 100 * rows(measured[1])["BPR-MF"]["flops"] and not agent["loops"]


def test_what_is_measured_is_not_measured_again(measured, monkeypatch):
    config, directory = measured
    before = rows(directory)
    monkeypatch.setattr(cost, "measure", None)
    cost.run(config, directory, dry_run=False)
    assert rows(directory) == before
