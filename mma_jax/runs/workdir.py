"""The folder of a run: where it resumes, and when it must not."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from pathlib import Path

from ml_collections import ConfigDict

from mma_jax.data.disk import write_atomically
from mma_jax.types import InputError

WORK = ("data.sha256", "cells.jsonl")
"""What a run leaves first of all. Evidence in prepared/ and SFT in train/ may have been there before: see launch/."""

FREE = ("run", "methods", "protocols", "seeds", "mesh.data", "mesh.fsdp", "mesh.tensor")
"""Settings that may change between commands on one folder: they choose what is done and on what devices, not what comes
out."""


def open_workdir(path: str, config: ConfigDict, dry_run: bool) -> Path:
    """Create or reopen DIR, refuse it if it holds work made with other settings, save DIR/config.json.

    Raises InputError if it cannot be written, its settings differ, or nothing says what they were.
    """
    directory = Path(path).expanduser()
    settings = json.loads(config.to_json())
    known = directory / "config.json"
    begun = any((directory / name).exists() for name in WORK)  # before `known`: another process may be writing both
    if begun and not known.exists():
        raise InputError(
            f"{directory} holds a run without config.json, which says with what settings: put it back, or choose "
            "another --workdir"
        )
    checksum = directory / "data.sha256"
    # the data's checksum alone: the input before was wrong, and nothing was made with it
    started = directory.is_dir() and any(path not in (known, checksum) for path in directory.iterdir())
    if known.exists() and started:
        try:
            saved = json.loads(known.read_text(encoding="utf-8"))
        except ValueError:
            saved = None
        if not isinstance(saved, dict):
            raise InputError(f"{known} does not hold the settings of a run: put them back, or choose another --workdir")
        differing = [key for key in _differences(saved, settings) if key not in FREE]
        if differing:
            raise InputError(
                f"{directory} holds a run with other settings ({', '.join(differing)}): "
                "give the same settings to resume it, or another --workdir"
            )
    if not dry_run:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            if not started:
                checksum.unlink(missing_ok=True)
            write_atomically(known, json.dumps(settings, indent=2))
        except OSError as error:
            raise InputError(f"cannot write to {directory}: {error.strerror}; choose another --workdir") from error
    return directory


def check_room(directory: Path, needed: int) -> None:
    """Try, before any work, whether a run can keep its files.

    Args:
        directory: where they go; made when needed.
        needed: bytes they take beside what is there.

    Raises:
        InputError: nothing can be written there, or the disk has too little left.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory) as file:  # permissions do not tell all, so try
            file.write(b"0")
    except OSError as error:
        raise InputError(f"cannot write to {directory}: {error.strerror}; choose another --workdir") from error
    left = shutil.disk_usage(directory).free
    if needed > left:
        raise InputError(
            f"{directory}: checkpoints need {needed / 2**20:,.0f} MiB and the disk has {left / 2**20:,.0f} MiB left: "
            "make room, or choose another --workdir"
        )


def used(directory: Path) -> int:
    """Bytes of all files below a directory, 0 without one."""
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # another process may be cleaning up
                total += os.stat(os.path.join(folder, name)).st_size
    return total


def _differences(a: dict, b: dict, prefix: str = "") -> list[str]:
    keys = []
    for key in dict.fromkeys([*a, *b]):
        left, right = a.get(key), b.get(key)
        if isinstance(left, dict) and isinstance(right, dict):
            keys += _differences(left, right, f"{prefix}{key}.")
        elif left != right:
            keys.append(prefix + key)
    return keys
