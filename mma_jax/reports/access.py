"""The report's account of looks at the test part, from the ledger that `evaluation.access` keeps."""

from __future__ import annotations

import collections
from collections.abc import Iterator

from mma_jax.reports import tables
from mma_jax.reports.load import Run
from mma_jax.reports.section import Section

LEAD = (
    "How often each method was judged on test episodes: a cell is one protocol and seed. A resumed cell counts once; a "
    "cell judged anew, because its results were deleted, counts again. Beside: cells of the same dataset’s name in the "
    "folders next to this one. A rerun after a folder was deleted cannot be known."
)


def access_section(run: Run) -> Iterator[Section]:
    """A line a dataset and method; no section if the folder has no ledger."""
    lines = []
    for dataset, method in dict.fromkeys((line["dataset"], line["method"]) for line in run.access):
        mine, beside = ([line for line in ledger if (line["dataset"], line["method"]) == (dataset, method)]
                        for ledger in (run.access, run.access_beside))  # fmt: skip
        most = max(collections.Counter((line["protocol"], line["seed"]) for line in mine).values())
        times = sorted(line["time"] for line in [*mine, *beside])
        figures = (f"{len(mine):,}", f"{most:,}", f"{len(beside):,}")
        lines.append([dataset, method, *figures, *(_printed(time) for time in (times[0], times[-1]))])
    if lines:
        headers = ("Dataset", "Method", "Cells judged", "Same cell, at most", "Beside", "First (UTC)", "Last (UTC)")
        table = tables.plain_table("Looks at the test part", headers, lines, 2)
        yield Section("test-access", "Looks at the test part", LEAD, (table,))


def _printed(time: str) -> str:
    return time.replace("T", " ").removesuffix("Z")[:16]
