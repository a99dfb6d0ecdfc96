"""Every setting of an experiment and its default, in one place. Files in configs/ change a few of them.

Read as `config.pool.size`; a key that is not here is refused. Lists are comma-separated strings, so that
they can be given on the command line: --config.protocols=ooma,lomo.
"""

from __future__ import annotations

import dataclasses

from ml_collections import ConfigDict

from mma_jax.baselines.registry import BASELINES
from mma_jax.data.world import PRESETS
from mma_jax.types import InputError


def base() -> ConfigDict:
    """The default experiment: the generated world, every protocol, every method that needs no language model."""
    config = ConfigDict()
    config.run = "all"  # one of mma_jax.runs.registry.RUNS
    config.seed = 0  # splits, sampling of episodes, ties, shuffles
    config.seeds = "0"  # training seeds of methods that have any randomness of their own
    config.methods = "scripted"  # of agents/registry.py; scripted | baselines | agents stand for all of their kind
    config.protocols = "ooma,lomo,full_catalog,interactive"  # and stress_wrong, stress_stale: tools that lie

    config.data = ConfigDict()
    config.data.source = "generated"  # generated | atomic | amazon2014
    config.data.root = ""  # folder that holds NAME/; empty: inside the workdir (generated world only)
    config.data.name = "generated"
    config.data.split = "auto"  # auto | chronological | per_user | given (DESIGN §5.11)
    config.data.positive_rating = 0.0  # ratings at or above count as liked; missing ratings always do
    config.data.max_history = 50  # most recent liked items that evidence may use
    config.data.drop_modality = "none"  # none | text | image | both: what some items lose, see data/thinning.py
    config.data.drop_rate = 0.0  # share of the items having it that lose it
    config.data.drop_kind = "mcar"  # mcar | popularity (unpopular items first) | value (short texts, dark pictures)

    config.images = ConfigDict()
    config.images.encoder = "none"  # none | tiny | kfold | clip (Flax, from weights) | open_clip
    config.images.weights = ""  # folder of a public CLIP checkpoint, for encoder=clip
    config.images.vocabulary = "general"  # general | movie_genres | world
    config.images.seed = 0

    config.text = ConfigDict()
    config.text.dim = 64  # of the vectors that baselines see of a text (latent semantic analysis)

    config.graph = ConfigDict()
    config.graph.source = "interactions"  # interactions | copurchases (pairs the source lists; they know no time)
    config.graph.dim = 128  # of the graph embedding
    config.graph.index = "hnsw"  # hnsw | flat
    config.graph.decay = 0.9  # weight of a history item relative to the next newer one; 1 where order means nothing

    config.evidence = ConfigDict()
    config.evidence.crossfit = True  # False leaves training targets in their own graph (leaky; the audit must notice)
    config.evidence.parts = "train"  # "all" lets held-out interactions in (leaky; the audit must notice)

    config.pool = ConfigDict()
    config.pool.kind = "calibrated"  # calibrated | paper
    config.pool.size = 100  # B
    config.pool.negatives = "all"  # all | popularity: as popular as training targets, so that popularity tells nothing

    config.episodes = ConfigDict()
    config.episodes.train = 2000  # sampled targets per part; every family plays the same ones
    config.episodes.valid = 500
    config.episodes.test = 1000
    config.episodes.per_user = 2  # at most so many targets of one user in a part

    config.env = ConfigDict()
    config.env.turns = 8  # T
    config.env.count = "estimate"  # tokens of a text: estimate (Llama-3-like) | model (the model's own tokenizer)
    config.env.context = 8192  # tokens; the paper's 2,048 leaves each of 100 candidates two tokens of summary
    config.env.summaries = "surviving"  # surviving (paper §3.1) | none (strict: only tools reveal anything)
    config.env.summary_tokens = 16  # of a candidate's summary in the prompt, at most
    config.env.graph_titles = True
    config.env.graph_counts = True  # Retrieve_Graph also tells each candidate's degree, "taken" (False: the paper)
    config.env.max_items = 0  # ids per Analyze_* call, 0 = no limit, 1 = the paper
    config.env.alpha = 0.5  # fusion weight inside the reward
    config.env.cost_tool = -0.02
    config.env.cost_ask = -0.10
    config.env.cost_invalid = -0.20

    config.eval = ConfigDict()
    config.eval.alpha_step = 0.05  # grid of Eq. 2's fusion weight on validation
    config.eval.fit_episodes = 2000  # training episodes that a scripted method with parameters is fitted on, at most
    config.eval.language_protocols = "ooma,lomo,full_catalog,interactive"  # that agents with a language model play
    config.eval.scores = "written"  # written | expected (agents' mean over the levels' probabilities; not AgentCF's)
    config.eval.batch = 256  # episodes played side by side
    config.eval.traces = 5  # episodes kept for the trace viewer, per method, protocol and family
    config.eval.probes = 50  # evidence calls per family whose worth is measured by scoring without them
    config.eval.queries = 12  # that --config.run=cost plays alone, of each method
    config.eval.bootstrap = 2000
    config.eval.reference = "RuleRouter-Fuse"  # what every method is compared with

    config.model = ConfigDict()
    config.model.path = ""  # Hugging Face folder of a Llama; empty: the embedded L0-tiny
    config.model.dtype = "float32"  # of activations: float32 | bfloat16
    config.model.int8 = False  # frozen weights in 8 bits, a scale per output channel; adapters stay as they are
    config.model.lora_rank = 16
    config.model.lora_alpha = 32.0
    config.model.lora_targets = "q_proj,v_proj"
    config.model.lengths = ""  # of sequences that SFT and PPO compile, in tokens; empty: sampler.slots
    config.model.value_hidden = 256

    config.mesh = ConfigDict()  # how devices are arranged; -1: what the others leave
    config.mesh.data = -1  # rows of a batch
    config.mesh.fsdp = 1  # rows of a batch, and one side of every weight
    config.mesh.tensor = 1  # the other side of every weight: heads, MLP, vocabulary

    config.sampler = ConfigDict()
    config.sampler.rows = 64  # episodes played side by side by a language model
    config.sampler.lanes = 1  # groups of rows; while a device works for one, the environment steps for the others
    config.sampler.slots = "512,768,1024,1536,2048,3072,4096,8192"  # sizes of a cache, in tokens
    config.sampler.chunks = "16,32,64,128,256,384,512,1024,2048"  # tokens added at once are padded to one of these
    config.sampler.max_new = 256  # tokens of one turn, at most
    config.sampler.grammar = "off"  # on: only valid actions are sampled, and nothing that they force; off: the paper

    config.sft = ConfigDict()
    config.sft.scores = "train_targets"  # train_targets | router | hindsight (DESIGN §5.10)
    config.sft.levels = 10  # a score is one of so many integers
    config.sft.first_stage = 0.0  # share of the first stage's fitted weight that scores from train_targets keep
    config.sft.l2 = 100.0  # prior precision of the teacher's standardized weights
    config.sft.episodes = 1000  # expert episodes that are imitated, at most
    config.sft.fit_episodes = 2000  # that the teacher is fitted on, at most
    config.sft.mean = "token"  # what counts alike in the loss: token | turn
    config.sft.steps = 300
    config.sft.batch = 16  # episodes
    config.sft.lr = 1e-3
    config.sft.warmup = 20
    config.sft.weight_decay = 0.0
    config.sft.max_grad_norm = 1.0
    config.sft.b2 = 0.98  # of Adam; 0.999 goes on at full speed for hundreds of steps after gradients have grown
    config.sft.remat = False
    config.sft.nonfinite_limit = 5
    config.sft.checkpoint_every = 50
    config.sft.log_every = 10

    config.ppo = ConfigDict()
    config.ppo.iterations = 500  # §4.1, Table 8
    config.ppo.prompts = 64  # different episodes in an iteration
    config.ppo.samples = 1  # times that each of them is played
    config.ppo.ratio = "token"  # token | turn (Eq. 6) | turn_mean
    config.ppo.baseline = "value"  # value (Eq. 5) | siblings: also take off the luck that an episode's samples share
    config.ppo.credit = "turn"  # turn | candidate: what a score was worth | level: what each level would be
    config.ppo.clip = 0.2
    config.ppo.gamma = 1.0
    config.ppo.lam = 0.95
    config.ppo.lr = 1e-5
    config.ppo.value_lr = 1e-4
    config.ppo.value_only = 5  # first iterations that train the value head alone
    config.ppo.epochs = 1
    config.ppo.minibatches = 1
    config.ppo.micro_batch = 16  # sequences computed at once
    config.ppo.remat = False  # recompute blocks in the backward pass: less memory, a third more time
    config.ppo.temperature = 0.2  # of policy, reference and entropy
    config.ppo.kl = 0.0  # weight of the divergence from MMA-SFT; 0: it is logged, from every fourth micro-batch
    config.ppo.entropy = 0.0  # weight of the entropy
    config.ppo.max_grad_norm = 1.0
    config.ppo.b2 = 0.999  # of Adam, for the policy
    config.ppo.decay = False  # the policy's rate falls linearly over the second half of the updates
    config.ppo.whiten = True  # advantages, over the turns of an iteration
    config.ppo.warmup = 5
    config.ppo.nonfinite_limit = 5
    config.ppo.checkpoint_every = 10
    config.ppo.query_every = 10  # iterations between two looks at query episodes (§3.4)
    config.ppo.query = 16  # query episodes of each family
    config.ppo.validate = (
        0  # validation episodes of each family, at each checkpoint; the best one is kept (0: the last)
    )
    config.ppo.missing = 0.3  # MMA-Pooled: how often each modality is missing, independently

    config.baselines = ConfigDict({one.settings: one.get_config() for one in BASELINES.values()})

    config.agentcf = ConfigDict()
    config.agentcf.interactions = 500  # training interactions simulated, at most
    config.agentcf.words = 8  # of a memory
    config.agentcf.max_new = 32  # tokens of a choice or a reflection

    config.alarms = ConfigDict()  # of the stability panel
    config.alarms.reward_std_min = 0.02
    config.alarms.entropy_min = 1e-4
    config.alarms.invalid_max = 0.2  # share of turns
    config.alarms.repeat_null_max = 0.2  # share of turns
    config.alarms.clip_max = 0.4  # share of tokens
    config.alarms.kl_max = 0.5  # nats per token
    config.alarms.dlogp_max = 0.05  # largest difference between sampler and trainer, nats

    config.pretrain = ConfigDict()  # of the embedded L0-tiny
    config.pretrain.seed = 0
    config.pretrain.start = ""  # folder of an earlier L0-tiny to go on from; empty: from nothing
    config.pretrain.begin = 0.0  # share of the curriculum that is skipped, for what goes on
    config.pretrain.words = 0  # of the data's catalog that are learned beside the generated language's, at most
    config.pretrain.vocab_size = 2600  # at most, without these
    config.pretrain.width = 128
    config.pretrain.layers = 6
    config.pretrain.heads = 4
    config.pretrain.kv_heads = 2
    config.pretrain.head_dim = 64
    config.pretrain.rope_theta = 1e8  # slow rotations, so that words match at any distance
    config.pretrain.hidden = 352
    config.pretrain.steps = 2500  # 0, with start and words: only new words are added
    config.pretrain.muon_rate = 0.02
    config.pretrain.adam_rate = 5e-4  # at 3e-3 a word's two forms drift apart, and matching is learned word by word
    config.pretrain.weight_decay = 0.0
    config.pretrain.nonfinite_limit = 5
    config.pretrain.checkpoint_every = 100
    config.pretrain.gate = 0.95  # share of numbers right that match, count, lookup and scoring must reach

    config.audit = ConfigDict()
    config.audit.ndcg_tolerance = 0.005  # a control may beat First-stage by this much NDCG@10, no more
    config.audit.recall_gap = 0.10  # train and test recall@B may differ so much: honest drift over time took .02 to .06

    config.world = world_knobs()
    return config


def generated_world(preset: str = "default") -> ConfigDict:
    """What configs/demo.py and configs/generated.py share: the generated world, agents on the embedded L0-tiny."""
    config = base()
    config.world = world_knobs(preset)
    config.images.encoder = "tiny"
    config.images.vocabulary = "world"
    config.graph.source = "copurchases"  # sampled from what behaviour shows; the interactions would show all
    config.graph.decay = 1.0  # the order of interactions means nothing here
    play_l0_tiny(config)
    return config


def play_l0_tiny(config: ConfigDict) -> None:
    """Agents on L0-tiny over pools of 20, its size: how it reads, plays and learns (notebooks/LOG.md)."""
    config.pool.size = 20
    config.env.count = "model"
    config.env.summary_tokens = 2  # a marker and a word: the rest comes from the tools, and short prompts are fast
    config.model.lora_targets = "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"  # see notebooks/LOG.md
    config.model.lengths = "384,640,832,2048"
    config.sampler.slots = "256,384,512,640,1024,2048"
    config.sampler.chunks = "32,192,352,448"
    config.sampler.max_new = 128
    config.sft.lr = 3.5e-3
    config.sft.mean = "turn"
    config.sft.steps = 200
    config.sft.batch = 8
    config.sft.max_grad_norm = 0.5
    config.ppo.iterations = 60
    config.ppo.prompts = 64
    config.ppo.credit = "level"
    config.ppo.temperature = 0.8
    config.ppo.minibatches = 4  # a score says little: what counts is the number of updates, see notebooks/LOG.md
    config.ppo.lr = 5e-4
    config.ppo.value_lr = 3e-3
    config.ppo.value_only = 1
    config.ppo.lam = 0.0  # a call is worth what V says after it, not the luck of the scores
    config.ppo.kl = 0.05  # or the form drifts, which earns nothing where it is right
    config.ppo.b2 = 0.98
    config.ppo.warmup = 20
    config.ppo.decay = True


def world_knobs(preset: str = "default") -> ConfigDict:
    """The generated world's knobs, as `data.world.WorldConfig` has them, from one of its presets."""
    if preset not in PRESETS:
        raise InputError(f"unknown world preset {preset!r}: known are {', '.join(PRESETS)}")
    return ConfigDict(dataclasses.asdict(PRESETS[preset]))
