#!/bin/sh
# Table 4: OOMA NDCG@10 by surviving modality, with a picture.
# table4.sh DATASET [--data_root=DIR] [--workdir=DIR] [--config.key=value ...]; --help has all, and the times.
exec "$(dirname "$0")/run.sh" table4 "$@"
