"""The generated world at full size: 1,000 test targets a family, three training seeds, every method and its bound.

python -m mma_jax.main --config=configs/generated.py --workdir=runs/generated
"""

from mma_jax.config import generated_world


def get_config():
    config = generated_world()
    config.methods = "scripted,agents"
    config.seeds = "0,1,2"
    config.protocols = "ooma,interactive"
    config.episodes.train = 2000
    config.episodes.valid = 300
    config.episodes.test = 1000
    return config
