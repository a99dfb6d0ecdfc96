"""config.run = export: trained agents as Hugging Face checkpoints, their adapters folded into the base.

DIR/export/METHOD/SEED is a folder like the base's (config, tokenizer, safetensors in its dtype) that transformers, vLLM
and others read. The adapter alone is in DIR/train/METHOD/SEED/adapter, in the format of `peft`; training writes it.
"""

from __future__ import annotations

from pathlib import Path

from mma_jax.models.convert import L0_TINY
from mma_jax.models.merge import merge
from mma_jax.types import InputError


def run(config, directory: Path, dry_run: bool) -> None:
    trained = sorted((directory / "train").glob("*/*/adapter"))
    if not trained:
        raise InputError(f"{directory}: no trained agent in it: --config.run=train first, with the same --workdir")
    for folder in trained:
        out = directory / "export" / folder.relative_to(directory / "train").parent
        if not (out / "config.json").is_file() and not dry_run:
            merge(config.model.path or L0_TINY, folder, out)
        print(out)
