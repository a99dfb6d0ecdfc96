"""Where data comes from: `config.data.source` -> load. A new source is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mma_jax.data import amazon2014, atomic, generated
from mma_jax.types import Dataset, InputError

SOURCES: dict[str, Callable[[str, str], Dataset]] = {
    "atomic": atomic.load,
    "amazon2014": amazon2014.load,
}
"""Each is called as load(root, name). The generated world is made rather than found, see `load`."""


def load(config, directory: Path) -> Dataset:
    """The dataset of a config. directory: where a generated world without a root of its own is kept.

    Raises InputError for an unknown source or a missing root.
    """
    data = config.data
    if data.source == "generated":
        return generated.load(data.root or str(directory), data.name, generated.world_config(config.world))
    if data.source not in SOURCES:
        raise InputError(f"unknown data.source {data.source!r}: known are generated, {', '.join(SOURCES)}")
    if not data.root:
        raise InputError("data.root is empty: say where the data lies, --config.data.root=DIR (DIR holds NAME/)")
    return SOURCES[data.source](data.root, data.name)
