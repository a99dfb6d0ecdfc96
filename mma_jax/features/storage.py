"""How an evidence store lies on disk: one folder, one .npy per array (memory-mapped on load), one JSON file of text."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np

from mma_jax.types import InputError

STRINGS = "strings.json"


def save(directory: str | os.PathLike, arrays: dict[str, np.ndarray], strings: dict) -> None:
    """Writes a store into a fresh folder and then swaps it in, so that a killed run never leaves half a store."""
    directory = Path(directory)
    fresh = directory.with_name(directory.name + ".tmp")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    for name, array in arrays.items():
        np.save(fresh / f"{name}.npy", array, allow_pickle=False)
    (fresh / STRINGS).write_text(json.dumps(strings), encoding="utf-8")
    if directory.exists():
        shutil.rmtree(directory)
    os.replace(fresh, directory)


def load(directory: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict]:
    """Returns (arrays, strings) as they were saved; the arrays are read-only views of the files.

    Raises InputError if the folder holds no store.
    """
    directory = Path(directory)
    if not (directory / STRINGS).is_file():
        raise InputError(f"{directory}: no evidence store here; run the prepare command first")
    # A plain view spares every later slice the overhead of np.memmap's bookkeeping.
    arrays = {
        path.stem: np.load(path, mmap_mode="r", allow_pickle=False).view(np.ndarray)
        for path in sorted(directory.glob("*.npy"))
    }
    return arrays, json.loads((directory / STRINGS).read_text(encoding="utf-8"))
