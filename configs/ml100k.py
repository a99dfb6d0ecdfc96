"""MovieLens-100K with posters, plots and real timestamps: all three modalities, all seven families, B = 100.

    python -m mma_jax.main --config=configs/ml100k.py --workdir=runs/ml100k --config.data.root=DATA

DATA holds ml-100k/ with ml-100k.inter, ml-100k.item and images/. Liked means rated 4 or 5. Posters are encoded by a
tiny CLIP trained on the posters themselves in five folds, each image only by a model that did not see it.

Took 4:51 minutes and 2.2 GB on 2 cores, of which the posters are about one minute. Expect recall@100 of .23 (text), .07
(image), .63 (behaviour); OOMA NDCG@10 .114 for the first stage, .125 for Evidence-linear; LOMO .166 and .197.

With the agents, on L0-tiny: --config=configs/ml100k.py:agents --config.model.path=WORDS/l0_tiny, where WORDS is the
work folder of --config.run=pretrain --config.pretrain.words=7000 (mma_jax/runs/pretrain.py has the command). It knows
which words are the same, not what they mean, and its teacher is silent: in 2,048 tokens it finds nothing that the first
stage does not know. So the agents learn to call the right tool and to score all alike (seed 0, 300 test episodes:
MMA-SFT, MMA-Auto and First-stage .126, RuleRouter-Fuse .122, Evidence-linear .125; 2% of their calls fail, 2.1 turns).
That seed took 45 minutes on 2 cores, without ReAct. With --config.model.path a Llama that reads plays.
"""

from mma_jax.config import base
from mma_jax.types import InputError


def get_config(preset="default"):
    config = base()
    config.data.source = "atomic"
    config.data.name = "ml-100k"
    config.data.positive_rating = 4.0
    config.images.encoder = "kfold"
    config.images.vocabulary = "movie_genres"
    config.episodes.train, config.episodes.valid, config.episodes.test = 1000, 300, 600
    config.episodes.per_user = 5  # in any tenth of the calendar few of the 943 users are active, but they rate a lot
    if preset == "agents":
        _agents(config)
    elif preset != "default":
        raise InputError(f"configs/ml100k.py has no preset {preset!r}: known are default, agents")
    return config


def _agents(config):
    config.methods = "scripted,ReAct,MMA-SFT,MMA-Auto"
    config.seeds = "0,1,2"
    config.protocols = config.eval.language_protocols = "ooma"
    config.episodes.valid, config.episodes.test = 40, 100
    config.eval.probes = 0
    config.env.context = 2048  # the paper's
    config.env.count = "model"
    config.env.summary_tokens = 2
    config.model.lora_targets = "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"
    config.model.lengths = "1024,1280,1536,2048"
    config.sampler.slots = "1024,1280,1536,1792,2048"
    config.sampler.chunks = "32,128,256,512,768"
    config.sampler.max_new = 288
    config.sampler.grammar = "on"  # a map of 100 scores is what L0-tiny slips on
    config.sft.mean = "turn"
    config.sft.lr, config.sft.max_grad_norm = 3.5e-3, 0.5
    config.sft.steps, config.sft.batch = 240, 4  # 80 of 8 left it calling tools that have nothing
    config.ppo.credit, config.ppo.temperature = "level", 0.4
    config.ppo.lr, config.ppo.value_lr = 1e-3, 3e-3
    config.ppo.iterations, config.ppo.prompts, config.ppo.value_only = 6, 16, 1
    config.ppo.query_every, config.ppo.query = 6, 4
