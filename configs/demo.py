"""The generated world, small: from nothing to a report in a few minutes on two cores.

    python -m mma_jax.main --config=configs/demo.py --workdir=runs/demo

Its negative controls: --config=configs/demo.py:empty_text (or empty_image, empty_behavior: a modality without
information; permuted: targets drawn at random).

B = 20 candidates, 200 targets a family, all four protocols, all methods that need no language model, with the Bayes
bound and the reward-optimal router beside them.

Took 1:04 minutes and 0.8 GB on 2 cores. Expect OOMA NDCG@10 of .27 for the first stage and RuleRouter-Fuse, .30 for
Evidence-linear, .37 for Bayes.
"""

from mma_jax.config import base, world_knobs


def get_config(preset="default"):
    config = base()
    config.world = world_knobs(preset)
    config.pool.size = 20
    config.images.encoder = "tiny"
    config.images.vocabulary = "world"
    config.episodes.train = 1000
    config.episodes.valid = 200
    config.episodes.test = 200
    config.graph.source = "copurchases"  # sampled from what behaviour shows; the interactions would show all
    config.graph.decay = 1.0  # the order of interactions means nothing here
    return config
