#!/usr/bin/env bash
# NDCG@10 over the share of items that lack their text (or --modality=image, both): launch/missing_rate.py.
#   launch/tables/missing_rate.sh DATASET [options] [-- options of mma_jax.main]
#   launch/tables/missing_rate.sh ml-100k --jobs=2 -- --config.data.root=DATA
# DATASET is named as for table4.sh, or a file of configs/. Results go to ${RUNS:-runs}/missing_rate/DATASET; the same command resumes.
set -euo pipefail
cd "$(dirname "$0")/../.."
name=${1:-}
case $name in
  "")
    echo "launch: give a dataset: launch/tables/missing_rate.sh DATASET [options] [-- options of mma_jax.main]" >&2
    exit 2
    ;;
  -*) exec launch/tables/python.sh -m launch.missing_rate --helpfull ;;
  ml-100k) name=ml100k ;;
  amazon-*) name=amazon_${name#amazon-} ;;
esac
exec launch/tables/python.sh -m launch.missing_rate \
  --config="configs/$name.py" --workdir="${RUNS:-runs}/missing_rate/$name" "${@:2}"
