"""SIGTERM among several processes, with JAX's preemption service played by hand."""

import jax
import pytest
from jax.experimental import multihost_utils

from mma_jax.learning import interrupts


class Service:
    """The point where all stop is one step behind the largest that anybody has asked about when the signal comes."""

    def __init__(self):
        self.largest, self.point = 0, None

    def reached(self, step):
        self.largest = max(self.largest, step)
        return step == self.point

    def hear(self):
        self.point = self.largest + 1


@pytest.fixture
def service(monkeypatch):
    played = Service()
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", played.reached)
    monkeypatch.setitem(interrupts._state, "wanted", False)
    return played


def test_a_signal_stops_the_next_training_behind_its_first_step(service):
    """SFT of a hundred steps has ended; PPO counts from 1 again, and its first is not done when the signal comes."""
    with interrupts.deferred() as stopping:
        assert not any(stopping() for _ in range(100))
    service.hear()
    with pytest.raises(SystemExit) as ended, interrupts.deferred() as stopping:
        assert stopping() and stopping()  # once it is wanted it stays so, whatever the service says
    assert ended.value.code == interrupts.EXIT_CODE


def test_without_a_signal_nothing_ends(service):
    with interrupts.deferred() as stopping:
        assert not stopping()
