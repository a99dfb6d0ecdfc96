"""From interactions to episodes: sampling of targets, first stage, pools; saved as one .npz per part and protocol.

Every family plays the same sampled targets, so that families and methods can be compared episode by episode.
"""

from __future__ import annotations

import dataclasses
import json
import os
import zipfile
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mma_jax.data.histories import Histories
from mma_jax.evaluation.views import View
from mma_jax.retrieval import pools
from mma_jax.types import (
    FAMILIES,
    LOMO,
    MODALITIES,
    OOMA,
    TEST,
    TRAIN,
    VALID,
    Case,
    Dataset,
    Episode,
    Interactions,
    Mask,
)

PARTS = {"train": TRAIN, "valid": VALID, "test": TEST}

PROTOCOLS = {
    "ooma": OOMA,
    "lomo": LOMO,
    "full_catalog": OOMA,
    "interactive": OOMA,
    "stress_wrong": OOMA,
    "stress_stale": OOMA,
}
"""Families of each protocol."""

SAME = {"interactive": "ooma", "stress_wrong": "ooma", "stress_stale": "ooma"}
"""Protocols that play another's very episodes: with Ask_User allowed, or with tools that lie."""

CHUNK = 256  # queries scored against the whole catalogue at a time


def sample_targets(rows: np.ndarray, users: np.ndarray, count: int, per_user: int, seed: int) -> np.ndarray:
    """Seeded choice of at most `count` interaction rows, at most `per_user` of one user. int64, sorted."""
    order = np.random.default_rng(seed).permutation(rows)
    by_user = np.argsort(users[order], kind="stable")
    starts = np.r_[True, np.diff(users[order][by_user]) != 0]
    nth = np.arange(len(order)) - np.maximum.accumulate(np.where(starts, np.arange(len(order)), 0))
    keep = np.zeros(len(order), bool)
    keep[by_user] = nth < per_user
    return np.sort(order[keep][:count])


@dataclasses.dataclass(frozen=True, eq=False)
class Sampled:
    """The sampled targets of one part with all that pools need to know of them."""

    rows: np.ndarray
    queries: list[pools.Query]

    @property
    def histories(self) -> list[np.ndarray]:
        return [query.history for query in self.queries]


def first_occurrences(interactions: Interactions, positive: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """bool [N]: positives that are the first of their user and item, whose answer no evidence of theirs holds.

    The first by part, because earlier parts build the evidence, and a held-out one by time too, because its history
    looks into every part. They differ in a given split that does not follow time.
    """
    when = interactions.time if interactions.order != "none" else parts
    rows = np.flatnonzero(positive)
    first = _first_of_pairs(interactions, rows, when, parts)
    return first & (_first_of_pairs(interactions, rows, when) | (parts <= TRAIN))


def _first_of_pairs(interactions: Interactions, rows: np.ndarray, *keys: np.ndarray) -> np.ndarray:
    """bool [N]: which of `rows` come first of their user and item by keys [N], the last one the most important."""
    user, item = interactions.user[rows], interactions.item[rows]
    order = np.lexsort((rows, *(key[rows] for key in keys), item, user))
    pairs = np.stack([user[order], item[order]])
    first = np.ones(len(rows), bool)
    first[1:] = (pairs[:, 1:] != pairs[:, :-1]).any(axis=0)
    mask = np.zeros(len(interactions), bool)
    mask[rows[order[first]]] = True
    return mask


def sample(dataset: Dataset, histories: Histories, eligible: np.ndarray, config, part: str) -> Sampled:
    """Targets of a part, among its `eligible` interactions (int64 [n], sorted)."""
    count = config.episodes[part]
    log, longest = dataset.interactions, config.data.max_history
    rows = sample_targets(eligible, log.user, count, config.episodes.per_user, config.seed)
    queries = []
    for row in rows:
        seen = histories.before(row)
        queries.append(
            pools.Query(
                history=seen[max(0, len(seen) - longest) :],
                seen=seen,
                known=histories.known(log.user[row], PARTS[part]),
                target=int(log.item[row]),
                key=int(row),
            )
        )
    return Sampled(rows, queries)


def first_stage_ranks(
    view: View, mask: Mask, sampled: Sampled, seed: int, label: str, negatives_only: bool = False
) -> np.ndarray:
    """0-based catalogue ranks of the targets, int64 [Q]; see `pools.target_ranks`."""
    ranks = [np.empty(0, np.int64)]
    for chunk in _chunks(sampled.queries, label):
        scores = view.scores(mask, [query.history for query in chunk])
        ranks.append(pools.target_ranks(scores, chunk, seed, negatives_only))
    return np.concatenate(ranks)


def build(
    dataset: Dataset,
    view: View,
    sampled: Sampled,
    part: str,
    protocol: str,
    families: list[str],
    distributions: dict[str, np.ndarray],
    config,
) -> list[Episode]:
    """Episodes of the given families; every one of them plays all sampled targets."""
    kind = "top" if protocol == "full_catalog" else config.pool.kind
    log = dataset.interactions
    episodes = []
    for family in families:
        mask = FAMILIES[family]
        position = 0
        for chunk in _chunks(sampled.queries, f"{part} {protocol} {family}"):
            scores = view.scores(mask, [query.history for query in chunk])
            for row_scores, query in zip(scores, chunk, strict=True):
                pool = pools.build_pool(
                    kind, row_scores, query, config.pool.size, distributions.get(family), config.seed
                )
                row = sampled.rows[position]
                user = int(log.user[row])
                case = Case(pool.items, pool.scores, pool.ranks, query.history, mask)
                episodes.append(
                    Episode(
                        episode_id=f"{dataset.name}:{part}:{row}:{family}",
                        case=case,
                        user=user,
                        target=query.target,
                        family=family,
                        protocol=protocol,
                        recalled=pool.recalled,
                        inserted=pool.inserted,
                    )
                )
                position += 1
    return episodes


def source_row(episode: Episode) -> int:
    """The interaction an episode was made from, as its id tells (a dataset's name may hold colons)."""
    return int(episode.episode_id.rsplit(":", 2)[1])


def _chunks(queries: list, label: str):
    for start in tqdm(range(0, len(queries), CHUNK), desc=f"pools: {label}", leave=False):
        yield queries[start : start + CHUNK]


def save(path: Path, episodes: list[Episode]) -> None:
    """Write episodes as arrays (no pickle), atomically."""
    lengths = [len(e.case.history) for e in episodes]
    arrays = {
        "pool": np.stack([e.case.pool for e in episodes]),
        "scores": np.stack([e.case.scores for e in episodes]),
        "ranks": np.stack([e.case.ranks for e in episodes]),
        "history": np.concatenate([e.case.history for e in episodes]).astype(np.int32),
        "history_length": np.array(lengths, np.int32),
        "user": np.array([e.user for e in episodes], np.int32),
        "target": np.array([e.target for e in episodes], np.int32),
        "flags": np.array([[e.recalled, e.inserted] for e in episodes], bool),
        "names": np.frombuffer(json.dumps([[e.episode_id, e.family, e.protocol] for e in episodes]).encode(), np.uint8),
    }
    temporary = path.with_suffix(".tmp.npz")
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(temporary, **arrays)
    os.replace(temporary, path)


def load(path: Path) -> list[Episode] | None:
    """Read what `save` wrote; None if there is nothing whole to read."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            data = {name: arrays[name] for name in arrays.files}
    except (FileNotFoundError, zipfile.BadZipFile):
        return None
    bounds = np.concatenate([[0], np.cumsum(data["history_length"])])
    names = json.loads(data["names"].tobytes())
    return [
        Episode(
            episode_id=episode_id,
            case=Case(
                data["pool"][n],
                data["scores"][n],
                data["ranks"][n],
                data["history"][bounds[n] : bounds[n + 1]],
                FAMILIES[family],
            ),
            user=int(data["user"][n]),
            target=int(data["target"][n]),
            family=family,
            protocol=protocol,
            recalled=bool(data["flags"][n, 0]),
            inserted=bool(data["flags"][n, 1]),
        )
        for n, (episode_id, family, protocol) in enumerate(names)
    ]


def recall_table(
    views: dict[str, View], sampled: dict[str, Sampled], size: int, seed: int
) -> list[dict[str, float | str]]:
    """recall@B before insertion, one row per source, a column per part (train beside valid and test)."""
    rows = []
    for index, modality in enumerate(MODALITIES):
        if not views["test"].presence[index]:
            continue
        mask = tuple(name == modality for name in MODALITIES)
        row: dict[str, float | str] = {"source": modality, "k": size}
        for part, queries in sampled.items():
            ranks = first_stage_ranks(views[part], mask, queries, seed, f"recall {modality} {part}")
            row[part] = float((ranks < size).mean()) if len(ranks) else float("nan")
        rows.append(row)
    return rows
