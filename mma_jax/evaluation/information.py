"""Does the value head know what a call is worth? Predicted against realized gain of evidence calls.

V(H_t) is what the value head expects to earn from turn t on, that turn's own cost included (Eq. 5). For a call at
turn t, whose cost is the same whatever it answers and is left out on both sides:

    predicted gain   V(H_{t+1}) - V(H_t)
    realized gain    return from turn t + 1 on, as played, minus the return had the agent scored at turn t

V is the value of a policy that makes the call, so V(H_t) expects its answer already; V(H_{t+1}) moves by how far the
answer surprises, plus the cost now behind. So the predicted gain is a matter of more or less: `correlation` tells
whether calls that raised V were the calls that paid, `bias` is the mean of predicted minus realized (what V(H_t) knew
beforehand makes it negative), `ece` the expected calibration error with the bias and `ece_centered` without it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from mma_jax.evaluation.results import Cell
from mma_jax.metrics.diagnostics import asks
from mma_jax.types import Trajectory


def valued_calls(trajectory: Trajectory) -> list[int]:
    """Indices of the evidence calls between two valued turns: those to be paired with a forced scoring."""
    turns = trajectory.turns
    return [n for n in range(len(turns) - 1) if asks(turns[n]) and not math.isnan(turns[n].value + turns[n + 1].value)]


def gains(cell: Cell, pairs: Iterable[tuple[Trajectory, int, Trajectory]]) -> list[dict]:
    """Rows of information.jsonl: the cell's fields, episode_id, subset, turn (from 1), tool, null, predicted, realized.

    Args:
        cell: names the method, for the rows.
        pairs: a trajectory, the index of one of its `valued_calls`, and the same episode with the same texts before
            that turn and a scoring forced at it. Where rounding has made the texts differ, the pair says nothing
            and is left out.
    """
    rows = []
    for played, n, scored in pairs:
        if [t.text for t in played.turns[:n]] != [t.text for t in scored.turns[:n]]:
            continue
        call, following = played.turns[n : n + 2]
        rows.append(
            {
                **cell._asdict(),
                "episode_id": played.episode.episode_id,
                "subset": played.episode.family,
                "turn": n + 1,
                "tool": call.tool,
                "null": call.null,
                "predicted": following.value - call.value,
                "realized": sum(played.rewards[n + 1 :]) - sum(scored.rewards[n:]),
            }
        )
    return rows


def calibration(predicted: np.ndarray, realized: np.ndarray, bins: int) -> tuple[dict, list[dict]]:
    """The figures of one set of calls, and its reliability table.

    Args:
        predicted, realized: float64 [N] gains, N at least 1.
        bins: of the table, as equally filled as equal predictions allow.

    Returns:
        {"n", "correlation", "bias", "ece", "ece_centered"}: Pearson's correlation (nan where either never varies),
        mean of predicted - realized, and the mean over calls of their bin's |mean predicted - mean realized|, also
        after the bias is taken off.
        One {"predicted", "realized", "se", "n"} a bin, in order: means, and the standard error of the realized mean.
    """
    table = [_bin(predicted[rows], realized[rows]) for rows in _bins(predicted, bins)]
    weights = np.array([row["n"] for row in table]) / len(predicted)
    gaps = np.array([row["predicted"] - row["realized"] for row in table])
    bias = float(weights @ gaps)
    varies = np.ptp(predicted) > 0 and np.ptp(realized) > 0
    figures = {
        "n": len(predicted),
        "correlation": float(np.corrcoef(predicted, realized)[0, 1]) if varies else math.nan,
        "bias": bias,
        "ece": float(weights @ np.abs(gaps)),
        "ece_centered": float(weights @ np.abs(gaps - bias)),
    }
    return figures, table


def _bins(predicted: np.ndarray, bins: int) -> Sequence[np.ndarray]:
    """Rows by quantile of the prediction; equal predictions share a bin."""
    edges = np.unique(np.quantile(predicted, np.linspace(0, 1, bins + 1)[1:-1]))
    place = np.searchsorted(edges, predicted, side="left")
    return [np.flatnonzero(place == n) for n in np.unique(place)]


def _bin(predicted: np.ndarray, realized: np.ndarray) -> dict:
    count = len(realized)
    error = float(realized.std(ddof=1) / math.sqrt(count)) if count > 1 else math.nan
    return {"predicted": float(predicted.mean()), "realized": float(realized.mean()), "se": error, "n": count}
