"""Paired comparisons of every method with a reference, as Table 6 and more (DESIGN §5.12)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from mma_jax.metrics.significance import compare, holm


def compare_all(episodes: Iterable[dict], reference: str, resamples: int, metric: str = "ndcg@10") -> list[dict]:
    """Rows of comparisons.jsonl: `a` against the reference `b`, per protocol and subset.

    episodes: rows of per_episode.jsonl. Seeds are averaged per episode first; methods are matched by episode_id. The
    declared family of Holm's correction is all methods of one protocol and subset. Episodes without `metric`, and so
    protocols that have none, are left out.
    """
    table: dict[tuple, dict[str, dict[str, list]]] = {}
    for row in episodes:
        if metric not in row:
            continue
        for subset in ("all", row["subset"]):
            cell = table.setdefault((row["dataset"], row["protocol"], subset), {})
            cell.setdefault(row["method"], {}).setdefault(row["episode_id"], []).append((row[metric], row["user"]))
    return [
        line for key, methods in table.items() for line in _compare_cell(key, methods, reference, resamples, metric)
    ]


def _compare_cell(key: tuple, methods: dict, reference: str, resamples: int, metric: str) -> list[dict]:
    if reference not in methods:
        return []
    ids = list(methods[reference])
    clusters = np.array([methods[reference][i][0][1] for i in ids])
    means = {
        name: np.array([np.mean([value for value, _ in values[i]]) for i in ids])
        for name, values in methods.items()
        if values.keys() == methods[reference].keys()
    }
    lines = [
        {
            **dict(zip(("dataset", "protocol", "subset"), key, strict=True)),
            "metric": metric,
            "a": name,
            "b": reference,
            "family": f"{key[1]}/{key[2]}/{metric}",
            **compare(values, means[reference], clusters, resamples),
        }
        for name, values in means.items()
        if name != reference
    ]
    for line, adjusted in zip(lines, holm(np.array([line["p"] for line in lines])), strict=True):
        line["p_holm"] = float(adjusted)
    return lines
