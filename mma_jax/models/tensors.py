"""What reading and writing public checkpoints needs: JSON, safetensors, and the check that they hold what is wanted.

Only safetensors are read: they hold arrays and can run no code.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import safetensors.numpy
from flax import nnx
from safetensors import SafetensorError, safe_open

from mma_jax.types import InputError


def parameters(model: nnx.Module) -> dict[str, nnx.Variable]:
    """The model's parameters by the dotted path of their attributes."""
    return {".".join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(nnx.state(model, nnx.Param))}


def open_file(path: pathlib.Path) -> safe_open:
    """Opens a safetensors file, its header checked against its length; tensors come as numpy arrays, bfloat16 too.

    Raises:
        InputError: no such file, or not a whole safetensors file.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; only safetensors weights are read, convert other formats first")
    try:
        return safe_open(path, framework="np")
    except SafetensorError as error:
        raise InputError(f"{path}: not a readable safetensors file ({line(error)})") from None


def save_file(arrays: Mapping[str, np.ndarray], path: pathlib.Path, metadata: dict[str, str] | None = None) -> None:
    """Writes a safetensors file in one step: a killed run leaves the old one or the new one.

    Raises:
        OSError: the disk is full or the like.
    """
    part = path.with_name(f"{path.name}.part")
    part.touch()
    usual = part.stat().st_mode  # safetensors 0.8 leaves files that nobody else may read
    try:
        safetensors.numpy.save_file(dict(arrays), part, metadata=metadata)
        part.chmod(usual)
    except SafetensorError as error:
        if (found := re.search(r"os error (\d+)", str(error))) is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from error
    os.replace(part, path)


def save_json(values: dict, path: pathlib.Path) -> None:
    """Writes a JSON object in one step."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(values, indent=1) + "\n")
    os.replace(part, path)


class Header(NamedTuple):
    """What a safetensors file says of a tensor before it is read."""

    path: pathlib.Path
    shape: tuple[int, ...]
    dtype: str  # in the format's own spelling, such as BF16


def headers(path: pathlib.Path) -> dict[str, Header]:
    """All tensors of a file by name; see `open_file`."""
    with open_file(path) as file:
        parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        return {name: Header(path, tuple(part.get_shape()), part.get_dtype()) for name, part in parts.items()}


def check_names(wanted: Iterable[str], found: Iterable[str], path: pathlib.Path, ignored: tuple[str, ...]) -> None:
    """Every tensor wanted must be there and no other may be, so that a checkpoint of another architecture is refused
    instead of half loaded.

    Args:
        ignored: endings of names that may be there or not.

    Raises:
        InputError: a tensor is missing or unexpected.
    """
    wanted, found = set(wanted), set(found)
    foreign = {name for name in found - wanted if not name.endswith(ignored)}
    for names, problem in ((wanted - found, "tensors are missing"), (foreign, "unexpected tensors")):
        if names:
            raise InputError(f"{path}: {len(names)} {problem}, first {line(min(names))}; does it fit its config?")


def read_json(path: pathlib.Path) -> dict:
    """Reads a JSON object.

    Raises:
        InputError: it cannot be read or is something else.
    """
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot read this JSON file ({line(error)})") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected a JSON object")
    return values


def line(said: object) -> str:
    """What a broken file makes others say, fit for an error: at most 200 characters that a terminal only prints."""
    return "".join(letter if letter.isprintable() else " " for letter in str(said)[:200])
