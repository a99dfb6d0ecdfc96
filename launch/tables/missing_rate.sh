#!/bin/sh
# NDCG@10 over the share of items that lack their text (or --modality=image, both): launch/missing_rate.py.
#   launch/tables/missing_rate.sh DATASET [options] [-- options of mma_jax.main]
#   launch/tables/missing_rate.sh ml-100k --jobs=2 -- --config.data.root=DATA
# DATASET is named as for table4.sh, or a file of configs/. Results go to ${RUNS:-runs}/missing_rate/DATASET; the same
# command resumes.
exec "$(dirname "$0")/curve.sh" missing_rate "$@"
