"""A folder is resumed with the settings of its work or not at all; a disk that is full or closed is told before any
work, or in one line when it fills up behind it."""

import json
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest
from flax import nnx

from mma_jax.config import base
from mma_jax.models.heads import TRAINABLE, ActorCritic
from mma_jax.models.llama import Llama, LlamaConfig
from mma_jax.models.lora import add_lora
from mma_jax.runs import pretrain, train
from mma_jax.runs.workdir import FREE, check_room, open_workdir, used
from mma_jax.types import InputError

ROOT = Path(__file__).parents[2]


def test_a_folder_is_made_and_its_settings_kept(tmp_path):
    directory = open_workdir(str(tmp_path / "new"), base(), dry_run=True)
    assert not directory.exists()
    assert open_workdir(str(directory), base(), dry_run=False) == directory
    assert json.loads((directory / "config.json").read_text())["pool"]["size"] == base().pool.size


def test_work_goes_on_with_its_own_settings_alone(tmp_path):
    open_workdir(str(tmp_path), base(), dry_run=False)
    other = base()
    other.pool.size = 7
    (tmp_path / "data.sha256").write_text("of data that did not go with the settings")
    open_workdir(str(tmp_path), other, dry_run=False)  # nothing was made with the first ones
    assert not (tmp_path / "data.sha256").exists()
    (tmp_path / "prepared").mkdir()
    with pytest.raises(InputError, match=r"other settings \(pool\.size\)"):
        open_workdir(str(tmp_path), base(), dry_run=False)
    other.methods = "First-stage"
    assert "methods" in FREE
    open_workdir(str(tmp_path), other, dry_run=False)
    assert json.loads((tmp_path / "config.json").read_text())["methods"] == "First-stage"


@pytest.mark.parametrize("name", ["data.sha256", "cells.jsonl"])
@pytest.mark.parametrize("dry_run", [False, True])
def test_work_of_unknown_settings_is_refused(tmp_path, name, dry_run):
    (tmp_path / name).mkdir()
    with pytest.raises(InputError, match="holds a run without config") as caught:
        open_workdir(str(tmp_path), base(), dry_run)
    assert "delete" not in str(caught.value) and not (tmp_path / "config.json").exists()


def test_evidence_shared_out_before_a_run_is_no_run(tmp_path):
    (tmp_path / "prepared" / "images").mkdir(parents=True)
    open_workdir(str(tmp_path), base(), dry_run=False)


@pytest.mark.parametrize("content", ["[]", "{", "", "3"])
def test_settings_that_cannot_be_read_are_put_back_and_not_deleted(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    (tmp_path / "cells.jsonl").write_text("")
    with pytest.raises(InputError, match="does not hold the settings of a run: put them back") as caught:
        open_workdir(str(tmp_path), base(), dry_run=False)
    assert str(tmp_path) in str(caught.value) and "delete" not in str(caught.value)
    assert (tmp_path / "config.json").read_text() == content


def test_room_is_what_the_disk_has_left(tmp_path):
    left = shutil.disk_usage(tmp_path).free
    check_room(tmp_path / "new", left // 2)
    assert list((tmp_path / "new").iterdir()) == []
    with pytest.raises(InputError, match="MiB left: make room") as caught:
        check_room(tmp_path, 2 * left)
    assert str(tmp_path) in str(caught.value) and f"need {2 * left / 2**20:,.0f} MiB" in str(caught.value)


def unwritable(tmp_path) -> list[Path]:
    """Places where nobody may write: below a file, in the kernel's, and, unless root asks, in a closed folder."""
    (tmp_path / "file").write_text("")
    places = [tmp_path / "file" / "train", Path("/proc/self/fdinfo/train")]
    if os.geteuid():
        (tmp_path / "closed").mkdir(mode=0o500)
        places.append(tmp_path / "closed")
    return [place for place in places if place.parent.exists()]


def test_a_place_where_nothing_can_be_written_is_refused(tmp_path):
    for place in unwritable(tmp_path):
        with pytest.raises(InputError, match="cannot write to") as caught:
            check_room(place, 0)
        assert str(place) in str(caught.value) and "\n" not in str(caught.value)


def test_used_counts_files_at_any_depth(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").write_bytes(b"123")
    (tmp_path / "d").write_bytes(b"4567")
    assert used(tmp_path) == 7 and used(tmp_path / "none") == 0


def full(monkeypatch, left=1_000):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: types.SimpleNamespace(free=left))


def test_pretraining_asks_for_room_first(tmp_path, monkeypatch):
    full(monkeypatch)
    monkeypatch.setattr(pretrain.pretrain, "make_step", None)  # is not reached
    config = base()
    config.pretrain.update(dict(width=16, heads=2, kv_heads=1, head_dim=8, hidden=16))
    with pytest.raises(InputError, match="make room"):
        pretrain.run(config, tmp_path, dry_run=False)


def test_training_asks_for_the_room_of_all_that_it_will_train(tmp_path, monkeypatch):
    model = Llama(LlamaConfig(32, 16, 1, 2, 1, 8, 32), rngs=nnx.Rngs(0))
    add_lora(model, 4, 8.0, ("q_proj",), nnx.Rngs(1))
    _, adapter, _ = nnx.split(ActorCritic(model, 8, nnx.Rngs(2)), TRAINABLE, ...)
    made = types.SimpleNamespace(config=base(), directory=tmp_path)
    trainer = train.Trainer(made, types.SimpleNamespace(adapter=lambda seed: adapter))
    imitator, agent = trainer._rooms
    for wanted, needed in (
        ([("MMA-SFT", 0)], imitator),
        ([("MMA-Auto", 0), ("MMA-Pooled", 0)], imitator + 2 * agent),
        ([("MMA-Auto", 0), ("MMA-SFT", 0), ("MMA-Auto", 1)], 2 * (imitator + agent)),
    ):
        full(monkeypatch, needed)
        trainer.check_room(wanted)
        full(monkeypatch, needed - 1)
        with pytest.raises(InputError, match="make room"):
            trainer.check_room(wanted)


def test_a_disk_that_fills_up_is_one_line_and_exit_1(tmp_path):
    """Files may have 20 blocks of 512 bytes at most, in some shells of 1,024: config.json fits, the data do not."""
    command = [sys.executable, "-m", "mma_jax.main", "--config=configs/demo.py", f"--workdir={tmp_path}"]
    small = ["--config.world.n_items=120", "--config.world.n_users=250", "--config.world.images=False"]
    limited = ["sh", "-c", 'ulimit -f 20 && exec "$@"', "sh", *command, *small, "--config.run=prepare"]
    done = subprocess.run(limited, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr[-2000:]
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("mma_jax: ") and "File too large" in last and str(tmp_path) in last
