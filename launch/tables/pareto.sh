#!/bin/sh
# What accuracy costs: NDCG@10 against evidence calls over the price of a call, config.env.cost_tool: launch/pareto.py.
#   launch/tables/pareto.sh DATASET [options] [-- options of mma_jax.main]
#   launch/tables/pareto.sh generated --methods=RuleRouter-Fuse,Optimal-router,MMA-SFT,MMA-Auto
# DATASET is named as for table4.sh, or a file of configs/. Results go to ${RUNS:-runs}/pareto/DATASET; the same command
# resumes.
exec "$(dirname "$0")/curve.sh" pareto "$@"
