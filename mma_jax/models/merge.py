"""A base checkpoint and a LoRA adapter, both in their public formats -> one checkpoint that needs no adapter.

Works on files, one at a time: no model is built, so an 8B base merges in the memory of one shard, keeps its dtype,
its shards and everything beside them (config, tokenizer, chat template), and transformers, vLLM and others read it.
"""

from __future__ import annotations

import os
import pathlib
import shutil

import numpy as np
from tqdm import tqdm

from mma_jax.models import peft, tensors
from mma_jax.models.convert import weight_files
from mma_jax.types import InputError

CONFIG = "config.json"


def merge(base: str | os.PathLike, adapter: str | os.PathLike, out: str | os.PathLike) -> None:
    """Writes `out`: every adapted W becomes W + (alpha / r) B A, summed in float32 and rounded to W's own dtype.

    Args:
        base: folder of a Llama, as `convert.load_llama` reads it.
        adapter: folder of a plain LoRA, as `peft.save_peft` writes it.
        out: is created; config.json comes last, so that a folder that has it is whole.

    Raises:
        InputError: a folder or file is missing or broken, the adapter does not fit the base, `out` is the base.
    """
    base, out = pathlib.Path(base), pathlib.Path(out)
    if out.resolve() == base.resolve():
        raise InputError(f"{out}: is the base itself; write the merged checkpoint somewhere else")
    updates = _updates(pathlib.Path(adapter))
    files = {path: tensors.headers(path) for path in weight_files(base)}
    if lost := sorted(set(updates).difference(*files.values())):
        raise InputError(f"{adapter}: {base} has no {lost[0]}; is it the adapter of another model?")
    out.mkdir(parents=True, exist_ok=True)
    for path, names in tqdm(files.items(), desc="merging", leave=False, delay=2):
        with tensors.open_file(path) as file:
            arrays = {name: file.get_tensor(name) for name in names}
        for name in sorted(arrays.keys() & updates.keys()):
            arrays[name] = _merged(arrays[name], *updates[name], name)
        tensors.save_file(arrays, out / path.name, {"format": "pt"})
    for path in base.iterdir():
        if path.is_file() and path not in files and path.name != CONFIG:
            shutil.copyfile(path, out / path.name)
    tensors.save_json(tensors.read_json(base / CONFIG), out / CONFIG)


def _updates(folder: pathlib.Path) -> dict[str, tuple[np.ndarray, np.ndarray, float]]:
    """Name of a base's tensor -> (B [out, r], A [r, in], alpha / r)."""
    settings, found = peft.read_settings(folder), {}
    with tensors.open_file(folder / peft.WEIGHTS) as file:
        keys = set(file.keys())
        names = {key.removesuffix(peft.A) for key in keys if key.endswith(peft.A)}
        tensors.check_names({name + part for name in names for part in (peft.A, peft.B)}, keys, folder, ignored=())
        for name in names:
            up, down = (file.get_tensor(name + part).astype(np.float32) for part in (peft.B, peft.A))
            found[name.removeprefix(peft.PREFIX) + ".weight"] = up, down, settings["lora_alpha"] / settings["r"]
    return found


def _merged(weight: np.ndarray, up: np.ndarray, down: np.ndarray, scale: float, name: str) -> np.ndarray:
    if weight.shape != (len(up), down.shape[1]) or up.shape[1] != len(down):
        raise InputError(f"{name} is {weight.shape} in the base, {up.shape} x {down.shape} in the adapter")
    return (weight.astype(np.float32) + scale * (up @ down)).astype(weight.dtype)
