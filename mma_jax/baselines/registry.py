"""Every baseline by the name that the papers and the results give it. A new one is one file and one line here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from ml_collections import ConfigDict

from mma_jax.baselines import bpr
from mma_jax.baselines.corpus import Corpus
from mma_jax.baselines.recommender import Recommender


@dataclasses.dataclass(frozen=True)
class Baseline:
    """`settings`: its key in config.baselines, where `get_config` gives the defaults. `needs`: a modality without
    which it has nothing to say at all ("" if any one will do)."""

    settings: str
    get_config: Callable[[], ConfigDict]
    make: Callable[[ConfigDict, Corpus], Recommender]
    needs: str = ""


BASELINES: dict[str, Baseline] = {
    "BPR-MF": Baseline("bpr", bpr.get_config, bpr.make, needs="behavior"),
}
