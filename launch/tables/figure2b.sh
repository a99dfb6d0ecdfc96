#!/bin/sh
# Figure 2b: ReAct, MMA-SFT, MMA-Pooled, MMA-Auto, MMA-Interactive.
# figure2b.sh DATASET [--data_root=DIR] [--workdir=DIR] [--config.key=value ...]; --help has all, and the times.
exec "$(dirname "$0")/run.sh" figure2b "$@"
