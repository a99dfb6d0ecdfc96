"""Stress: evidence tools that lie. The prompt, the rewards and Null are those of the faithful environment.

An agent that has learned to trust whatever answers is worth less than one that notices evidence at odds with the
rest; the fall from protocol "ooma" to "stress_wrong" and "stress_stale" measures it.
"""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Sequence

import numpy as np

from mma_jax.envs.budget import CountTokens, estimate_tokens
from mma_jax.envs.environment import Environment
from mma_jax.envs.evidence import Evidence
from mma_jax.envs.options import Options
from mma_jax.types import Case, InputError

LIES = ("wrong", "stale")
"""wrong: another user's profile and neighbors, and the items' facts permuted among the handles so that none keeps
its own. stale: the profile and neighbors of the older half of the user's history; a history of one has no older half
and stays."""


class UnfaithfulEnvironment(Environment):
    """Answers every evidence call (Ask_User too) as if asked of a false case: what `lie` makes of the true one.

    A lie depends on (seed, case) alone, so it is the same at every call of an episode and in every run.

    Args:
        evidence, options, count_tokens: as for `Environment`.
        lie: one of LIES.
        cases: those played; a user whose history is borrowed comes from among the cases of the same mask.
        seed: of the lies.

    Raises:
        InputError: `lie` is unknown.
    """

    def __init__(
        self,
        evidence: Evidence,
        options: Options,
        lie: str,
        cases: Sequence[Case],
        seed: int,
        count_tokens: CountTokens = estimate_tokens,
    ):
        if lie not in LIES:
            raise InputError(f"lie is {lie!r}: known are {', '.join(LIES)}")
        super().__init__(evidence, options, count_tokens)
        self._cases, self._seed = cases, seed
        self.lie = functools.cache({"wrong": self._wrong, "stale": _stale}[lie])

    def _call_tool(self, case: Case, *call) -> str:
        return super()._call_tool(self.lie(case), *call)

    def _wrong(self, case: Case) -> Case:
        """Another user's history, and the pool moved along one cycle through all handles.

        Raises:
            InputError: there is no other history to borrow.
        """
        others = [c for c in self._cases if c.mask == case.mask and not np.array_equal(c.history, case.history)]
        if not others:
            raise InputError("stress_wrong needs the episodes of at least two users in every family: raise episodes")
        key = (case.pool.astype(np.int64), case.history.astype(np.int64), np.array(case.mask, np.int64))
        rng = np.random.default_rng([self._seed, zlib.crc32(np.concatenate(key).tobytes())])
        history = others[rng.integers(len(others))].history
        order, pool = rng.permutation(len(case.pool)), case.pool.copy()
        pool[order] = case.pool[np.roll(order, 1)]
        return dataclasses.replace(case, pool=pool, history=history)


def _stale(case: Case) -> Case:
    """The user as known when half as much had been taken."""
    return dataclasses.replace(case, history=case.history[: (len(case.history) + 1) // 2])
