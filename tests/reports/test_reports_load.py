import collections
import json

import numpy as np
import pytest

from mma_jax.evaluation.results import Cell, ResultLog
from mma_jax.reports import load
from mma_jax.types import InputError


def write(directory, method, seed, episodes=(), traces=()):
    with ResultLog(directory) as log:
        log.write(Cell("d", "ooma", method, seed), [], episodes, traces)


def episode(value, *, episode_id="e1", user=7, subset="text_only", **more):
    return {"subset": subset, "episode_id": episode_id, "user": user, "ndcg@10": value, **more}


def test_seeds_are_averaged_within_an_episode(tmp_path):
    write(tmp_path, "A", 0, [episode(0.2, mrr=0.5), episode(1.0, episode_id="e2", user=8), episode(0.9, subset="all")])
    write(tmp_path, "A", 1, [episode(0.6, mrr=0.25), episode(0.5, episode_id="e3", user=7, mrr=1.0)])
    samples = load.read_samples(tmp_path)
    assert list(samples) == [("d", "ooma", "text_only", "A")]
    (sample,) = samples.values()
    np.testing.assert_allclose(sample.values["ndcg@10"], [0.4, 1.0, 0.5])
    np.testing.assert_allclose(sample.values["mrr"], [0.375, np.nan, 1.0])
    assert sample.users[0] == sample.users[2] != sample.users[1]


def test_an_unfinished_cell_is_not_reported(tmp_path):
    write(tmp_path, "A", 0, [episode(0.2)])
    row = {"dataset": "d", "protocol": "ooma", "method": "B", "seed": 0, **episode(0.9)}
    with (tmp_path / "per_episode.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n" + json.dumps(row)[:9])
    assert [key[3] for key in load.load_run(tmp_path, 10).samples] == ["A"]


def test_damaged_files_are_the_users_error(tmp_path):
    path = tmp_path / "audit.json"
    assert load.read_json(path, []) == []
    path.write_text("{}")
    with pytest.raises(InputError, match=r"audit.json: holds a dict, not a list"):
        load.read_json(path, [])
    path.write_text("{")
    with pytest.raises(InputError, match=r"audit.json: not JSON"):
        load.read_json(path, [])
    with pytest.raises(InputError, match=r"audit.json: not JSON lines"):
        load.read_rows(path)


def test_traces_are_spread_evenly_and_methods_share_their_episodes(tmp_path):
    families = ("text_only", "image_only")
    traces = [{"family": family, "episode_id": f"{family}-{n}", "n": n} for n in range(30) for family in families]
    write(tmp_path, "A", 0, traces=traces)
    write(tmp_path, "B", 0, traces=traces)
    found = load.read_traces(tmp_path, 20)
    assert found.recorded == 120
    shown = collections.defaultdict(set)
    for trace in found.shown:
        shown[trace["method"], trace["family"]].add(trace["episode_id"])
    assert [len(ids) for ids in shown.values()] == [5, 5, 5, 5]
    assert shown["A", "text_only"] == shown["B", "text_only"]
    assert len(load.read_traces(tmp_path, 1000).shown) == 120


def test_spread_takes_turns():
    assert load.spread([[1, 2, 3], [4], [5, 6]], 5) == [1, 4, 5, 2, 6]
    assert load.spread([], 5) == []


def test_numbers_that_browsers_refuse_become_words():
    assert load.finite({"a": [1e999, -1e999, 0.5, 3], "b": {"c": "x"}}) == {
        "a": ["inf", "-inf", 0.5, 3],
        "b": {"c": "x"},
    }
