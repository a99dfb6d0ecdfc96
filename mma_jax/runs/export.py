"""config.run = export: trained agents as Hugging Face checkpoints, their adapters folded into the base.

DIR/export/METHOD/SEED is a folder like the base's (config, tokenizer, safetensors in its dtype) that transformers, vLLM
and others read. The adapter alone is in DIR/train/METHOD/SEED/adapter, in the format of `peft`; training writes it.
"""

from __future__ import annotations

from pathlib import Path

from mma_jax.models import peft
from mma_jax.models.convert import L0_TINY
from mma_jax.models.merge import CONFIG, merge
from mma_jax.runs.workdir import check_room, used
from mma_jax.types import InputError


def run(config, directory: Path, dry_run: bool) -> None:
    trained = sorted(path.parent for path in (directory / "train").glob(f"*/*/adapter/{peft.SETTINGS}"))
    if not trained:
        raise InputError(f"{directory}: no trained agent in it: --config.run=train first, with the same --workdir")
    base = Path(config.model.path or L0_TINY)
    for folder in trained:
        out = directory / "export" / folder.relative_to(directory / "train").parent
        if not dry_run and not _is_newer(out / CONFIG, folder / peft.WEIGHTS):
            check_room(out, used(base))
            merge(base, folder, out)
        print(out)


def _is_newer(path: Path, than: Path) -> bool:
    return path.is_file() and path.stat().st_mtime_ns >= than.stat().st_mtime_ns
