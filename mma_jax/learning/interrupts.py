"""SIGTERM, which clusters send some seconds before they kill, and Ctrl-C: training saves where it is and ends.

Several processes must stop behind the same step, or those that save wait forever for those that go on. There JAX's own
preemption service hears the signal, of whichever process, and names the step (`reached_preemption_sync_point`): one
more than the largest it was asked about. So steps are counted here over all trainings of a process, which each begin
anew.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
from collections.abc import Callable, Iterator

import jax
from jax.experimental import multihost_utils

EXIT_CODE = 128 + signal.SIGTERM  # what a shell reports of a process that SIGTERM ended
_state = {"deferred": False, "wanted": False, "code": EXIT_CODE}
_steps = itertools.count(1)


def listen() -> None:
    """From now on SIGTERM ends the process with EXIT_CODE and Ctrl-C with 130: at once or, inside `deferred`, behind
    the step under way; a second Ctrl-C does not wait.

    Call it in the main thread.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _heard)


def _heard(number: int, frame) -> None:
    if number == signal.SIGINT and jax.distributed.is_initialized():
        signal.raise_signal(signal.SIGTERM)  # JAX's service hears that, and brings all to one step
        return
    again = _state["wanted"] and number == signal.SIGINT
    _state["wanted"], _state["code"] = True, 128 + number
    if again or not _state["deferred"]:
        raise SystemExit(_state["code"])
    said = "mma_jax: ends behind the step under way, and saves; Ctrl-C once more does not wait, nor save\n"
    os.write(2, said.encode())  # print may be what was interrupted


@contextlib.contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
    """Inside, a signal is only noted: `wanted()`, to be asked behind every step and by all processes alike, tells, and
    the block should save and end. Leaving it then ends the process."""

    def wanted() -> bool:
        if jax.process_count() > 1 and not _state["wanted"]:
            _state["wanted"] = multihost_utils.reached_preemption_sync_point(next(_steps))
        return _state["wanted"]

    _state["deferred"] = True
    try:
        yield wanted
    finally:
        _state["deferred"] = False
    if _state["wanted"]:
        raise SystemExit(_state["code"])
