#!/bin/sh
# Table 5: the full catalog's fixed pool: Recall, HR@10, NDCG@10.
# table5.sh DATASET [--data_root=DIR] [--workdir=DIR] [--config.key=value ...]; --help has all, and the times.
exec "$(dirname "$0")/run.sh" table5 "$@"
