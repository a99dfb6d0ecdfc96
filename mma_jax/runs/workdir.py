"""The folder of a run: where it resumes, and when it must not."""

from __future__ import annotations

import json
import os
from pathlib import Path

from ml_collections import ConfigDict

from mma_jax.types import InputError

FREE = ("run", "methods", "protocols", "seeds")
"""Settings that may change between commands on one folder: they choose what is done, not what comes out."""


def open_workdir(path: str, config: ConfigDict, dry_run: bool) -> Path:
    """Create or reopen DIR, refuse it if it holds work made with other settings, save DIR/config.json.

    Raises InputError if it cannot be written or its settings differ.
    """
    directory = Path(path).expanduser()
    settings = json.loads(config.to_json())
    known = directory / "config.json"
    if known.exists():
        try:
            saved = json.loads(known.read_text())
        except ValueError as error:
            raise InputError(f"{known} is not JSON: delete it, or choose another --workdir") from error
        differing = [key for key in _differences(saved, settings) if key not in FREE]
        if differing:
            raise InputError(
                f"{directory} holds a run with other settings ({', '.join(differing)}): "
                "give the same settings to resume it, or another --workdir"
            )
    if not dry_run:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            write_atomically(known, json.dumps(settings, indent=2))
        except OSError as error:
            raise InputError(f"cannot write to {directory}: {error.strerror}; choose another --workdir") from error
    return directory


def write_atomically(path: Path, text: str) -> None:
    """Replace a file in one step: a killed run leaves the old one or the new one."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def _differences(a: dict, b: dict, prefix: str = "") -> list[str]:
    keys = []
    for key in dict.fromkeys([*a, *b]):
        left, right = a.get(key), b.get(key)
        if isinstance(left, dict) and isinstance(right, dict):
            keys += _differences(left, right, f"{prefix}{key}.")
        elif left != right:
            keys.append(prefix + key)
    return keys
