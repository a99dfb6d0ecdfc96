"""The generated world at full size: 1,000 test targets a family, three training seeds, every method and its bound.

    python -m mma_jax.main --config=configs/generated.py --workdir=runs/generated

Run so far: seed 0 of ReAct, MMA-SFT and MMA-Auto in "ooma" (--config.methods=scripted,ReAct,MMA-SFT,MMA-Auto
--config.protocols=ooma --config.seeds=0; 45 minutes on 2 shared cores). NDCG@10: First-stage .266, RuleRouter-Fuse
.267, ReAct .259, Evidence-linear .300, MMA-SFT .310, MMA-Auto .308, Bayes .364. Both MMA agents beat RuleRouter-Fuse by
.04 (p < 1e-13 after Holm); PPO adds nothing to SFT. notebooks/LOG.md has the details.
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
