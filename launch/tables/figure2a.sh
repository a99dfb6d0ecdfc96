#!/bin/sh
# Figure 2a: MMA-Interactive beside MMA-Auto.
# figure2a.sh DATASET [--data_root=DIR] [--workdir=DIR] [--config.key=value ...]; --help has all, and the times.
exec "$(dirname "$0")/run.sh" figure2a "$@"
