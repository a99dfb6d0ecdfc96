"""The command line in a process forked from one that has done the imports: as new as any, and seconds sooner."""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["mma_jax.main"])


def run(arguments: list[str]) -> subprocess.CompletedProcess:
    """`python -m mma_jax.main ARGUMENTS` in the repository's folder."""
    with tempfile.TemporaryDirectory() as folder:
        outputs = [os.path.join(folder, name) for name in ("stdout", "stderr")]
        process = PROCESSES.Process(target=_main, args=(arguments, outputs))
        process.start()
        process.join()
        texts = [Path(path).read_text() for path in outputs]
    return subprocess.CompletedProcess(arguments, process.exitcode, *texts)


def _main(arguments: list[str], outputs: list[str]) -> None:
    for number, path in enumerate(outputs, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    os.chdir(ROOT)
    sys.argv = ["mma_jax.main", *arguments]
    from mma_jax import main

    main.run()
