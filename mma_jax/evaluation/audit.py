"""Is the benchmark itself to be trusted? Each check answers with a figure, a threshold, and pass or fail.

A benchmark of missing-modality reranking can be beaten without any recommending: by reversing a pool whose target
was inserted last, by a fitted function of rank, by edges that contain the answer, by prompts that betray the mask.
The checks below try each of these on the very episodes that methods are judged with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np

from mma_jax.agents.controls import popularity_scores, rank_only, reverse_rank
from mma_jax.envs.environment import Environment
from mma_jax.metrics import ranking
from mma_jax.metrics.significance import cluster_bootstrap
from mma_jax.types import FAMILIES, Case, Episode

MEANING = {
    "inverse_rank": "reversing the first stage must not beat it (lower bound of the NDCG@10 gain, worst family)",
    "rank_only": "a scorer fitted on rank and s0 alone must not beat the first stage (lower bound, worst family)",
    "popularity": "popularity alone must not be the best ranking where behaviour is observed (lower bound of its "
    "NDCG@10 gain over evidence, worst family)",
    "inverse_popularity": "the least popular first must not beat the first stage where behaviour is observed (lower "
    "bound of the NDCG@10 gain, worst family)",
    "self_edges": "targets found among the interactions that built their own evidence",
    "recall_gap": "largest difference between train and test recall@B of a source",
    "mask_peeking": "strict prompts that change when only the hidden mask changes",
    "canary": "evidence stores that change when interactions are planted in the held-out parts",
    "duplicate_episodes": "episodes that stand twice, or in two parts",
    "pool_hygiene": "pools with a repeated item, one the user has had before, or a later positive as a negative",
    "timeless_pairs": "whether the graph is built from listed pairs without dates, which may know held-out purchases",
}


def row(check: str, dataset: str, value: float, threshold: float, detail: str = "") -> dict:
    """One line of audit.json; a check passes if its value is at most its threshold."""
    return {
        "check": check,
        "dataset": dataset,
        "value": float(value),
        "threshold": float(threshold),
        "pass": bool(value <= threshold),
        "meaning": MEANING[check],
        "detail": detail,
    }


def gain(episodes: list[Episode], scores: np.ndarray, base: np.ndarray, resamples: int) -> dict[str, float]:
    """Lower bound (users resampled) of the mean NDCG@10 gain of `scores` over `base`, per family.

    scores, base: float [E, B]. One-sided, and 5% over all families together (Bonferroni): the worst of them decides.
    One user bounds nothing: -1, the least that a gain can be.
    """
    targets = np.array([e.target_position for e in episodes])
    delta = ranking.ndcg(scores, targets, 10) - ranking.ndcg(base, targets, 10)
    users, of_family = np.array([e.user for e in episodes]), np.array([e.family for e in episodes])
    families = list(dict.fromkeys(of_family.tolist()))
    level, members = 1 - 0.1 / len(families), {family: of_family == family for family in families}
    lows = {f: cluster_bootstrap(delta[m], users[m], resamples, seed=0, level=level)[0] for f, m in members.items()}
    return {family: -1.0 if math.isnan(low) else low for family, low in lows.items()}


def worst(check: str, dataset: str, gains: dict[str, float], threshold: float) -> dict:
    """The family with the largest gain decides; all are told."""
    detail = ", ".join(f"{family} {value:+.4f}" for family, value in gains.items())
    return row(check, dataset, max(gains.values()), threshold, detail)


def control_checks(dataset: str, fit: list[Episode], test: list[Episode], config) -> list[dict]:
    """Inverse rank and rank-only (fitted on `fit`) on target-positive test episodes."""
    first = np.stack([e.case.scores for e in test]).astype(float)
    scores = {"inverse_rank": np.stack([reverse_rank(e.case) for e in test]), "rank_only": rank_only(fit)(test)}
    return [
        worst(check, dataset, gain(test, values, first, config.eval.bootstrap), config.audit.ndcg_tolerance)
        for check, values in scores.items()
    ]


def popularity(dataset: str, seen: list[Episode], counts: np.ndarray, evidence: np.ndarray, config) -> dict:
    """Popularity (counts int [I]) against what evidence makes of the same episodes (float [E, B])."""
    popular = np.stack([popularity_scores(e.case, counts) for e in seen])
    gains = gain(seen, popular, evidence, config.eval.bootstrap)
    return worst("popularity", dataset, gains, config.audit.ndcg_tolerance)


def inverse_popularity(dataset: str, seen: list[Episode], counts: np.ndarray, config) -> dict:
    """The reverse of popularity (counts int [I]) against the first stage."""
    first = np.stack([e.case.scores for e in seen]).astype(float)
    unpopular = -np.stack([popularity_scores(e.case, counts) for e in seen])
    gains = gain(seen, unpopular, first, config.eval.bootstrap)
    return worst("inverse_popularity", dataset, gains, config.audit.ndcg_tolerance)


def self_edges(dataset: str, views: Iterable[tuple[np.ndarray, np.ndarray, Iterable[Episode]]]) -> dict:
    """views: users and items of the interactions that a view was built from, and the episodes judged with it."""
    found = 0
    for users, items, episodes in views:
        built = set(zip(users.tolist(), items.tolist(), strict=True))
        found += len({(e.user, e.target) for e in episodes} & built)
    return row("self_edges", dataset, found, 0)


def recall_gap(dataset: str, recall: list[dict], threshold: float) -> dict:
    """recall: rows of episodes.recall_table."""
    gaps = {r["source"]: abs(r["train"] - r["test"]) for r in recall}
    detail = ", ".join(f"{r['source']} train {r['train']:.3f} test {r['test']:.3f}" for r in recall)
    return row("recall_gap", dataset, max(gaps.values()), threshold, detail)


def mask_peeking(dataset: str, strict: Environment, episodes: list[Episode]) -> dict:
    """`strict` shows no summaries: then the prompt may depend on the pool and its first-stage scores only."""
    differing = 0
    for episode in episodes:
        case = episode.case
        prompts = set()
        for mask in FAMILIES.values():
            other = Case(case.pool, case.scores, case.ranks, case.history, mask)
            _, prompt = strict.reset(Episode("", other, 0, 0, "", "", False))
            prompts.add(tuple(message.content for message in prompt))
        differing += len(prompts) > 1
    return row("mask_peeking", dataset, differing, 0, f"{len(episodes)} pools under all seven masks")


def canary(
    dataset: str,
    fingerprint: Callable[[np.ndarray, np.ndarray], dict[str, str]],
    users: int,
    items: int,
    count: int = 50,
) -> dict:
    """`fingerprint(users, items)` rebuilds all evidence with those interactions added to the held-out parts."""
    rng = np.random.default_rng(0)
    none = np.empty(0, np.int32)
    clean = fingerprint(none, none)
    planted = fingerprint(
        rng.integers(users, size=count).astype(np.int32), rng.integers(items, size=count).astype(np.int32)
    )
    changed = [name for name in clean if clean[name] != planted[name]]
    return row("canary", dataset, len(changed), 0, ", ".join(changed))


def duplicates(dataset: str, by_part: dict[str, list[Episode]]) -> dict:
    """by_part: episodes of one protocol, per part."""
    repeated = 0
    places: dict[tuple, set[str]] = {}
    for part, episodes in by_part.items():
        ids = [e.episode_id for e in episodes]
        repeated += len(ids) - len(set(ids))
        for e in episodes:
            places.setdefault((e.user, e.target, e.family), set()).add(part)
    repeated += sum(len(parts) > 1 for parts in places.values())
    return row("duplicate_episodes", dataset, repeated, 0)


def pool_hygiene(dataset: str, pools: Iterable[tuple[Episode, np.ndarray]]) -> dict:
    """pools: episodes, each with the items that its pool may not hold beside the target."""
    dirty = count = 0
    for e, forbidden in pools:
        negatives = e.case.pool[e.case.pool != e.target]
        dirty += len(np.unique(e.case.pool)) != len(e.case.pool) or bool(np.isin(negatives, forbidden).any())
        count += 1
    return row("pool_hygiene", dataset, dirty, 0, f"{count} pools")


def timeless_pairs(dataset: str, graph_source: str, data_source: str) -> dict:
    """Pairs that a shop lists as bought together carry no date, and held-out purchases may stand among them."""
    return row("timeless_pairs", dataset, graph_source == "copurchases" and data_source != "generated", 0)
