"""Agent diagnostics on episodes written out by hand."""

import math

import numpy as np
import pytest

from mma_jax.metrics.diagnostics import diagnose, summarize
from mma_jax.types import FAMILIES, Case, Episode, Trajectory, Turn


def turn(tool, *, null=False, error="", reward=-0.02):
    return Turn(text="", tool=tool, args={}, observation="", reward=reward, error=error, null=null)


def play(*turns, family="image_only", stop_reason="scored"):
    pool = np.arange(3, dtype=np.int32)
    case = Case(pool, np.zeros(3, np.float32), pool + 1, pool[:0], FAMILIES[family])
    episode = Episode("e", case, user=0, target=1, family=family, protocol="ooma", recalled=True)
    return Trajectory(episode, (), turns, stop_reason, np.full(3, np.nan))


SCORE = turn("Score_Candidates", reward=0.5)
ROUTED = play(
    turn("Analyze_Text", null=True),
    turn("Retrieve_Graph", null=True),
    turn("Analyze_Text", null=True, error="repeat_null", reward=-0.2),
    turn("Analyze_Image"),
    SCORE,
)
DIRECT = play(turn("Analyze_Image"), SCORE)
LOST = play(
    turn("Retrieve_Graph", null=True),
    turn("", error="invalid_json", reward=-0.2),
    turn("Analyze_Image", error="bad_args", reward=-0.2),
    turn("Score_Candidates", error="malformed_terminal", reward=-0.2),
    stop_reason="malformed_terminal",
)
AT_ONCE = play(SCORE, family="full")


def test_an_episode_that_recovers():
    row = diagnose(ROUTED)
    assert (row["evidence_calls"], row["failed_calls"]) == (4, 3)
    assert row["recovered"] == 1
    assert (row["turns"], row["tts"], row["turns_to_first_evidence"]) == (5, 5, 4)
    assert row["first_action"] == 0
    assert row["return"] == pytest.approx(3 * -0.02 - 0.2 + 0.5)
    assert (row["invalid"], row["invalid_repeat_null"]) == (1, 1)
    assert (row["stop_scored"], row["stop_turn_limit"]) == (1, 0)


def test_an_episode_that_does_not():
    row = diagnose(LOST)
    assert (row["evidence_calls"], row["failed_calls"], row["recovered"]) == (2, 2, 0)
    assert math.isnan(row["tts"]) and math.isnan(row["turns_to_first_evidence"])
    assert (row["invalid"], row["invalid_invalid_json"], row["invalid_bad_args"]) == (3, 1, 1)
    assert (row["stop_scored"], row["stop_malformed_terminal"]) == (0, 1)


def test_what_is_undefined_is_nan():
    row = diagnose(AT_ONCE)
    assert (row["evidence_calls"], row["tts"]) == (0, 1)
    assert all(math.isnan(row[key]) for key in ("recovered", "first_action", "turns_to_first_evidence"))
    assert math.isnan(diagnose(DIRECT)["recovered"])  # no Null, nothing to recover from


def test_success_before_the_null_is_no_recovery():
    episode = play(turn("Analyze_Image"), turn("Analyze_Text", null=True), SCORE)
    assert diagnose(episode)["recovered"] == 0


@pytest.mark.parametrize(
    ("family", "tool"),
    [("text_only", "Analyze_Text"), ("image_only", "Analyze_Image"), ("behavior_only", "Retrieve_Graph")],
)
def test_first_action_of_each_ooma_family(family, tool):
    assert diagnose(play(turn(tool), SCORE, family=family))["first_action"] == 1
    assert diagnose(play(SCORE, turn(tool), family=family))["first_action"] == 0
    assert diagnose(play(family=family, stop_reason="context_limit"))["first_action"] == 0


def test_asking_counts_as_an_evidence_call():
    row = diagnose(play(turn("Ask_User", null=True), turn("Ask_User"), SCORE))
    assert (row["evidence_calls"], row["failed_calls"], row["recovered"]) == (2, 1, 1)


def test_an_unknown_stop_reason_is_refused():
    with pytest.raises(ValueError, match="unknown stop reason 'bored'"):
        diagnose(play(SCORE, stop_reason="bored"))


def test_summary_is_a_ratio_of_sums_and_means_over_the_defined():
    summary = summarize([diagnose(episode) for episode in (ROUTED, DIRECT, LOST, AT_ONCE)])
    assert summary["failed_call_rate"] == (3 + 0 + 2) / (4 + 1 + 2)
    assert summary["recovery"] == 1 / 2
    assert summary["tts"] == (5 + 2 + 1) / 3
    assert summary["turns"] == (5 + 2 + 4 + 1) / 4
    assert summary["turns_to_first_evidence"] == (4 + 1) / 2
    assert summary["first_action_rate"] == 1 / 3
    assert summary["invalid"] == 4 / 4
    assert summary["invalid_bad_args"] == 1 / 4
    assert summary["stop_scored"] == 3 / 4


def test_the_rule_router_has_the_papers_failed_call_rate_and_turns():
    """Probing text, graph and image once each under one surviving modality fails two of three calls in four turns."""
    families = {"text_only": "Analyze_Text", "behavior_only": "Retrieve_Graph", "image_only": "Analyze_Image"}
    rows = [
        diagnose(play(*(turn(tool, null=tool != own) for tool in families.values()), SCORE, family=family))
        for family, own in families.items()
    ]
    summary = summarize(rows)
    assert summary["failed_call_rate"] == pytest.approx(2 / 3)
    assert summary["turns"] == 4 and summary["first_action_rate"] == pytest.approx(1 / 3)


def test_summary_of_nothing():
    assert summarize([]) == {}
    assert math.isnan(summarize([diagnose(AT_ONCE)])["failed_call_rate"])


def test_a_tool_of_ones_own_counts_as_a_call():
    row = diagnose(play(turn("Search_Reviews", null=True), turn("Search_Reviews"), SCORE))
    assert (row["evidence_calls"], row["failed_calls"], row["recovered"]) == (2, 1, 1)
