import os

import pytest

from mma_jax.data.disk import lock, write_atomically
from mma_jax.types import InputError


def test_a_file_is_replaced_whole_or_stays(tmp_path, monkeypatch):
    path = tmp_path / "notes.json"
    write_atomically(path, "é")
    assert path.read_bytes() == "é".encode() and os.listdir(tmp_path) == ["notes.json"]

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, "new")
    assert path.read_bytes() == "é".encode()


def test_a_second_writer_is_refused_until_the_first_has_ended(tmp_path):
    with lock(tmp_path / "lock"), pytest.raises(InputError, match="another run is writing here"):
        lock(tmp_path / "lock")
    lock(tmp_path / "lock").close()
