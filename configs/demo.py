"""The generated world, small: from nothing to a report with a trained agent, in minutes on two cores.

    python -m mma_jax.main --config=configs/demo.py --workdir=runs/demo

Its negative controls: --config=configs/demo.py:empty_text (or empty_image, empty_behavior: a modality without
information; permuted: targets drawn at random).
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
