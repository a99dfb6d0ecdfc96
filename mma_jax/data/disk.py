"""Files that are whole or not there, and folders that one process at a time writes to."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import BinaryIO

from mma_jax.types import InputError


def write_atomically(path: Path, text: str) -> None:
    """Replace a file in one step: a killed run leaves the old one or the new one."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def lock(path: Path) -> BinaryIO:
    """Opens the file and holds it against other writers until it is closed or the process dies."""
    file = open(path, "ab")  # noqa: SIM115 - stays open on purpose
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise InputError(f"{path.parent}: another run is writing here; wait for it or choose another folder") from None
    return file
