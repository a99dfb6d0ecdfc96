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
from mma_jax.models.convert import INDEX, WHOLE, weight_files
from mma_jax.types import InputError

CONFIG = "config.json"
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".gguf", ".index.json")
"""Endings of weights and of their indices: the same model in another format would stay unmerged, so it is left out."""


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
    config, updates = tensors.read_json(base / CONFIG), peft.read_peft(adapter)
    files = {path: tensors.headers(path) for path in weight_files(base)}
    if lost := sorted(set(updates).difference(*files.values())):
        raise InputError(f"{adapter}: {base} has no {lost[0]}; is it the adapter of another model?")
    out.mkdir(parents=True, exist_ok=True)
    for path, names in tqdm(files.items(), desc="merging", leave=False, delay=2):
        with tensors.open_file(path) as file:
            arrays = {name: file.get_tensor(name) for name in names}
        for name in sorted(arrays.keys() & updates.keys()):
            arrays[name] = _merged(arrays[name], updates[name], name)
        tensors.save_file(arrays, out / path.name, {"format": "pt"})
    written = {CONFIG, *(path.name for path in files)}
    for path in base.iterdir():
        stale = path.name.endswith(_WEIGHTS) and (path.name != INDEX or base / WHOLE in files)
        if path.is_file() and path.name not in written and not stale:
            shutil.copyfile(path, out / path.name)
    tensors.save_json(config, out / CONFIG)


def _merged(weight: np.ndarray, update: peft.Update, name: str) -> np.ndarray:
    down, up, scale = update
    if weight.shape != (len(up), down.shape[1]):
        raise InputError(f"{name} is {weight.shape} in the base, {up.shape} x {down.shape} in the adapter")
    return (weight.astype(np.float32) + scale * (up @ down)).astype(weight.dtype)
