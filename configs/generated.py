"""The generated world at full size: 1,000 test targets a family, three training seeds, every method and its bound.

    python -m mma_jax.main --config=configs/generated.py --workdir=runs/generated

Run in "ooma" on 2 cores: 7 minutes of SFT and, beside other work, 14 to 18 of PPO (3,840 episodes) a seed, then 3 to 4
to validate and test a method and a seed. On one H100, with 512 episodes an iteration, SFT took 1 minute and 14,000
episodes of PPO 4:30.

NDCG@10 over 3,000 episodes, means of seeds 0, 1 and 2: First-stage and RuleRouter-Fuse .246, Evidence-linear .291,
MMA-SFT .292 (.293, .290, .293), MMA-Auto .292 (.294, .293, .288), Bayes .347; ReAct .246, where validation gives it no
weight at all. MMA-Interactive, seed 0 alone: .293; it does not ask. The agents beat RuleRouter-Fuse (1.19 times, p <
1e-22 after Holm); of their calls at most .1% fail, in 2.0 turns. MMA-Auto is not above MMA-SFT: its expected NDCG@10 is
.0007 below (.0002 to .0012). PPO gains .0015 at the fusion weight that its reward has, .5, and validation chooses .15
to .25. SFT has since been shown families with several modalities too; notebooks/LOG.md has the details.

With --config.env.summaries=none (seed 0, 15 iterations of PPO, 200 test targets a family) both agents switch behind a
Null: .3145 and .3149 for RuleRouter-Fuse's .2612 (1.2 times, p < .001 after Holm), 50% of their calls fail (67%), 3.0
turns (4.0).
"""

from mma_jax.config import generated_world


def get_config():
    config = generated_world()
    config.methods = "scripted,agents"
    config.seeds = "0,1,2"
    config.protocols = "ooma,interactive"
    config.world.n_users = 12_000  # so that PPO has 8,000 targets of its own to learn from
    config.episodes.train = 8000
    config.episodes.valid = 500
    config.episodes.test = 1000
    config.eval.fit_episodes = 20_000
    config.eval.language_protocols = "ooma,interactive"
    config.sft.fit_episodes = 20_000  # ten times the default: the teacher's NDCG@10 .318 instead of .305
    config.sft.episodes = 5000
    config.sft.steps = 600
    config.ppo.query_every = 60
    config.ppo.query = 50
    return config
