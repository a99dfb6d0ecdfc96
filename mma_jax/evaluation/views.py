"""A view: all evidence built from one set of interactions, and the first stage that stands on it.

Two views serve an experiment (DESIGN §5.1). The training view is built from FIT alone and serves training
episodes, whose targets come from the later slice TRAIN; the held-out view is built from FIT + TRAIN and serves
validation and test episodes. So no target of any episode is ever an edge, a count or a document frequency of the
evidence it is judged with.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from pathlib import Path

import numpy as np

from mma_jax.envs.evidence import Evidence
from mma_jax.features import graph as graph_features
from mma_jax.features import text as text_features
from mma_jax.features.graph import GraphStore
from mma_jax.features.images import ImageStore
from mma_jax.features.text import TextStore
from mma_jax.retrieval.bm25 import BM25
from mma_jax.retrieval.fuse import fuse
from mma_jax.retrieval.vectors import VectorIndex, history_queries
from mma_jax.types import FIT, TEST, TRAIN, VALID, Dataset, Mask


@dataclasses.dataclass(frozen=True, eq=False)
class View:
    """Evidence stores (None where the dataset lacks the modality) and the first-stage retrievers over them."""

    text: TextStore | None
    image: ImageStore | None
    graph: GraphStore | None
    in_training: np.ndarray  # bool [I] items of the interactions it was built from
    index: str  # kind of the vector indexes
    decay: float  # weight of a history item relative to the next newer one, in the graph's centroid

    @property
    def presence(self) -> Mask:
        return (self.text is not None, self.image is not None, self.graph is not None)

    @functools.cached_property
    def bm25(self) -> BM25:
        return BM25(self.text.documents, self.in_training)

    @functools.cached_property
    def image_index(self) -> VectorIndex:
        return VectorIndex(self.image.embedding, self.image.has, kind=self.index)

    @functools.cached_property
    def graph_index(self) -> VectorIndex:
        return VectorIndex(self.graph.embedding, self.graph.has, kind=self.index)

    def source_scores(self, modality: str, histories: list[np.ndarray]) -> np.ndarray:
        """One source's scores, float32 [Q, I]; for items without that modality -inf, and 0 from BM25 (§3.1, §4.1)."""
        if modality == "text":
            return self.bm25.scores([self.text.query(history) for history in histories])
        if modality == "image":
            queries, _ = history_queries(self.image.embedding, self.image.has, histories, decay=1.0)
            return self.image_index.scores(queries)
        queries, _ = history_queries(self.graph.embedding, self.graph.has, histories, self.decay)
        return self.graph_index.scores(queries)

    def scores(self, mask: Mask, histories: list[np.ndarray]) -> np.ndarray:
        """First-stage scores from the surviving sources, fused by their normalised mean: float32 [Q, I], finite.

        Exact: a target's rank may be deep, and for catalogues of 2,000 to 18,000 items a matrix product proved faster
        than the ANN index (benchmarks/retrieval.py), which serves the searches of Retrieve_Graph.
        """
        surviving = [name for name, there in zip(("text", "image", "behavior"), mask, strict=True) if there]
        return fuse([self.source_scores(name, histories) for name in surviving])

    def search_graph(self, history: np.ndarray, k: int) -> np.ndarray:
        """The ANN search behind Retrieve_Graph: int32 [k] items near the history's centroid, best first, -1 padded.

        The history itself is among them: `envs.evidence` asks for enough and leaves it out.
        """
        queries, usable = history_queries(self.graph.embedding, self.graph.has, [history], self.decay)
        return self.graph_index.search(queries, k).items[0] if usable[0] else np.empty(0, np.int32)

    @functools.cached_property
    def evidence(self) -> Evidence:
        """What the environment's tools see."""
        return Evidence(self.text, self.image, self.graph, self.search_graph)


def training_rows(parts: np.ndarray, positive: np.ndarray, part: int, config) -> np.ndarray:
    """bool [N]: the interactions whose evidence an episode of `part` may use."""
    allowed = (FIT,) if part == TRAIN and config.crossfit else (FIT, TRAIN)
    if config.parts == "all":  # a deliberate leak, for the audit's tests
        allowed = (FIT, TRAIN, VALID, TEST)
    return positive & np.isin(parts, allowed)


def build_view(dataset: Dataset, rows: np.ndarray, images: ImageStore | None, config, directory: Path) -> View:
    """Build or load the text and graph stores of one view; finished ones are reused.

    rows: bool [N], the interactions it may know.
    """
    interactions = dataset.interactions
    users, items = interactions.user[rows], interactions.item[rows]
    seen = np.zeros(len(dataset.catalog), bool)
    seen[items] = True
    # Listed pairs know no time, so with data from the world they may know held-out interactions; the audit says so.
    pairs = dataset.copurchases if config.graph.source == "copurchases" else None
    text = _stored(directory / "text", text_features, lambda: text_features.build(dataset.catalog, seen))
    graph = _stored(
        directory / "graph",
        graph_features,
        lambda: graph_features.build(users, items, len(dataset.users), len(dataset.catalog), pairs, config.graph.dim),
    )
    return View(
        text=text if text.has.any() else None,
        image=images,
        graph=graph if graph.popularity.any() else None,  # counts tell something even where no two items are linked
        in_training=seen,
        index=config.graph.index,
        decay=config.graph.decay,
    )


def fingerprint(view: View) -> dict[str, str]:
    """A checksum of everything in a view that interactions can change."""
    arrays = {"in_training": view.in_training}
    if view.text is not None:
        arrays["text idf"] = view.text.idf
    if view.graph is not None:
        arrays |= {f"graph {name}": getattr(view.graph, name) for name in ("embedding", "neighbors", "popularity")}
    return {name: hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest() for name, array in arrays.items()}


def _stored(directory: Path, module, build):
    """Load a finished store, or build and save it; a store is swapped in whole, so a folder is a finished one."""
    if not directory.exists():
        build().save(directory)
    return module.load(directory)
