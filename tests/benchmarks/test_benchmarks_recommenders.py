"""The comparison with RecBole, as far as it goes without RecBole."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))  # scripts import their neighbors
import recommenders

from mma_jax.baselines.registry import BASELINES


@pytest.mark.parametrize("model", recommenders.SETTINGS)
def test_our_contestant_trains_and_is_asked(tmp_path, model, monkeypatch):
    rng = np.random.default_rng(0)
    lines = ["user_id:token\titem_id:token\tposition:float"]
    for user in range(40):
        lines += [f"u{user}\ti{item}\t{place}" for place, item in enumerate(rng.permutation(30)[:6])]
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "tiny.inter").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "job.json").write_text(json.dumps({"model": model, "root": str(tmp_path), "name": "tiny"}))
    monkeypatch.setitem(recommenders.SETTINGS[model], "batch", 32)
    do = recommenders.ours(tmp_path)
    first, second = do("epoch"), do("epoch")
    assert first["rows"] == (160 if model == "LightGCN" else 120)  # of a sequence of 4 the first is no prediction
    assert first["updates"] == (5 if model == "LightGCN" else 4)
    assert second["loss"] != first["loss"]
    assert do("full sort")["rows"] == 40


@pytest.mark.parametrize("model", recommenders.SETTINGS)
def test_both_get_the_same_hyperparameters(model):
    own = recommenders.SETTINGS[model]
    assert set(own) <= set(BASELINES[model].get_config())
    theirs = recommenders.recbole_settings({"model": model, "root": "."}, "position")
    assert theirs["train_batch_size"] == own["batch"] and theirs["learning_rate"] == own["lr"]
    assert own["dim"] in (theirs.get("embedding_size"), theirs.get("hidden_size"))


def test_rows_are_medians_beside_ours(capsys):
    def answers(*cpu):
        return [{"wall": 2 * one, "cpu": one, "rows": 10 * cpu[0], "peak": 1e9} for one in cpu]

    recommenders.print_rows("X", {("epoch", "mma_jax"): answers(2, 1, 9), ("epoch", "recbole"): answers(8, 6, 100)})
    assert capsys.readouterr().out.splitlines()[1].endswith("| 4.00 | 4.00 | 1.00 |")
