"""Run on a SLURM cluster: an sbatch script of one task a node, which find each other.

    python -m launch.slurm --nodes=2 --options=partition=gpu,gres=gpu:8,time=24:00:00 --config=... --workdir=... \\
        -- --config.mesh.fsdp=16

The script asks for SIGTERM two minutes before the time is over and puts itself back into the queue; the next start goes
on from the checkpoint. `--print_only` prints it.
"""

from __future__ import annotations

import shlex

from absl import flags

from launch import common

_NODES = flags.DEFINE_integer("nodes", 1, "Machines, a process each.", lower_bound=1)
_OPTIONS = flags.DEFINE_string("options", "", "key=value,... for sbatch.")

NOTICE = 120  # seconds before the end at which SIGTERM comes
LOG = "slurm-%j.txt"


def script(words: list[str]) -> str:
    """Raises InputError for an option that is not key=value."""
    lines = ["#!/bin/bash", f"#SBATCH --nodes={_NODES.value}", "#SBATCH --ntasks-per-node=1", "#SBATCH --requeue"]
    lines += [f"#SBATCH --signal=TERM@{NOTICE}", f"#SBATCH --output={LOG}"]
    lines += common.sbatch_options("options", _OPTIONS.value)
    launched = common.in_code([".venv/bin/python", *words[1:]], {"PYTHONUNBUFFERED": "1"})
    return "\n".join(
        [
            *lines,
            f"srun --kill-on-bad-exit=1 bash -c {shlex.quote(launched)}",
            "code=$?",
            'if [ "$code" -eq 143 ]; then scontrol requeue "$SLURM_JOB_ID"; fi',
            'exit "$code"',
            "",
        ]
    )


def main(argv: list[str]) -> None:
    common.start(["sbatch"], script(common.command(argv[1:], distributed=_NODES.value > 1)))


if __name__ == "__main__":
    common.run(main)
