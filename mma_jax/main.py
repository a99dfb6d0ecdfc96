"""Command line: flags -> RUNS[config.run](config, workdir). The only place that knows absl.

    python -m mma_jax.main --config=configs/demo.py --workdir=runs/demo [--config.key=value ...] [--dry_run]

Exit codes: 0 done, 2 the input was wrong (one line on stderr), 143 SIGTERM came and 130 Ctrl-C (training saves first;
the same command goes on), 1 anything else (one line if the disk is full or the like, or else a traceback).
"""

from __future__ import annotations

import errno
import inspect
import runpy
import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from mma_jax.learning import interrupts
from mma_jax.runs import hosts
from mma_jax.runs import workdir as workdirs
from mma_jax.runs.registry import RUNS, SHARED
from mma_jax.types import InputError

_CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment file, for example configs/demo.py.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for everything the run writes; rerunning resumes.")
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "One of several processes that work together (a pod, a node).")
_COORDINATOR = flags.DEFINE_string("coordinator", "", "HOST:PORT of process 0; empty where JAX finds out by itself.")
_PROCESSES = flags.DEFINE_integer("processes", 1, "How many there are, with --coordinator.", lower_bound=1)
_PROCESS = flags.DEFINE_integer("process", 0, "Which one this is, with --coordinator.", lower_bound=0)
_HEARTBEAT = flags.DEFINE_integer(
    "heartbeat", 30, "Seconds of silence after which a process counts as dead and the others end.", lower_bound=5
)
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print the plan (data, shapes, memory, devices) and stop.")

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM, errno.ESTALE)
"""Errors of a disk, not of the program: full, over its quota or its files' limit, gone, or closed to us."""


def _main(argv: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)  # JAX tells at INFO which accelerators it did not find
    if len(argv) > 1:
        raise InputError(f"unexpected argument {argv[1]!r}: options look like --config.key=value")
    for flag in (_CONFIG, _WORKDIR):
        if not flag.value:
            raise InputError(f"--{flag.name} is missing: python -m mma_jax.main --config=configs/demo.py --workdir=DIR")
    config = _CONFIG.value
    if _DISTRIBUTED.value:
        if config.run not in SHARED:
            raise InputError(f"--distributed is for --config.run={', '.join(SHARED)}; {config.run} runs in one process")
        hosts.join(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value, _HEARTBEAT.value)
    if config.run not in RUNS:
        raise InputError(f"unknown run {config.run!r}: config.run is one of {', '.join(RUNS)}")
    directory = workdirs.open_workdir(_WORKDIR.value, config, dry_run=_DRY_RUN.value or not hosts.first())
    RUNS[config.run](config, directory, _DRY_RUN.value)


def _check_config(argv: list[str]) -> None:
    """Raises InputError for a config file or key that is not there; ml_collections says that in its own words."""
    given = [word.removeprefix("--config=") for word in argv if word.startswith("--config=")]
    path, _, preset = given[-1].partition(":") if given else ("", "", "")
    if not path:
        return
    if not Path(path).is_file():
        raise InputError(f"--config={path}: no such file")
    try:
        make = runpy.run_path(path).get("get_config")
        if make is None:
            raise InputError(f"{path} has no get_config(): it is no experiment")
        if preset and not inspect.signature(make).parameters:
            raise InputError(f"{path} has no presets: give --config={path}")
        config = make(*([preset] if preset else []))
    except InputError:
        raise
    except Exception as error:  # config files are code
        raise InputError(f"--config={path} ended with {type(error).__name__}: {error}") from error
    for word in argv:
        if word.startswith("--config."):
            _check_key(config, word.removeprefix("--config.").partition("=")[0])


def _check_key(config: ConfigDict, key: str) -> None:
    """Raises InputError unless config has the dotted key, which may end with a place in a list, "noise[0]"."""
    node, known = config, "config"
    for part in key.partition("[")[0].split("."):
        if not isinstance(node, ConfigDict):
            raise InputError(f"unknown config key {key!r}: {known} is {node!r} and has no keys")
        if part not in node:
            raise InputError(f"unknown config key {key!r}: {known} has {', '.join(sorted(node))}")
        node, known = node[part], f"{known}.{part}"


def _parse_flags(argv: list[str]) -> list[str]:
    """Like absl's parser, but a wrong flag, config file or config key is one line and exit code 2."""
    try:
        _check_config(argv)
        rest = flags.FLAGS(argv)
        if _CONFIG.value is not None:
            _CONFIG.value.to_dict()  # a file that could not be loaded answers with its error only when used
        return rest
    except InputError:
        raise
    except Exception as error:  # config files are code: whatever they raise is about the user's input
        said = str(error).strip()
        if "Traceback" in said:  # of the file's own code, or of a preset given to a file that has none
            said = f"the file of --config ended with {said.splitlines()[-1]}"
        raise InputError(" ".join(said.split())) from error


def run() -> None:
    """Entry point of `python -m mma_jax.main` and of the console script."""
    interrupts.listen()
    try:
        app.run(_main, flags_parser=_parse_flags)
    except SystemExit as end:
        asked_for_help = any(argument.startswith("--help") for argument in sys.argv)
        sys.exit(0 if asked_for_help else end.code)  # absl ends --help with 1
    except InputError as error:
        print(f"mma_jax: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno not in _DISK:
            raise
        where = error.filename or _WORKDIR.value
        print(f"mma_jax: {where}: {error.strerror}; set it right, then the same command goes on", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    run()
