"""First-stage retrieval: our batch BM25 beside a loop over rank_bm25, and HNSW beside exact search.

    OMP_NUM_THREADS=1 python benchmarks/retrieval.py --root DATA --names amazon-beauty,ml-100k

DATA holds RecBole atomic folders; without --root a synthetic catalog of 12,000 items is used. Queries are the
histories of validation interactions. Contestants take turns, so that other work on the machine hits them alike;
figures are medians over the rounds. One JSON object a line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import numpy as np
from rank_bm25 import BM25Okapi

from mma_jax.data import atomic, splits
from mma_jax.data.histories import Histories
from mma_jax.features import graph, text
from mma_jax.retrieval.bm25 import BM25
from mma_jax.retrieval.topk import top_k
from mma_jax.retrieval.vectors import VectorIndex, history_queries
from mma_jax.types import VALID, Candidates

K = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="folder of RecBole atomic folders; none: synthetic")
    parser.add_argument("--names", default="amazon-beauty,ml-100k", help="folders under root, comma-separated")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--queries", type=int, default=1000, help="per round for the fast contestants")
    parser.add_argument("--reference_queries", type=int, default=10, help="per round for the rank_bm25 loop")
    options = parser.parse_args()
    for name in options.names.split(",") if options.root else ["synthetic"]:
        task = real_task(options.root, name, options.queries) if options.root else synthetic_task(options.queries)
        documents, queries, embedding, has, vectors = task
        print(json.dumps({"data": name} | bm25_speed(documents, queries, options)), flush=True)
        print(json.dumps({"data": name} | vector_speed(embedding, has, vectors, options.rounds)), flush=True)


def real_task(root: str, name: str, n_queries: int) -> tuple:
    """Documents, BM25 queries, graph embedding, has, and graph queries of a dataset."""
    dataset = atomic.load(root, name)
    log = dataset.interactions
    positive = splits.positives(log, 4.0)
    parts = splits.split(log, positive)
    training = positive & (parts < VALID)
    histories = Histories(log, positive, parts)
    rows = np.flatnonzero(positive & (parts == VALID))
    rows = np.random.default_rng(0).permutation(rows)[:n_queries]
    users = [history for history in map(histories.before, rows) if len(history)]
    n_items = len(dataset.catalog)
    store = text.build(dataset.catalog, np.bincount(log.item[training], minlength=n_items) > 0)
    behavior = graph.build(log.user[training], log.item[training], len(dataset.users), n_items)
    vectors, usable = history_queries(behavior.embedding, behavior.has, users)
    return store.documents, [store.query(user) for user in users], behavior.embedding, behavior.has, vectors[usable]


def synthetic_task(n_queries: int) -> tuple:
    """The same with Zipf-distributed words and uniformly random directions, the hardest case for HNSW."""
    rng = np.random.default_rng(0)
    n_items, n_words = 12_000, 10_000
    frequency = 1 / np.arange(1, n_words + 1)
    drawn = rng.choice(n_words, (n_items, 18), p=frequency / frequency.sum())
    documents = [[f"w{word}" for word in row] for row in drawn.tolist()]
    histories = list(rng.integers(n_items, size=(n_queries, 8)))
    queries = [[word for item in history for word in documents[item]] for history in histories]
    embedding = rng.standard_normal((n_items, 128)).astype(np.float32)
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    has = np.ones(n_items, bool)
    return documents, queries, embedding, has, history_queries(embedding, has, histories)[0]


def bm25_speed(documents: list[list[str]], queries: list[list[str]], options: argparse.Namespace) -> dict:
    ours, reference = BM25(documents, np.ones(len(documents), bool)), BM25Okapi(documents)
    few = queries[: options.reference_queries]
    expected = np.stack([reference.get_scores(query) for query in few])
    seconds = interleaved(
        {
            "batch": lambda: ours.scores(queries),
            "loop": lambda: [reference.get_scores(query) for query in few],
        },
        options.rounds,
    )
    batch, loop = len(queries) / seconds["batch"], len(few) / seconds["loop"]
    return {
        "what": "bm25",
        "words_per_query": round(float(np.mean([len(query) for query in queries])), 1),
        "batch_queries_per_s": round(batch, 1),
        "rank_bm25_queries_per_s": round(loop, 1),
        "ratio": round(batch / loop, 1),
        "max_difference": float(np.abs(ours.scores(few, dtype=np.float64) - expected).max()),
    }


def vector_speed(embedding: np.ndarray, has: np.ndarray, queries: np.ndarray, rounds: int) -> dict:
    start = time.perf_counter()
    hnsw = VectorIndex(embedding, has, "hnsw")
    build = time.perf_counter() - start
    flat = VectorIndex(embedding, has, "flat")
    exact = top_k(flat.scores(queries), K)
    seconds = interleaved(
        {
            "hnsw": lambda: hnsw.search(queries, K),
            "flat": lambda: flat.search(queries, K),
            "blas": lambda: top_k(flat.scores(queries), K),
        },
        rounds,
    )
    speeds = {f"{kind}_queries_per_s": round(len(queries) / value, 1) for kind, value in seconds.items()}
    recalls = {
        f"{kind}_recall@{K}": round(recall(index.search(queries, K), exact), 4)
        for kind, index in (("hnsw", hnsw), ("flat", flat))
    }
    return {"what": "vectors", "shape": list(embedding.shape), "hnsw_build_s": round(build, 2)} | recalls | speeds


def recall(found: Candidates, exact: Candidates) -> float:
    """Share of the exact neighbors that were found."""
    hits = [np.isin(best[best >= 0], items).mean() for items, best in zip(found.items, exact.items, strict=True)]
    return float(np.mean(hits))


def interleaved(contestants: dict[str, Callable], rounds: int) -> dict[str, float]:
    """Median seconds of each contestant, run in turns."""
    seconds = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, contestant in contestants.items():
            start = time.perf_counter()
            contestant()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


if __name__ == "__main__":
    main()
