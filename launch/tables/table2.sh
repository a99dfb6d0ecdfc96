#!/bin/sh
# Table 2: dataset statistics, first-stage recall, audit.
# table2.sh DATASET [--data_root=DIR] [--workdir=DIR] [--config.key=value ...]; --help has all, and the times.
exec "$(dirname "$0")/run.sh" table2 "$@"
