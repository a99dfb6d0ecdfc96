"""A Kubernetes JobSet (what XPK submits too) for a TPU slice on GKE; it restarts by itself after a preemption.

    python -m launch.kubernetes --name=mma-8b --image=REGISTRY/mma_jax:1 --accelerator=tpu-v5-lite-podslice \\
        --topology=4x4 --hosts=4 --chips=4 --claim=shared --config=configs/mma_llama3_8b.py --workdir=/shared/runs/8b \\
        -- --config.mesh.fsdp=16

The image has this repository installed with `pip install -e '.[tpu]'` in its working folder, or in --code. --claim is a
PersistentVolumeClaim that many pods may write, mounted at /shared. `--print_only` prints the manifest.
"""

from __future__ import annotations

import json
import math

from absl import flags

from launch import common
from mma_jax.types import InputError

_NAME = flags.DEFINE_string("name", None, "Of the JobSet.", required=True)
_IMAGE = flags.DEFINE_string("image", None, "Container image.", required=True)
_ACCELERATOR = flags.DEFINE_string("accelerator", "tpu-v5-lite-podslice", "Node label of the chips.")
_TOPOLOGY = flags.DEFINE_string("topology", None, "Of the slice, such as 4x4.", required=True)
_HOSTS = flags.DEFINE_integer("hosts", None, "Machines of the slice.", required=True, lower_bound=1)
_CHIPS = flags.DEFINE_integer("chips", 4, "Chips of a machine.", lower_bound=1)
_CLAIM = flags.DEFINE_string("claim", None, "PersistentVolumeClaim, mounted at /shared.", required=True)
_RESTARTS = flags.DEFINE_integer("restarts", 100, "Restarts before giving up.", lower_bound=0)

GRACE = 120  # seconds between SIGTERM and SIGKILL: an iteration has to end and be saved


def manifest(words: list[str], folder: str | None) -> dict:
    """The JobSet: one job, a pod a machine, all restarted together when one fails."""
    chips = {"google.com/tpu": _CHIPS.value}
    container = {
        "name": "train",
        "image": _IMAGE.value,
        "command": words,
        "env": [
            {"name": "PYTHONUNBUFFERED", "value": "1"},
            {"name": "JAX_PLATFORMS", "value": "tpu"},
        ],
        "resources": {"requests": chips, "limits": chips},
        "volumeMounts": [{"name": "shared", "mountPath": "/shared"}],
    } | ({"workingDir": folder} if folder else {})
    pod = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": GRACE,
        "nodeSelector": {
            "cloud.google.com/gke-tpu-accelerator": _ACCELERATOR.value,
            "cloud.google.com/gke-tpu-topology": _TOPOLOGY.value,
        },
        "containers": [container],
        "volumes": [{"name": "shared", "persistentVolumeClaim": {"claimName": _CLAIM.value}}],
    }
    job = {
        "parallelism": _HOSTS.value,
        "completions": _HOSTS.value,
        "backoffLimit": 0,
        "template": {"spec": pod},
    }
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {
            "name": _NAME.value,
            "annotations": {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"},
        },
        "spec": {
            "failurePolicy": {"maxRestarts": _RESTARTS.value},
            "replicatedJobs": [{"name": "slice", "replicas": 1, "template": {"spec": job}}],
        },
    }


def main(argv: list[str]) -> None:
    common.check_name("name", _NAME.value)
    sides = _TOPOLOGY.value.split("x")
    if not all(side.isdigit() and int(side) for side in sides):
        raise InputError(f"--topology={_TOPOLOGY.value}: want numbers and x, such as 4x4")
    chips, given = math.prod(map(int, sides)), _HOSTS.value * _CHIPS.value
    if chips != given:
        raise InputError(f"--topology={_TOPOLOGY.value} has {chips} chips, --hosts times --chips is {given}")
    text = json.dumps(manifest(common.command(argv[1:]), common.CODE.value), indent=1)  # JSON is YAML
    common.start(["kubectl", "apply", "-f", "-"], text)


if __name__ == "__main__":
    common.run(main)
