#!/bin/sh
# Table 3: OOMA NDCG@10, with a picture.
# table3.sh DATASET [--data_root=DIR] [--workdir=DIR] [--config.key=value ...]; --help has all, and the times.
exec "$(dirname "$0")/run.sh" table3 "$@"
