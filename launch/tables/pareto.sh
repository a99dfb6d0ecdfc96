#!/usr/bin/env bash
# What accuracy costs: NDCG@10 against evidence calls over the price of a call, config.env.cost_tool: launch/pareto.py.
#   launch/tables/pareto.sh DATASET [options] [-- options of mma_jax.main]
#   launch/tables/pareto.sh generated --methods=RuleRouter-Fuse,Optimal-router,MMA-SFT,MMA-Auto
# DATASET is named as for table4.sh, or a file of configs/. Results go to ${RUNS:-runs}/pareto/DATASET; the same command resumes.
set -euo pipefail
cd "$(dirname "$0")/../.."
name=${1:-}
case $name in
  "")
    echo "launch: give a dataset: launch/tables/pareto.sh DATASET [options] [-- options of mma_jax.main]" >&2
    exit 2
    ;;
  -*) exec launch/tables/python.sh -m launch.pareto --helpfull ;;
  ml-100k) name=ml100k ;;
  amazon-*) name=amazon_${name#amazon-} ;;
esac
exec launch/tables/python.sh -m launch.pareto \
  --config="configs/$name.py" --workdir="${RUNS:-runs}/pareto/$name" "${@:2}"
