#!/bin/sh
# run.sh TABLE DATASET [options]: what the scripts beside it call. Finds the repository and its Python ($PYTHON, or that
# of .venv); `launch/tables/table4.sh --help` has the options, and the times.
root=$(cd "$(dirname "$0")/../.." && pwd) || exit 1
python=${PYTHON:-$root/.venv/bin/python}
if ! command -v "$python" > /dev/null; then
    echo "launch: no $python: install as README.md says, or set PYTHON" >&2
    exit 2
fi
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec "$python" -m launch.tables "$@"
