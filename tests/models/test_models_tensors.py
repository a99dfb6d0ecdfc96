"""Files in public formats, written in one step."""

import numpy as np
import pytest
from disk import files_of_at_most

from mma_jax.models import tensors


def test_a_full_disk_is_an_error_of_the_disk_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.safetensors"
    tensors.save_file({"a": np.arange(3)}, path)
    with files_of_at_most(100_000), pytest.raises(OSError, match="File too large") as caught:
        tensors.save_file({"a": np.zeros(100_000)}, path)
    assert caught.value.filename == str(path)
    with tensors.open_file(path) as file:
        assert file.get_tensor("a").tolist() == [0, 1, 2]


def test_whoever_may_read_other_files_may_read_weights(tmp_path):
    tensors.save_file({"a": np.zeros(3, np.float32)}, tmp_path / "a.safetensors")
    (tmp_path / "other").write_text("")
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode
    assert not (tmp_path / "a.safetensors.part").exists()
