#!/bin/sh
# Table 7: the deterministic-router control.
# table7.sh DATASET [--data_root=DIR] [--workdir=DIR] [--config.key=value ...]; --help has all, and the times.
exec "$(dirname "$0")/run.sh" table7 "$@"
