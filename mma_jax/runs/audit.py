"""config.run = audit: DIR/audit.json, a list of checks with their figures; prints pass or FAIL for each."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path

import numpy as np

from mma_jax.agents import evidence_linear, routers
from mma_jax.agents.rollout import play
from mma_jax.data.disk import write_atomically
from mma_jax.evaluation import audit, judge
from mma_jax.evaluation.episodes import PARTS, source_row
from mma_jax.evaluation.experiment import Experiment
from mma_jax.evaluation.views import build_view, fingerprint, training_rows
from mma_jax.runs.prepare import data_statistics, experiment
from mma_jax.types import TEST, Episode

PEEKED = 200
"""Pools whose strict prompts are compared under all masks."""


def run(config, directory: Path, dry_run: bool) -> None:
    path = directory / "audit.json"
    if dry_run:
        print(f"audit: checks {', '.join(audit.MEANING)}")
        return
    if not path.exists():
        write_atomically(path, json.dumps(audit_experiment(experiment(config, directory)), indent=1))
    print("\naudit")
    for row in json.loads(path.read_text()):
        mark = "pass" if row["pass"] else "FAIL"
        print(f"  {mark}  {row['check']:<20} {row['value']:+.4f} (at most {row['threshold']})  {row['detail']}")


def audit_experiment(made: Experiment) -> list[dict]:
    """All checks on the target-positive episodes of one experiment."""
    name, config = made.dataset.name, made.config
    positive = [protocol for protocol in ("ooma", "lomo") if made.families(protocol)]
    fit = [e for protocol in positive for e in made.fit_episodes(protocol)]
    test = [e for protocol in positive for e in made.episodes("test", protocol)]
    recall = data_statistics(made)["recall"]
    by_part = {part: made.episodes(part, "ooma") for part in ("train", "valid", "test")}
    return [
        *audit.control_checks(name, fit, test, config),
        *popularity(made, fit, [e for e in test if e.case.mask[2]]),
        audit.self_edges(name, (built(made, part, positive) for part in ("train", "valid", "test"))),
        audit.recall_gap(name, recall, config.audit.recall_gap),
        audit.mask_peeking(name, made.environment("test", "ooma", summaries="none"), test[:PEEKED]),
        audit.canary(
            name,
            lambda users, items: fingerprints(made, users, items),
            len(made.dataset.users),
            len(made.dataset.catalog),
        ),
        audit.duplicates(name, by_part),
        audit.pool_hygiene(name, forbidden(made)),
        audit.timeless_pairs(name, config.graph.source, config.data.source),
    ]


def built(made: Experiment, part: str, protocols: list[str]) -> tuple[np.ndarray, np.ndarray, list[Episode]]:
    """Users and items of the interactions behind a part's evidence, and its episodes."""
    log, rows = made.dataset.interactions, made.view_rows(part)
    return log.user[rows], log.item[rows], [e for protocol in protocols for e in made.episodes(part, protocol)]


def forbidden(made: Experiment) -> list[tuple[Episode, np.ndarray]]:
    """Every test episode with the items its pool may not hold: all of the user's, or what was seen if the pool is the
    first stage's own."""
    queries = {int(query.key): query for query in made.sampled("test").queries}
    pairs = []
    for protocol in ("ooma", "lomo", "full_catalog"):
        for episode in made.episodes("test", protocol) if made.families(protocol) else []:
            query = queries[source_row(episode)]
            pairs.append((episode, query.seen if protocol == "full_catalog" else query.no_negatives))
    return pairs


def popularity(made: Experiment, fit: list[Episode], seen: list[Episode]) -> list[dict]:
    """Popularity against Evidence-linear, and its reverse against the first stage, on the episodes `seen` with
    behaviour; no row without any."""
    if not seen:
        return []
    scorer = evidence_linear.fit(made.environment("train", "ooma"), fit, routers.rule_router)
    env, batch = made.environment("test", "ooma"), made.config.eval.batch
    played = play(routers.rule_router(scorer), env, seen, batch, "audit: Evidence-linear")
    counts = made.view("test").graph.popularity
    return [
        audit.popularity(made.dataset.name, seen, counts, judge.fused_scores(played, 0.0), made.config),
        audit.inverse_popularity(made.dataset.name, seen, counts, made.config),
    ]


def fingerprints(made: Experiment, users: np.ndarray, items: np.ndarray) -> dict[str, str]:
    """Checksums of both views, rebuilt from scratch with extra interactions (int32 [n] each) in the test part."""
    log, extra = made.dataset.interactions, len(users)
    planted = dataclasses.replace(
        log,
        user=np.concatenate([log.user, users]),
        item=np.concatenate([log.item, items]),
        rating=np.concatenate([log.rating, np.full(extra, np.nan, np.float32)]),
        time=np.concatenate([log.time, np.full(extra, np.nan)]),
        given_split=None,
    )
    dataset = dataclasses.replace(made.dataset, interactions=planted)
    parts = np.concatenate([made.parts, np.full(extra, TEST, made.parts.dtype)])
    positive = np.concatenate([made.positive, np.ones(extra, bool)])
    sums = {}
    for part in ("train", "test"):
        rows = training_rows(parts, positive, PARTS[part], made.config.evidence)
        with tempfile.TemporaryDirectory() as scratch:
            view = build_view(dataset, rows, None, made.config, Path(scratch))
            sums |= {f"{part} view: {name}": value for name, value in fingerprint(view).items()}
    return sums
