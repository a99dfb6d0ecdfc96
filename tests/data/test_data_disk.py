import os

import pytest

from mma_jax.data.disk import write_atomically


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
