"""Amazon Baby 5-core: behaviour alone, with the random split that comes with the data, B = 100.

    python -m mma_jax.main --config=configs/amazon_baby.py --workdir=runs/baby --config.data.root=DATA

DATA holds amazon-baby/amazon-baby.inter. The only family that can be realised is behavior_only.

Took 2:15 minutes and 0.8 GB on 2 cores. Expect recall@100 of .19; NDCG@10 .164 for the first stage, .216 for
Evidence-linear, which makes use of how often candidates were taken.
"""

from mma_jax.config import base


def get_config():
    config = base()
    config.data.source = "atomic"
    config.data.name = "amazon-baby"
    config.graph.decay = 1.0  # the order of interactions means nothing here
    return config
