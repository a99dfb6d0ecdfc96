"""Amazon Beauty 5-core (22,363 users, 12,101 items): text and behaviour, order without a clock, B = 100.

    python -m mma_jax.main --config=configs/amazon_beauty.py --workdir=runs/beauty --config.data.root=DATA

DATA holds amazon-beauty/ with amazon-beauty.inter and amazon-beauty.item. There are no images, so of the seven
families no_image, text_only and behavior_only can be realised; the others are left out. Recall is measured on sampled
targets of all users; the split is per user (last 10% test, 10% before it validation).

Took 5:18 minutes and 2.1 GB on 2 cores. Expect recall@100 of .18 (text), .20 (behaviour); OOMA NDCG@10 .186 for the
first stage, and no method that needs no language model far above it.
"""

from mma_jax.config import base


def get_config():
    config = base()
    config.data.source = "atomic"
    config.data.name = "amazon-beauty"
    return config
