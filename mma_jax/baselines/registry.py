"""Every baseline by the name that the papers and the results give it. A new one is one file and one line here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

from ml_collections import ConfigDict

from mma_jax.baselines import bpr, completion, dgmrec, gre_mc, lightgcn, lrmm, macl, mmgcn, sasrec
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
    "LightGCN": Baseline("lightgcn", lightgcn.get_config, lightgcn.make, needs="behavior"),
    "SASRec": Baseline("sasrec", sasrec.get_config, sasrec.make, needs="behavior"),
    "MACL": Baseline("macl", macl.get_config, macl.make),
    "DGMRec": Baseline("dgmrec", dgmrec.get_config, dgmrec.make),
    "MMGCN": Baseline("mmgcn", mmgcn.get_config, mmgcn.make),
    "LRMM": Baseline("lrmm", lrmm.get_config, lrmm.make),
    "Complete-Zeros": Baseline("completion", completion.get_config, partial(completion.make, fill="zeros")),
    "Complete-Mean": Baseline("completion", completion.get_config, partial(completion.make, fill="mean")),
    "Complete-NeighborMean": Baseline(
        "completion", completion.get_config, partial(completion.make, fill="neighbor_mean")
    ),
    "Complete-Propagation": Baseline("completion", completion.get_config, partial(completion.make, fill="propagation")),
    "GRE-MC": Baseline("gre_mc", gre_mc.get_config, gre_mc.make),
}
