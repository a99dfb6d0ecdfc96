#!/bin/sh
# python.sh WORDS: the repository's Python ($PYTHON, or that of .venv) with its code on the path. Called by its siblings.
root=$(cd "$(dirname "$0")/../.." && pwd) || exit 1
python=${PYTHON:-$root/.venv/bin/python}
if ! command -v "$python" > /dev/null; then
    echo "launch: no $python: install as README.md says, or set PYTHON" >&2
    exit 2
fi
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec "$python" "$@"
