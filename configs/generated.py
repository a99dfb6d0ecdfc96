"""The generated world at full size: 1,000 test targets a family, three training seeds, every method and its bound.

python -m mma_jax.main --config=configs/generated.py --workdir=runs/generated
"""

from mma_jax.config import base


def get_config():
    config = base()
    config.methods = "scripted,agents"
    config.seeds = "0,1,2"
    config.protocols = "ooma,interactive"
    config.pool.size = 20
    config.images.encoder = "tiny"
    config.images.vocabulary = "world"
    config.episodes.train = 2000
    config.episodes.valid = 300
    config.episodes.test = 1000
    config.graph.source = "copurchases"  # sampled from what behaviour shows; the interactions would show all
    config.graph.decay = 1.0  # the order of interactions means nothing here
    return config
