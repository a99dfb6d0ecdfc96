#!/bin/sh
# run.sh TABLE DATASET [options]: what the scripts beside it call; `launch/tables/table4.sh --help` has the options, and
# the times.
exec "$(dirname "$0")/python.sh" -m launch.tables "$@"
