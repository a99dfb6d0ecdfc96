"""What reading every public checkpoint needs: JSON, safetensors, and the check that they hold what is wanted.

Only safetensors are read: they hold arrays and can run no code.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterable

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
        raise InputError(f"{path}: not a readable safetensors file ({error})") from None


def check_names(wanted: Iterable[str], found: Iterable[str], path: pathlib.Path, ignored: tuple[str, ...]) -> None:
    """Every tensor wanted must be there and no other may be, so that a checkpoint of another architecture is refused
    instead of half loaded.

    Args:
        ignored: endings of names that may be there or not.

    Raises:
        InputError: a tensor is missing or unexpected.
    """
    wanted, found = set(wanted), set(found)
    if missing := sorted(wanted - found):
        raise InputError(f"{path}: {len(missing)} tensors are missing, first {missing[0]}; does it fit its config?")
    if foreign := sorted(name for name in found - wanted if not name.endswith(ignored)):
        raise InputError(f"{path}: {len(foreign)} unexpected tensors, first {foreign[0]}; does it fit its config?")


def read_json(path: pathlib.Path) -> dict:
    """Reads a JSON object.

    Raises:
        InputError: it cannot be read or is something else.
    """
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot read this JSON file ({error})") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected a JSON object")
    return values
