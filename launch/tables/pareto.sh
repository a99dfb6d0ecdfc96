#!/usr/bin/env bash
# What accuracy costs: NDCG@10 against evidence calls over the price of a call, config.env.cost_tool: launch/pareto.py.
#   launch/tables/pareto.sh DATASET [options] [-- options of mma_jax.main]
#   launch/tables/pareto.sh generated --methods=RuleRouter-Fuse,Optimal-router,MMA-SFT,MMA-Auto
# DATASET is a file of configs/; results go to ${RUNS:-runs}/pareto/DATASET. The same command resumes.
set -euo pipefail
cd "$(dirname "$0")/../.."
name=${1:?usage: launch/tables/pareto.sh DATASET [options] [-- options of mma_jax.main]}
exec launch/tables/python.sh -m launch.pareto \
  --config="configs/$name.py" --workdir="${RUNS:-runs}/pareto/$name" "${@:2}"
