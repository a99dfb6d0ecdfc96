"""SIGTERM, which clusters send some seconds before they kill: training saves where it is and ends."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator

EXIT_CODE = 128 + signal.SIGTERM  # what a shell reports of a process that SIGTERM ended
_state = {"deferred": False, "wanted": False}


def listen() -> None:
    """From now on SIGTERM ends the process with EXIT_CODE, at once or, inside `deferred`, at the next good moment.

    Call it in the main thread.
    """
    signal.signal(signal.SIGTERM, _heard)


def _heard(number: int, frame) -> None:
    _state["wanted"] = True
    if not _state["deferred"]:
        raise SystemExit(EXIT_CODE)


@contextlib.contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
    """Inside, SIGTERM is only noted: `wanted()` tells, and the block should save and return soon. Leaving it then ends
    the process."""
    _state["deferred"] = True
    try:
        yield lambda: _state["wanted"]
    finally:
        _state["deferred"] = False
    if _state["wanted"]:
        raise SystemExit(EXIT_CODE)
