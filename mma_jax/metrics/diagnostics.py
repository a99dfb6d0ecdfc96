"""How an agent behaved, beside how well it ranked (MMA Appendix A, Tables 7 and 9).

`diagnose` describes one played episode, with nan where a quantity is undefined; `summarize` turns many of those into
the figures of the tables.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from mma_jax.types import Trajectory, Turn

NO_EVIDENCE = ("", "Score_Candidates")
"""What a turn may call that answers neither with evidence nor with Null: no known tool, and the terminal (§3.2)."""

EXPECTED_FIRST = {"text_only": "Analyze_Text", "image_only": "Analyze_Image", "behavior_only": "Retrieve_Graph"}
"""The surviving modality's own tool, per OOMA family (Table 9)."""

STOP_REASONS = ("scored", "malformed_terminal", "turn_limit", "context_limit")


def diagnose(trajectory: Trajectory) -> dict[str, float]:
    """Diagnostics of one episode.

    Returns:
      evidence_calls: turns that name an evidence tool.
      failed_calls: those among them that were answered with Null or were invalid (bad arguments, a repeated Null).
      recovered: 1 if some Null was followed by a successful evidence call, 0 if not, nan without a Null.
      turns: all turns, the scoring one included.
      tts: turns to success, i.e. up to and including a valid scoring; nan if the episode ended otherwise.
      turns_to_first_evidence: up to and including the first successful evidence call; nan if there is none.
      first_action: OOMA families only, 1 if the first turn names the surviving modality's own tool; nan elsewhere.
      return: undiscounted sum of rewards.
      invalid, invalid_KIND: turns with an error, in all and per kind that occurred.
      stop_REASON: 1 for the way the episode ended, 0 for the others.

    Raises:
      ValueError: the stop reason is none of `STOP_REASONS`.
    """
    if trajectory.stop_reason not in STOP_REASONS:
        raise ValueError(f"unknown stop reason {trajectory.stop_reason!r}, known: {', '.join(STOP_REASONS)}")
    turns = trajectory.turns
    evidence = [turn for turn in turns if asks(turn)]
    errors = Counter(turn.error for turn in turns if turn.error)
    return {
        "evidence_calls": float(len(evidence)),
        "failed_calls": float(sum(not _succeeded(turn) for turn in evidence)),
        "recovered": _recovered(evidence),
        "turns": float(len(turns)),
        "tts": float(len(turns)) if trajectory.stop_reason == "scored" else math.nan,
        "turns_to_first_evidence": _first_evidence(turns),
        "first_action": _first_action(turns, trajectory.episode.family),
        "return": float(sum(trajectory.rewards)),
        "invalid": float(errors.total()),
        **{f"invalid_{kind}": float(count) for kind, count in sorted(errors.items())},
        **{f"stop_{reason}": float(reason == trajectory.stop_reason) for reason in STOP_REASONS},
    }


def summarize(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The tables' figures from the `diagnose` of many episodes; nan where no episode defines one.

    failed_call_rate is a ratio of sums: all failed evidence calls over all evidence calls (Table 7). recovery, tts,
    turns_to_first_evidence and first_action_rate are means over the episodes that define them; turns, return and the
    counts of invalid turns are means over all episodes (a kind of error an episode lacks counts 0); stop_REASON are
    shares of episodes.
    """
    if not rows:
        return {}
    calls = sum(row["evidence_calls"] for row in rows)
    means = ("turns", "return", "invalid", *(f"stop_{reason}" for reason in STOP_REASONS))
    kinds = sorted({key for row in rows for key in row if key.startswith("invalid_")})
    return {
        "failed_call_rate": sum(row["failed_calls"] for row in rows) / calls if calls else math.nan,
        "recovery": _defined_mean(rows, "recovered"),
        "tts": _defined_mean(rows, "tts"),
        "turns_to_first_evidence": _defined_mean(rows, "turns_to_first_evidence"),
        "first_action_rate": _defined_mean(rows, "first_action"),
        **{key: float(np.mean([row.get(key, 0.0) for row in rows])) for key in (*means, *kinds)},
    }


def asks(turn: Turn) -> bool:
    """Whether it calls a tool for evidence."""
    return turn.tool not in NO_EVIDENCE


def _succeeded(turn: Turn) -> bool:
    return not turn.null and not turn.error


def _recovered(evidence: Sequence[Turn]) -> float:
    nulls = [i for i, turn in enumerate(evidence) if turn.null]
    return float(any(map(_succeeded, evidence[nulls[0] :]))) if nulls else math.nan


def _first_evidence(turns: Sequence[Turn]) -> float:
    found = (i for i, turn in enumerate(turns, 1) if asks(turn) and _succeeded(turn))
    return float(next(found, math.nan))


def _first_action(turns: Sequence[Turn], family: str) -> float:
    if family not in EXPECTED_FIRST:
        return math.nan
    return float(bool(turns) and turns[0].tool == EXPECTED_FIRST[family])


def _defined_mean(rows: Sequence[Mapping[str, float]], key: str) -> float:
    values = [row[key] for row in rows if not math.isnan(row[key])]
    return float(np.mean(values)) if values else math.nan
