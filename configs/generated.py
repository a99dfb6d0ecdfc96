"""The generated world at full size: 1,000 test targets a family, three training seeds, every method and its bound.

    python -m mma_jax.main --config=configs/generated.py --workdir=runs/generated

Run so far, in "ooma" (3,000 episodes, 45 minutes for a seed on 2 shared cores), NDCG@10: First-stage .266,
RuleRouter-Fuse .267, ReAct .259, Evidence-linear .300, MMA-SFT .310 and .301 (seeds 0 and 1), MMA-Auto .308 and .302,
Bayes .364. Both agents beat RuleRouter-Fuse by .035 to .043; PPO adds nothing to SFT, with seed 1 not even in 40
iterations of 64 episodes, two samples each. notebooks/LOG.md has the details.
"""

from mma_jax.config import generated_world


def get_config():
    config = generated_world()
    config.methods = "scripted,agents"
    config.seeds = "0,1,2"
    config.protocols = "ooma,interactive"
    config.episodes.train = 2000
    config.episodes.valid = 200
    config.episodes.test = 1000
    config.eval.language_protocols = "ooma,interactive"
    config.sft.steps = 600
    config.sft.episodes = 2000
    config.ppo.prompts = 32
    config.ppo.lr = 3e-4
    config.ppo.validate = 60
    config.ppo.checkpoint_every = 4
    return config
