"""Adapters in the public format of Hugging Face's `peft`: adapter_config.json and adapter_model.safetensors."""

from __future__ import annotations

import math
import os
import pathlib
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from mma_jax.models import tensors
from mma_jax.models.llama import Llama
from mma_jax.models.lora import TARGETS, adapters
from mma_jax.types import InputError

WEIGHTS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"
PREFIX, A, B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"


def save_peft(model: Llama, folder: str | os.PathLike, base: str = "") -> None:
    """Writes a model's adapters, each file atomically; `peft.PeftModel.from_pretrained` puts them on the base. A folder
    that holds the same stays untouched.

    Args:
        model: with adapters of one rank and alpha on the same projections of every block, as `lora.add_lora` makes.
        folder: is created.
        base: what the adapter says it belongs to, a folder or a public name.

    Raises:
        ValueError: the model has no adapters.
    """
    found = list(adapters(model))
    if not found:
        raise ValueError("this Llama has no adapters; call lora.add_lora(model, ...) first")
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for layer, name, adapter in found:
        for part, leaf in zip((A, B), (adapter.a, adapter.b), strict=True):
            arrays[f"{PREFIX}{_module(layer, name)}{part}"] = np.ascontiguousarray(np.asarray(leaf[...]).T)
    first = found[0][2]
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": first.rank,
        "lora_alpha": first.scale * first.rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": sorted({name for _, name, _ in found}),
    }
    if not _holds(folder, arrays, settings):
        tensors.save_file(arrays, folder / WEIGHTS, {"format": "pt"})
        tensors.save_json(settings, folder / SETTINGS)


def _holds(folder: pathlib.Path, arrays: dict[str, np.ndarray], settings: dict) -> bool:
    try:
        with tensors.open_file(folder / WEIGHTS) as file:
            same = file.keys() == sorted(arrays) and all(np.array_equal(file.get_tensor(k), arrays[k]) for k in arrays)
        return same and tensors.read_json(folder / SETTINGS) == settings
    except InputError:
        return False


class Update(NamedTuple):
    """What a plain LoRA adds to a weight [out, in]: scale * up @ down."""

    down: np.ndarray  # float32 [r, in], A
    up: np.ndarray  # float32 [out, r], B
    scale: float  # alpha / r


def read_peft(folder: str | os.PathLike) -> dict[str, Update]:
    """The updates of an adapter by the base's names of the weights, such as "model.layers.0.mlp.up_proj.weight".

    Raises:
        InputError: no such folder, a broken file, another kind of adapter, tensors that are not of its rank.
    """
    folder = pathlib.Path(folder)
    settings, found = read_settings(folder), {}
    rank, scale = settings["r"], settings["lora_alpha"] / settings["r"]
    with tensors.open_file(folder / WEIGHTS) as file:
        keys = set(file.keys())
        names = {key.removesuffix(A) for key in keys if key.endswith(A)}
        tensors.check_names({name + part for name in names for part in (A, B)}, keys, folder, ignored=())
        for name in sorted(names):
            down, up = (file.get_tensor(name + part).astype(np.float32) for part in (A, B))
            if not (down.ndim == up.ndim == 2 and len(down) == up.shape[1] == rank):
                raise InputError(f"{folder}: {name} is {up.shape} x {down.shape}, {SETTINGS} says that r is {rank}")
            found[f"{name.removeprefix(PREFIX)}.weight"] = Update(down, up, scale)
    return found


def load_peft(model: Llama, folder: str | os.PathLike) -> None:
    """Gives a model's adapters the values in `folder`, in place.

    model: with adapters where the folder has some, of its rank and alpha (`read_settings` tells, `lora.add_lora` makes
    them).

    Raises:
        InputError: as `read_peft`, and an adapter of another rank, alpha, shape or place.
    """
    found = read_peft(folder)
    wanted = {f"{_module(layer, name)}.weight": adapter for layer, name, adapter in adapters(model)}
    tensors.check_names(wanted, found, pathlib.Path(folder), ignored=())
    for name, adapter in wanted.items():
        shapes = (*found[name].down.shape[::-1], *found[name].up.shape[::-1], found[name].scale)
        if shapes != (ours := (*adapter.a.shape, *adapter.b.shape, adapter.scale)):
            raise InputError(f"{folder}: inputs, rank, rank, outputs, alpha / rank of {name} are {shapes}, not {ours}")
    for name, adapter in wanted.items():
        adapter.a.set_value(jnp.asarray(found[name].down.T, adapter.a.dtype))
        adapter.b.set_value(jnp.asarray(found[name].up.T, adapter.b.dtype))


def read_settings(folder: str | os.PathLike) -> dict:
    """adapter_config.json: "r", "lora_alpha", "target_modules" and the rest.

    Raises:
        InputError: it is missing or broken, or of an adapter that is more than a plain LoRA.
    """
    path = pathlib.Path(folder) / SETTINGS
    settings = tensors.read_json(path)
    plain = {"peft_type": "LORA", "bias": "none", "use_rslora": False, "use_dora": False, "fan_in_fan_out": False}
    plain |= {"rank_pattern": {}, "alpha_pattern": {}, "modules_to_save": None}
    for name, value in plain.items():
        if settings.get(name, value) != value:
            raise InputError(f"{path}: {name} is {settings[name]!r}; only plain LoRA adapters ({value!r}) are read")
    targets, rank, alpha = (settings.get(name) for name in ("target_modules", "r", "lora_alpha"))
    if not isinstance(targets, list) or not all(isinstance(t, str) and t in TARGETS for t in targets):
        raise InputError(f"{path}: target_modules is {targets!r}; known: {', '.join(TARGETS)}")
    if type(rank) is not int or rank < 1 or type(alpha) not in (int, float) or not math.isfinite(alpha):
        raise InputError(
            f"{path}: r is {rank!r} and lora_alpha {alpha!r}: a LoRA needs a rank of at least 1 and a finite number"
        )
    return settings


def _module(layer: int, name: str) -> str:
    return f"model.layers.{layer}.{TARGETS[name]}.{name}"
