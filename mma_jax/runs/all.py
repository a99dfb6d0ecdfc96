"""config.run = all: prepare, audit, train, evaluate, report, in turn; what is finished is not done again."""

from __future__ import annotations

from pathlib import Path

from mma_jax.runs import audit, evaluate, hosts, prepare, report, train

SHARED = (train, evaluate)  # several processes take part; the rest is the first one's


def run(config, directory: Path, dry_run: bool) -> None:
    for step in (prepare, audit, train, evaluate, report)[
        : 1 if dry_run else None
    ]:  # the plan of prepare is the plan of all
        if step in SHARED:
            step.run(config, directory, dry_run)
        else:
            hosts.alone(lambda step=step: step.run(config, directory, dry_run), step.__name__)
