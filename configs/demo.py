"""The generated world, small: from nothing to a report with a trained agent, in minutes on two cores.

    python -m mma_jax.main --config=configs/demo.py --workdir=runs/demo

Its negative controls: --config=configs/demo.py:empty_text (or empty_image, empty_behavior: a modality without
information; permuted: targets drawn at random).

B = 20 candidates, 200 test targets a family; all methods that need no language model in all four protocols, with the
Bayes bound and the reward-optimal router beside them; ReAct, MMA-SFT (160 steps) and MMA-Auto (8 iterations of PPO, 32
episodes each) in "ooma".

Took 12:39 minutes with the installation, on 2 cores, the last 3 with a test suite beside; the scripted methods alone
take one. Expect OOMA NDCG@10 of .271 for the first stage, RuleRouter-Fuse and ReAct, .275 for MMA-SFT, .291 for
MMA-Auto, .287 for Evidence-linear, .373 for Bayes. After so little training MMA-Auto has learned to score, not yet to
route: it tries the text first and scores after a Null.
"""

from mma_jax.config import generated_world


def get_config(preset="default"):
    config = generated_world(preset)
    config.methods = "scripted,ReAct,MMA-SFT,MMA-Auto"
    config.episodes.train = 1000
    config.episodes.valid = 60
    config.episodes.test = 200
    config.eval.language_protocols = "ooma"
    config.eval.probes = 20
    config.eval.traces = 3
    config.ppo.iterations = 8
    config.ppo.prompts = 8
    config.ppo.query_every = 7
    config.ppo.query = 8
    return config
