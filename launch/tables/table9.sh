#!/bin/sh
# Table 9: routing diagnostics by surviving modality.
# table9.sh DATASET [--data_root=DIR] [--workdir=DIR] [--config.key=value ...]; --help has all, and the times.
exec "$(dirname "$0")/run.sh" table9 "$@"
