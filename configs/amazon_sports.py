"""Amazon Sports 5-core (35,598 users, 18,357 items): text and behaviour, order without a clock, B = 100.

    python -m mma_jax.main --config=configs/amazon_sports.py --workdir=runs/sports --config.data.root=DATA

DATA holds amazon-sports/ with amazon-sports.inter and amazon-sports.item. Titles are keywords and there is no
description. There are no images, so of the seven families no_image, text_only and behavior_only can be realised; the
others are left out. The split is per user (last 10% test, 10% before it validation).
"""

from mma_jax.config import base


def get_config():
    config = base()
    config.data.source = "atomic"
    config.data.name = "amazon-sports"
    return config
