"""What is looked at beyond the paper costs nothing where there is nothing to see."""

import types

import doubles
import numpy as np
import pytest

from mma_jax.evaluation.results import Cell
from mma_jax.runs.beyond import Beyond
from mma_jax.types import Trajectory, Turn


def turn(tool, value):
    return Turn(tool, tool, {}, "", 0.1, "", False, value=value)


@pytest.mark.parametrize(("method", "rows"), [("MMA-Auto", 1), ("MMA-Pooled", 1), ("MMA-SFT", 0), ("ReAct", 0)])
def test_only_a_value_head_that_ppo_fitted_is_asked_what_calls_are_worth(method, rows):
    """Everybody else's says 0 all the time; nothing is replayed for it."""
    asked = []

    def scripted(cell, env, episodes, script):
        asked.append(cell.method)
        return [Trajectory(e, (), (turn("Score_Candidates", 0.0),), "scored", np.zeros(4)) for e in episodes]

    config = types.SimpleNamespace(eval=types.SimpleNamespace(probes=3))
    made = types.SimpleNamespace(config=config, environment=lambda part, protocol: None)
    calls = (turn("Analyze_Text", 0.0), turn("Score_Candidates", 0.0))
    played = Trajectory(doubles.episode(), (), calls, "scored", np.zeros(4))
    found = Beyond(made, types.SimpleNamespace(scripted=scripted)).information(Cell("d", "ooma", method, 0), [played])
    assert len(found) == len(asked) == rows
