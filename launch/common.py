"""What every launcher shares: the run's flags, their check before anything is started, printing instead of running.

A launcher starts `mma_jax.main` on machines of several processes or devices, from the data to the report, or what
`--config.run` names behind `--`. The same command resumes after a preemption: a process that gets SIGTERM in training
saves and ends with 143, and a rerun goes on from the last checkpoint. The workdir must be one that all machines see.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import app, flags

from mma_jax.types import InputError

CONFIG = flags.DEFINE_string("config", None, "Experiment file, as the machines see it.", required=True)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder that all machines see.", required=True)
CODE = flags.DEFINE_string("code", None, "Folder of this repository on the machines; default: the current one.")
PRINT_ONLY = flags.DEFINE_bool("print_only", False, "Print what would be run and stop.")

NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")


def config_file() -> tuple[str, str]:
    """--config's path and argument, for launchers that start on this machine. Raises InputError if no file is there."""
    path, _, argument = CONFIG.value.partition(":")
    if not Path(path).is_file():
        raise InputError(f"--config={CONFIG.value}: no such file")
    return path, argument


def command(rest: Sequence[str], distributed: bool = True) -> list[str]:
    """The words of one process's command. `rest`: what followed `--` on the launcher's line."""
    for word in rest:
        if not word.startswith("--"):
            raise InputError(
                f"{word!r} is no option: what follows -- goes to mma_jax.main, such as --config.sft.steps=9"
            )
    return [
        *("python", "-m", "mma_jax.main", f"--config={CONFIG.value}", f"--workdir={WORKDIR.value}"),
        *(["--distributed"] if distributed else []),
        *rest,
    ]


def in_code(words: Sequence[str], environment: dict[str, str] | None = None) -> str:
    """A shell line that runs a command in the code's folder with some variables set."""
    variables = [f"{name}={shlex.quote(value)}" for name, value in (environment or {}).items()]
    return " ".join([f"cd {shlex.quote(CODE.value or str(Path.cwd()))} &&", *variables, shlex.join(words)])


def check_name(flag: str, value: str) -> None:
    """Raises InputError unless it is what clouds call a resource: small letters, digits, dashes."""
    if not NAME.fullmatch(value):
        raise InputError(f"--{flag}={value}: want small letters, digits and dashes, beginning with a letter")


def sbatch_options(flag: str, text: str) -> list[str]:
    """Lines of an sbatch script from key=value,...; raises InputError for one that is not that."""
    given = [option for option in text.split(",") if option]
    if wrong := [option for option in given if "=" not in option]:
        raise InputError(f"--{flag}: {wrong[0]!r} is not key=value, such as partition=gpu")
    return [f"#SBATCH --{option}" for option in given]


def start(words: Sequence[str], text: str | None = None) -> None:
    """Run a command, with `text` on its standard input, or print what would be run; ends with its exit code."""
    if PRINT_ONLY.value:
        print(shlex.join(words) if text is None else text)
        return
    try:
        sys.exit(subprocess.run(words, input=text, text=True, check=False).returncode)
    except FileNotFoundError:
        raise InputError(f"{words[0]} is not installed here; --print_only shows what would be run") from None


def _parse_flags(argv: list[str]) -> list[str]:
    """Like absl's parser, but a wrong flag is one line and exit code 2."""
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        raise InputError(" ".join(str(error).split())) from error


def run(main: Callable[[list[str]], None]) -> None:
    """A launcher's entry point: wrong input is one line and exit code 2."""
    try:
        app.run(main, flags_parser=_parse_flags)
    except SystemExit as end:
        asked_for_help = any(argument.startswith("--help") for argument in sys.argv)
        sys.exit(0 if asked_for_help else end.code)  # absl ends --help with 1
    except InputError as error:
        print(f"launch: {error}", file=sys.stderr)
        sys.exit(2)
