"""Value of information: gains by hand, and calibration against planted truths."""

import math

import doubles
import numpy as np
import pytest
from scipy import stats

from mma_jax.evaluation import information
from mma_jax.evaluation.results import Cell
from mma_jax.types import Trajectory, Turn

CELL = Cell("d", "ooma", "MMA-Auto", 1)


def turn(tool, reward, value, null=False, text=None):
    return Turn(text or tool, tool, {}, "", reward, "", null, value=value)


def trajectory(*turns):
    return Trajectory(doubles.episode(family="image_only"), (), turns, "scored", np.zeros(4))


PLAYED = trajectory(
    turn("Analyze_Text", -0.02, 0.30, null=True),
    turn("Analyze_Image", -0.02, 0.25),
    turn("", -0.2, 0.5),
    turn("Score_Candidates", 0.63, 0.55),
)


def test_gains_by_hand():
    now = trajectory(turn("Score_Candidates", 0.2, 0.3))
    later = trajectory(PLAYED.turns[0], turn("Score_Candidates", 0.35, 0.25))
    rows = information.gains(CELL, [(PLAYED, 0, now), (PLAYED, 1, later)])
    assert [row["tool"] for row in rows] == ["Analyze_Text", "Analyze_Image"]
    assert [row["null"] for row in rows] == [True, False]
    assert [row["turn"] for row in rows] == [1, 2]
    np.testing.assert_allclose([row["predicted"] for row in rows], [-0.05, 0.25])
    # after the first call it went on to -0.02 - 0.2 + 0.63; after the second to -0.2 + 0.63
    np.testing.assert_allclose([row["realized"] for row in rows], [0.41 - 0.2, 0.43 - 0.35])
    assert rows[0].items() >= {**CELL._asdict(), "subset": "image_only"}.items()


def test_only_valued_evidence_calls_are_paired():
    assert information.valued_calls(PLAYED) == [0, 1]
    blind = trajectory(turn("Analyze_Text", -0.02, math.nan), turn("Score_Candidates", 0.5, 0.1))
    assert information.valued_calls(blind) == []
    assert information.valued_calls(trajectory(turn("Analyze_Text", -0.02, 0.1))) == []  # the turns ran out


def test_a_forced_scoring_with_another_past_is_left_out():
    other = trajectory(turn("Analyze_Text", -0.02, 0.3, text="else"), turn("Score_Candidates", 0.35, 0.25))
    assert information.gains(CELL, [(PLAYED, 1, other)]) == []


def test_calibration_by_hand():
    predicted = np.array([0.0, 0.0, 0.4, 0.4])
    realized = np.array([0.1, 0.3, 0.5, 0.3])
    figures, table = information.calibration(predicted, realized, 2)
    assert [(row["predicted"], row["n"]) for row in table] == [(0.0, 2), (0.4, 2)]
    np.testing.assert_allclose([row["realized"] for row in table], [0.2, 0.4])
    np.testing.assert_allclose([row["se"] for row in table], [0.1, 0.1])
    assert figures["bias"] == pytest.approx(-0.1)
    assert figures["ece"] == pytest.approx(0.1)  # gaps -.2 and 0
    assert figures["ece_centered"] == pytest.approx(0.1)
    assert figures["correlation"] == pytest.approx(stats.pearsonr(predicted, realized)[0])
    assert figures["n"] == 4


def test_a_calibrated_head_a_shifted_one_and_an_ignorant_one():
    rng = np.random.default_rng(0)
    predicted = rng.normal(0, 0.2, 20_000)
    realized = predicted + rng.normal(0, 0.1, 20_000)
    good, table = information.calibration(predicted, realized, 10)
    assert abs(good["bias"]) < 0.004 and good["ece"] < 0.006
    assert good["correlation"] == pytest.approx(0.2 / math.hypot(0.2, 0.1), abs=0.01)
    assert [row["n"] for row in table] == [2000] * 10
    assert np.all(np.diff([row["predicted"] for row in table]) > 0)
    shifted, _ = information.calibration(predicted - 0.3, realized, 10)
    assert shifted["ece"] == pytest.approx(0.3, abs=0.01) and shifted["ece_centered"] < 0.006
    ignorant, _ = information.calibration(predicted, rng.permutation(realized), 10)
    assert abs(ignorant["correlation"]) < 0.03
    assert ignorant["ece"] == pytest.approx(np.abs(predicted).mean(), abs=0.02)


def test_few_or_equal_predictions_still_make_a_table():
    figures, table = information.calibration(np.full(5, 0.1), np.arange(5.0), 10)
    assert [row["n"] for row in table] == [5] and math.isnan(figures["correlation"])
    figures, table = information.calibration(np.array([0.2]), np.array([0.5]), 10)
    assert figures["ece"] == pytest.approx(0.3) and math.isnan(table[0]["se"])
    rng = np.random.default_rng(1)
    for count in (2, 3, 7, 23):
        values = rng.integers(0, 4, count) / 4
        _, table = information.calibration(values, values, 5)
        assert sum(row["n"] for row in table) == count
        assert len({row["predicted"] for row in table}) == len(table)
