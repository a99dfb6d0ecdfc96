"""Retrieve_Graph: what goes together with the user's earlier items (MMA §3.2)."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from mma_jax.envs.evidence import Evidence
from mma_jax.types import Case

NO_TITLE = "-"


def retrieve_graph(
    evidence: Evidence, case: Case, user_id: Literal["u"], *, graph_titles: bool, graph_counts: bool
) -> dict[str, Any] | None:
    """Items often taken together with the user's history, best first; near = candidates each is linked to.

    Returns {"neighbors": [{"title": text, "near": [handle, ...]}, ...]}, at most ten, or None if behavior
    is missing. A candidate is near if it is the neighbour itself or an edge of the collaborative graph joins
    the two. Titles are shown even where text is masked, as in the paper; with `graph_titles` False a neighbour
    is called by its handle, or "-" if it is no candidate.

    With `graph_counts` the answer begins with {"taken": {handle: n}}, how often each candidate was taken in
    training (or listed, where the graph is made of pairs). This goes beyond the paper: the first stage has placed the
    candidates by the very same graph, and without the counts the tool has little to add (on Amazon Baby nothing that
    any fusion weight could use).
    """
    if not evidence.observes(case, "behavior"):
        return None
    found = evidence.neighbors(case.history)
    titles = [evidence.title(int(i)) if graph_titles else _handle(i, case.pool) for i in found]
    linked = evidence.linked(found, case.pool)
    near = [[str(j + 1) for j in np.flatnonzero(row)] for row in linked]
    neighbors = [{"title": t, "near": n} for t, n in zip(titles, near, strict=True)]
    return {"taken": evidence.counts(case.pool), "neighbors": neighbors} if graph_counts else {"neighbors": neighbors}


def _handle(item: int, pool: np.ndarray) -> str:
    positions = np.flatnonzero(pool == item)
    return str(positions[0] + 1) if len(positions) else NO_TITLE
