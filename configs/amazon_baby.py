"""Amazon Baby 5-core: behaviour alone, with the random split that comes with the data, B = 100.

    python -m mma_jax.main --config=configs/amazon_baby.py --workdir=runs/baby --config.data.root=DATA

DATA holds amazon-baby/amazon-baby.inter. The only family that can be realised is behavior_only.
"""

from mma_jax.config import base


def get_config():
    config = base()
    config.data.source = "atomic"
    config.data.name = "amazon-baby"
    config.graph.decay = 1.0  # the order of interactions means nothing here
    return config
