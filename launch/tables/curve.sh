#!/usr/bin/env bash
# curve.sh MODULE DATASET [options]: what missing_rate.sh and pareto.sh call.
set -euo pipefail
cd "$(dirname "$0")/../.."
module=$1 name=${2:-}
case $name in
  "")
    echo "launch: give a dataset: launch/tables/$module.sh DATASET [options] [-- options of mma_jax.main]" >&2
    exit 2
    ;;
  -*) exec launch/tables/python.sh -m "launch.$module" --helpfull ;;
  ml-100k) name=ml100k ;;
  amazon-*) name=amazon_${name#amazon-} ;;
esac
exec launch/tables/python.sh -m "launch.$module" \
  --config="configs/$name.py" --workdir="${RUNS:-runs}/$module/$name" "${@:3}"
