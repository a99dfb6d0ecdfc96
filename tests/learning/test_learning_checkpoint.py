import shutil

import jax
import jax.numpy as jnp
import learning_fixture as fixture
import numpy as np
import pytest
from disk import files_of_at_most

from mma_jax.learning import ppo
from mma_jax.learning.checkpoint import Checkpoints, room
from mma_jax.types import InputError


def state(rank_of="q_proj", trained=0.3):
    _, params, _ = fixture.actor_critic((rank_of,), trained)
    return ppo.init(params, fixture.ppo_config())


def test_what_is_saved_comes_back_bit_by_bit(tmp_path):
    saved = state()._replace(streak=jnp.array(7, jnp.int32))
    Checkpoints(tmp_path, 2).save(3, saved, {"panel": 120, "data": {"next_index": 5}})
    step, found, extra = Checkpoints(tmp_path, 2).latest(state(trained=0.0))
    assert step == 3 and extra == {"panel": 120, "data": {"next_index": 5}}
    assert jax.tree.structure(found) == jax.tree.structure(saved)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(saved), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def small(value):
    return {"a": jnp.full(3, float(value))}


def test_the_last_and_the_best_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, 2)
    for step, figure in enumerate([0.1, 0.9, None, 0.2, 0.3], 1):
        checkpoints.save(step, small(step), {}, figure)
    assert sorted(int(path.name) for path in tmp_path.iterdir() if path.name.isdigit()) == [2, 4, 5]
    again = Checkpoints(tmp_path, 2)
    assert again.latest(small(0))[0] == 5
    step, arrays, _ = again.best(small(0))
    assert step == 2 and arrays["a"].tolist() == [2, 2, 2]


def test_nothing_there(tmp_path):
    checkpoints = Checkpoints(tmp_path, 2)
    assert checkpoints.latest(small(0)) is None and checkpoints.best(small(0)) is None
    checkpoints.save(1, small(1), {})
    assert checkpoints.best(small(0)) is None


def test_half_written_checkpoints_are_never_picked_up(tmp_path):
    """What a killed save leaves: a directory under orbax's temporary name."""
    checkpoints = Checkpoints(tmp_path, 3)
    checkpoints.save(1, small(1), {})
    checkpoints.save(2, small(2), {})
    half = tmp_path / "2"
    half.rename(tmp_path / "2.orbax-checkpoint-tmp")
    again = Checkpoints(tmp_path, 3)
    assert again.latest(small(0))[0] == 1
    again.save(2, small(5), {})
    assert again.latest(small(0))[1]["a"].tolist() == [5, 5, 5]


PARTS = ("_CHECKPOINT_METADATA", "arrays", "extra", "metrics")


@pytest.mark.parametrize("left", [*([part] for part in PARTS), [], PARTS[:-1], PARTS[1:]], ids=str)
def test_half_deleted_checkpoints_are_never_picked_up_and_go_with_the_next(tmp_path, left):
    """What a kill leaves that came when an older checkpoint was being deleted."""
    checkpoints = Checkpoints(tmp_path, 3)
    for step, figure in enumerate([0.1, 0.9, 0.2], 1):
        checkpoints.save(step, small(step), {}, figure)
    assert {path.name for path in (tmp_path / "1").iterdir()} >= set(PARTS)
    for path in (tmp_path / "1").iterdir():
        if path.name not in left:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    again = Checkpoints(tmp_path, 2)
    assert again.latest(small(0))[0] == 3 and again.best(small(0))[0] == 2
    again.save(4, small(4), {}, 0.3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "3", "4"]


@pytest.mark.parametrize("other", [state("k_proj"), small(0), {"a": jnp.zeros(3, jnp.int32)}])
def test_the_checkpoint_of_another_model_is_refused(tmp_path, other):
    checkpoints = Checkpoints(tmp_path, 1)
    checkpoints.save(1, state() if isinstance(other, tuple) else {"a": jnp.zeros(4)}, {})
    with pytest.raises(InputError, match="another model"):
        checkpoints.latest(other)


@pytest.mark.parametrize("large", ["arrays", "extra"])
def test_a_save_that_the_disk_refuses_costs_no_earlier_checkpoint(tmp_path, large, capfd):
    arrays = {"a": jax.random.normal(jax.random.key(0), (200_000 if large == "arrays" else 3,))}
    extra = {"text": "x" * 400_000 if large == "extra" else ""}
    checkpoints = Checkpoints(tmp_path, 1)
    checkpoints.save(1, small(1), {"kept": True}, 0.5)
    checkpoints.save(2, small(2), {"kept": True}, 0.1)
    with files_of_at_most(100_000), pytest.raises(OSError, match="File too large") as caught:
        checkpoints.save(3, arrays, extra, 0.9)
    assert caught.value.filename == str(tmp_path)
    checkpoints.close()  # has nothing to add
    assert "Traceback" not in capfd.readouterr().err  # one clear line is for whoever catches it
    for found in (checkpoints, Checkpoints(tmp_path, 1)):
        step, kept, told = found.latest(small(0))
        assert (step, kept["a"].tolist(), told) == (2, [2, 2, 2], {"kept": True})
        assert found.best(small(0))[0] == 1
    found.save(3, arrays, extra, 0.9)  # once there is room
    assert Checkpoints(tmp_path, 1).latest(arrays)[0] == 3


def test_what_is_not_the_disks_fault_is_not_blamed_on_it(tmp_path):
    with pytest.raises(TypeError, match="not JSON serializable"):
        Checkpoints(tmp_path, 1).save(1, small(1), {"a": {1, 2}})


def test_room_bounds_what_is_written(tmp_path):
    arrays = {name: jax.random.normal(jax.random.key(n), (50_000,)) for n, name in enumerate("abc")}
    assert room(arrays, 2) == room(jax.eval_shape(lambda: arrays), 2) == 4 * 3 * 50_000 * 4
    checkpoints = Checkpoints(tmp_path, 2)
    for step, figure in enumerate([0.9, 0.1, 0.2, 0.3], 1):
        checkpoints.save(step, arrays, {}, figure)
    written = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert 0.6 < written / room(arrays, 2) < 0.8  # three of four remain, somewhat compressed
