#!/bin/sh
# Table 6: paired significance tests on OOMA NDCG@10.
# table6.sh DATASET [--data_root=DIR] [--workdir=DIR] [--config.key=value ...]; --help has all, and the times.
exec "$(dirname "$0")/run.sh" table6 "$@"
