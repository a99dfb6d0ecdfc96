#!/bin/sh
# Table 8: settings and the cost of a query.
# table8.sh DATASET [--data_root=DIR] [--workdir=DIR] [--config.key=value ...]; --help has all, and the times.
exec "$(dirname "$0")/run.sh" table8 "$@"
