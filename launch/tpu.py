"""Run on a TPU pod slice: the same command on all its workers, which find each other.

    python -m launch.tpu --name=my-slice --zone=us-central2-b --config=configs/mma_llama3_8b.py \\
        --workdir=/mnt/shared/runs/8b --code=/mnt/shared/mma_jax -- --config.mesh.fsdp=16

Needs gcloud, a slice that is up (`gcloud compute tpus tpu-vm create`), the code with `pip install -e '.[tpu]'` in
CODE/.venv, and a workdir on storage that all workers mount. After a preemption create the slice again and give the same
command. Weights should be split (config.mesh.fsdp or tensor) where they do not fit one chip.
"""

from __future__ import annotations

from absl import flags

from launch import common

_NAME = flags.DEFINE_string("name", None, "The slice.", required=True)
_ZONE = flags.DEFINE_string("zone", None, "Its zone.", required=True)
_PROJECT = flags.DEFINE_string("project", None, "Its project; default: gcloud's own.")

ENVIRONMENT = {"PYTHONUNBUFFERED": "1", "JAX_PLATFORMS": "tpu"}
"""TPU only: a worker that finds no chip must fail, not compute on its CPU."""


def main(argv: list[str]) -> None:
    common.check_name("name", _NAME.value)
    common.check_name("zone", _ZONE.value)
    words = common.command(argv[1:])
    command = common.in_code([".venv/bin/python", *words[1:]], ENVIRONMENT)
    project = [f"--project={_PROJECT.value}"] if _PROJECT.value else []
    common.start(
        [
            *("gcloud", "compute", "tpus", "tpu-vm", "ssh", _NAME.value, f"--zone={_ZONE.value}", *project),
            *("--worker=all", f"--command={command}"),
        ]
    )


if __name__ == "__main__":
    common.run(main)
