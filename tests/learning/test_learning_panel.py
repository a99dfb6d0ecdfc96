import json
import math
import struct

import learning_fixture as fixture
import pytest
from tensorboardX.proto.event_pb2 import Event

from mma_jax.learning.panel import ALARMS, Panel, alarms_of

FINE = {
    "reward_std": 0.4,
    "reward_std_siblings": 0.2,
    "entropy": 1.0,
    "invalid_rate": 0.1,
    "repeat_null_rate": 0.1,
    "clip_fraction": 0.1,
    "kl": 0.01,
    "dlogp_max": 0.001,
}
LIMITS = fixture.limits(
    reward_std_min=0.05, entropy_min=0.1, invalid_max=0.5, repeat_null_max=0.5, clip_max=0.5, kl_max=1.0, dlogp_max=0.1
)


def records(directory):
    return [json.loads(line) for line in (directory / "panel.jsonl").read_text().splitlines()]


def scalars(directory):
    """{(tag, step): value} of the event files: length, its crc, an Event, its crc, and so on."""
    found = {}
    for path in sorted(directory.glob("events.out.tfevents.*")):
        data = path.read_bytes()
        while data:
            (size,) = struct.unpack("<Q", data[:8])
            event, data = Event.FromString(data[12 : 12 + size]), data[16 + size :]
            found |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
    return found


@pytest.mark.parametrize("name,figure,limit", ALARMS)
def test_every_alarm_has_its_side(name, figure, limit):
    bound = LIMITS[limit]
    bad, edge = (bound - 0.01, bound + 0.01) if limit.endswith("_min") else (bound + 0.01, bound - 0.01)
    assert alarms_of(FINE | {figure: bad}, LIMITS) == [name]
    assert alarms_of(FINE | {figure: edge}, LIMITS) == []
    assert alarms_of(FINE | {figure: math.nan}, LIMITS) == [name]
    assert alarms_of({}, LIMITS) == []


def test_records_and_scalars(tmp_path, capsys):
    panel = Panel(tmp_path / "panel", LIMITS)
    panel.rewind(0, 0)
    assert panel.write(1, FINE | {"explained_variance": math.nan}) == []
    assert panel.write(2, FINE | {"entropy": 0.01, "kl": 7.0}) == ["entropy", "kl"]
    panel.close()
    first, second = records(panel.directory)
    assert first == {"iteration": 1, **FINE, "explained_variance": None, "alarms": []}
    assert second["alarms"] == ["entropy", "kl"]
    warnings = capsys.readouterr().err.splitlines()
    assert warnings == ["alarm entropy at 2: entropy 0.01, entropy_min 0.1", "alarm kl at 2: kl 7, kl_max 1"]
    board = scalars(panel.directory)
    assert board["entropy", 2] == pytest.approx(0.01) and board["kl", 1] == pytest.approx(0.01)
    assert ("explained_variance", 1) not in board


def test_rule_16_what_came_after_the_checkpoint_is_forgotten(tmp_path):
    panel = Panel(tmp_path, LIMITS)
    panel.rewind(0, 0)
    panel.write(1, {"reward": 0.1})
    position, kept = panel.position, panel.path.read_bytes()
    panel.write(2, {"reward": 0.2})
    panel.path.write_bytes(panel.path.read_bytes() + b'{"iteration": 3, "rew')  # killed while writing
    panel.close()
    again = Panel(tmp_path, LIMITS)
    again.rewind(position, 1)
    assert panel.path.read_bytes() == kept
    again.write(2, {"reward": 0.5})
    again.close()
    assert [(r["iteration"], r["reward"]) for r in records(tmp_path)] == [(1, 0.1), (2, 0.5)]


def test_without_a_checkpoint_all_is_forgotten(tmp_path):
    panel = Panel(tmp_path, LIMITS)
    panel.rewind(0, 0)
    panel.write(1, {"reward": 0.1})
    panel.rewind(0, 0)
    assert panel.position == 0
