"""Every setting of an experiment and its default, in one place. Files in configs/ change a few of them.

Read as `config.pool.size`; a key that is not here is refused. Lists are comma-separated strings, so that
they can be given on the command line: --config.protocols=ooma,lomo.
"""

from __future__ import annotations

import dataclasses

from ml_collections import ConfigDict

from mma_jax.data.world import PRESETS
from mma_jax.types import InputError


def base() -> ConfigDict:
    """The default experiment: the generated world, every protocol, every method that needs no language model."""
    config = ConfigDict()
    config.run = "all"  # one of mma_jax.runs.registry.RUNS
    config.seed = 0  # splits, sampling of episodes, ties, shuffles
    config.seeds = "0"  # training seeds of methods that have any randomness of their own
    config.methods = "scripted"  # names of agents/registry.py; "scripted" = all without a language model
    config.protocols = "ooma,lomo,full_catalog,interactive"

    config.data = ConfigDict()
    config.data.source = "generated"  # generated | atomic | amazon2014
    config.data.root = ""  # folder that holds NAME/; empty: inside the workdir (generated world only)
    config.data.name = "generated"
    config.data.split = "auto"  # auto | chronological | per_user | given (DESIGN §5.11)
    config.data.positive_rating = 0.0  # ratings at or above count as liked; missing ratings always do
    config.data.max_history = 50  # most recent liked items that evidence may use

    config.images = ConfigDict()
    config.images.encoder = "none"  # none | tiny | kfold | clip (Flax, from weights) | open_clip
    config.images.weights = ""  # folder of a public CLIP checkpoint, for encoder=clip
    config.images.vocabulary = "general"  # general | movie_genres | world
    config.images.seed = 0

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

    config.episodes = ConfigDict()
    config.episodes.train = 2000  # sampled targets per part; every family plays the same ones
    config.episodes.valid = 500
    config.episodes.test = 1000
    config.episodes.per_user = 2  # at most so many targets of one user in a part

    config.env = ConfigDict()
    config.env.turns = 8  # T
    config.env.context = 8192  # tokens; the paper's 2,048 leaves each of 100 candidates two tokens of summary
    config.env.summaries = "surviving"  # surviving (paper §3.1) | none (strict: only tools reveal anything)
    config.env.graph_titles = True
    config.env.graph_counts = True  # Retrieve_Graph also tells how often each candidate was taken (False: the paper)
    config.env.max_items = 0  # ids per Analyze_* call, 0 = no limit, 1 = the paper
    config.env.alpha = 0.5  # fusion weight inside the reward
    config.env.cost_tool = -0.02
    config.env.cost_ask = -0.10
    config.env.cost_invalid = -0.20

    config.eval = ConfigDict()
    config.eval.alpha_step = 0.05  # grid of Eq. 2's fusion weight on validation
    config.eval.fit_episodes = 2000  # training episodes that a scripted method with parameters is fitted on, at most
    config.eval.batch = 256  # episodes played side by side
    config.eval.traces = 5  # episodes kept for the trace viewer, per method, protocol and family
    config.eval.bootstrap = 2000
    config.eval.reference = "RuleRouter-Fuse"  # what every method is compared with

    config.audit = ConfigDict()
    config.audit.ndcg_tolerance = 0.005  # a control may beat First-stage by this much NDCG@10, no more
    config.audit.recall_gap = 0.10  # train and test recall@B may differ so much: honest drift over time took .02 to .06

    config.world = world_knobs()
    return config


def world_knobs(preset: str = "default") -> ConfigDict:
    """The generated world's knobs, as `data.world.WorldConfig` has them, from one of its presets."""
    if preset not in PRESETS:
        raise InputError(f"unknown world preset {preset!r}: known are {', '.join(PRESETS)}")
    return ConfigDict(dataclasses.asdict(PRESETS[preset]))
