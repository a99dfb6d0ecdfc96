#!/usr/bin/env bash
# NDCG@10 over the share of items that lack their text (or --modality=image, both): launch/missing_rate.py.
#   launch/tables/missing_rate.sh DATASET [options] [-- options of mma_jax.main]
#   launch/tables/missing_rate.sh ml100k --jobs=2 -- --config.data.root=DATA
# DATASET is a file of configs/; results go to ${RUNS:-runs}/missing_rate/DATASET. The same command resumes.
set -euo pipefail
cd "$(dirname "$0")/../.."
name=${1:?usage: launch/tables/missing_rate.sh DATASET [options] [-- options of mma_jax.main]}
exec launch/tables/python.sh -m launch.missing_rate \
  --config="configs/$name.py" --workdir="${RUNS:-runs}/missing_rate/$name" "${@:2}"
