"""What device programs cost, by the compiler's own account (MMA Table 8).

A `Meter` stands in for a jitted function and adds up what its calls cost. The compiler's analysis goes round a loop
once: a decoding loop is counted as one step, and `repeats` says how many it took.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax


@dataclasses.dataclass(frozen=True)
class Program:
    """One compiled program."""

    flops: float  # floating-point operations of a call, a loop gone round once
    bytes: int  # arguments, results and temporaries, what is shared between them once
    loops: bool  # whether there is a loop, of which `flops` has one round


def account(function: Callable, *arguments: Any, **keywords: Any) -> Program:
    """Compile a jitted function for some arguments and read the compiler's analysis.

    Args:
        function: as `jax.jit` returns it.
        arguments, keywords: arrays or shapes, and what the function takes as static.
    """
    compiled = function.lower(*arguments, **keywords).compile()
    memory = compiled.memory_analysis()
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
    return Program(
        flops=float(compiled.cost_analysis().get("flops", 0.0)),
        bytes=held - memory.alias_size_in_bytes,
        loops=" while(" in compiled.as_text(),
    )


def once(arguments: tuple, outcome: Any) -> int:
    """A call is one run of its program."""
    return 1


class Meter:
    """Calls a jitted function and adds up its cost.

    Args:
        function: as `jax.jit` returns it.
        repeats: (arguments of a call, its outcome) -> how often the program's loop went round.
    """

    def __init__(self, function: Callable, repeats: Callable[[tuple, Any], int] = once):
        self._function, self._repeats = function, repeats
        self._programs: dict[Any, Program] = {}
        self.reset()

    def reset(self) -> None:
        """Forget the calls so far."""
        self.flops, self.runs, self.bytes, self.loops = 0.0, 0, 0, False

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        leaves, structure = jax.tree.flatten((arguments, keywords))
        shapes = tuple((leaf.shape, str(leaf.dtype)) if hasattr(leaf, "shape") else leaf for leaf in leaves)
        if (key := (structure, shapes)) not in self._programs:
            self._programs[key] = account(self._function, *arguments, **keywords)  # before arguments are donated
        program, outcome = self._programs[key], self._function(*arguments, **keywords)
        times = self._repeats(arguments, outcome)
        self.flops += times * program.flops
        self.runs += times
        self.bytes = max(self.bytes, program.bytes)
        self.loops |= program.loops and self._repeats is once
        return outcome


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[Any]:
    """Another value of an attribute, for a while."""
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield value
    finally:
        setattr(owner, name, original)


def metered(owner: Any, name: str, repeats: Callable[[tuple, Any], int] = once):
    """A `Meter` in the place of a jitted function, which is an attribute of a module or an object, for a while."""
    return replaced(owner, name, Meter(getattr(owner, name), repeats))
