"""Amazon Baby 5-core: behaviour alone, with the random split that comes with the data, B = 100.

    python -m mma_jax.main --config=configs/amazon_baby.py --workdir=runs/baby --config.data.root=DATA

DATA holds amazon-baby/amazon-baby.inter. The only family that can be realised is behavior_only.

Took 2:15 minutes and 0.8 GB on 2 cores. Expect recall@100 of .19; NDCG@10 .164 for the first stage, .216 for
Evidence-linear, which makes use of how often candidates were taken.

With agents on the embedded L0-tiny, over pools of 20: --config=configs/amazon_baby.py:small. NDCG@10 over 3,000 test
episodes, means and standard deviations of seeds 0, 1, 2: MMA-SFT .447 (.003), MMA-Auto .448 (.006), First-stage,
RuleRouter-Fuse and ReAct .369, Popularity .428, Evidence-linear .465, LightGCN .465 (.005), LRMM .454, DGMRec .453,
MACL .446, BPR-MF .444, MMGCN .431 (.002; 30 epochs) (--config.methods=...); Popularity fused with the first stage .449.
A seed took 4 minutes of SFT and 8 of PPO (2,560 episodes) on 2 cores, and 3 for each agent to be judged; at most 11.7
GB.
"""

from mma_jax.config import base, play_l0_tiny
from mma_jax.types import InputError


def get_config(preset="default"):
    config = base()
    config.data.source = "atomic"
    config.data.name = "amazon-baby"
    config.graph.decay = 1.0  # the order of interactions means nothing here
    if preset == "small":
        _small(config)
    elif preset != "default":
        raise InputError(f"configs/amazon_baby.py has no preset {preset!r}: known are default, small")
    return config


def _small(config):
    play_l0_tiny(config)
    config.methods = "scripted,ReAct,MMA-SFT,MMA-Auto"
    config.seeds = "0,1,2"
    config.protocols = config.eval.language_protocols = "ooma"
    config.episodes.train, config.episodes.valid, config.episodes.test = 8000, 1500, 3000
    config.env.context = 2048
    config.model.lengths = "384,512,2048"
    config.eval.fit_episodes = config.sft.fit_episodes = 10_000
    config.sft.episodes = 4000
    config.sft.steps = 400
    config.ppo.iterations = 40
    config.ppo.query_every, config.ppo.query = 40, 200
