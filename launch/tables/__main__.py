"""A table or figure of the MMA paper, from nothing or from what is there: ours, with the paper's own behind it.

    launch/tables/table4.sh ml-100k --data_root=DATA
    python -m launch.tables table4 ml-100k --data_root=DATA --workdir=runs/tables/ml-100k

Trains and evaluates what the table needs and the folder does not have yet; all tables of a dataset share the folder, so
nothing is computed twice, and a killed run goes on where it was. Writes DIR/tables/TABLE.md, TABLE.tex and, where there
is a picture, TABLE.svg. Further --config.key=value go to mma_jax.main; a folder keeps the settings it was begun with,
so give the same for every table, or another --workdir.

On generated data (demo, generated) the agents play on the embedded L0-tiny. It reads generated words alone, so on real
data agents play only with --config.model.path=FOLDER (a Llama in Hugging Face's format, or an L0-tiny that
--config.run=pretrain made with the catalog's words) or --agents=l0_tiny, which runs the embedded one all the same; the
model and its size then stand beside the figures.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import subprocess
import sys
from pathlib import Path

import jax
from flax import nnx
from ml_collections import ConfigDict

from launch.gpus import supervise
from launch.tables import plan
from mma_jax.agents.registry import METHODS
from mma_jax.models.llama import Llama
from mma_jax.reports import paper_tables
from mma_jax.reports.load import load_run
from mma_jax.runs import aot
from mma_jax.types import InputError

ROOT = Path(__file__).parents[2]
OURS = ("run", "methods", "protocols", "data.root")
"""Settings that a table sets itself."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise InputError(message)


def parse(words: list[str]) -> argparse.Namespace:
    """Raises InputError for what cannot be."""
    times = [f"  {table} {dataset}: {time}" for (table, dataset), time in plan.TIMES.items()]
    parser = _Parser(
        "launch.tables",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(["wall time on 2 cores, with nothing computed before:", *(times or ["  not measured yet"])]),
        allow_abbrev=False,
    )
    parser.add_argument("table", help=", ".join(f"{name} ({table.title})" for name, table in plan.TABLES.items()))
    parser.add_argument("dataset", help=", ".join(plan.DATASETS))
    parser.add_argument("--data_root", metavar="DIR", help="folder that holds the dataset's folder; real data only")
    parser.add_argument("--workdir", metavar="DIR", help="default: runs/tables/DATASET in this repository")
    parser.add_argument("--methods", default="", metavar="A,B", help="of those that the table has, these alone")
    parser.add_argument("--static", default="", metavar="METHOD", help="what tables 3, 5, 6 and 7 call Static")
    parser.add_argument("--agents", default="auto", metavar="auto|l0_tiny|none", help="see above")
    asked, settings = parser.parse_known_args(words)
    for kind, name, known in (("table", asked.table, plan.TABLES), ("dataset", asked.dataset, plan.DATASETS)):
        if name not in known:
            raise InputError(f"unknown {kind} {name!r}: known are {', '.join(known)}")
    for setting in settings:
        key = setting.removeprefix("--config.").partition("=")[0]
        if not setting.startswith("--config.") or "=" not in setting:
            raise InputError(f"{setting!r} is no option: settings look like --config.key=value")
        if key in OURS:
            raise InputError(f"{setting}: a table sets config.{key} itself; there are --methods and --data_root")
    if asked.agents not in ("auto", "l0_tiny", "none"):
        raise InputError(f"--agents={asked.agents}: one of auto, l0_tiny, none")
    data = plan.DATASETS[asked.dataset]
    if data.real and not asked.data_root:
        raise InputError(f"{asked.dataset} needs --data_root=DIR, the folder that holds {data.folder}/")
    if data.real and not (Path(asked.data_root) / data.folder).is_dir():
        raise InputError(f"--data_root={asked.data_root}: no folder {data.folder} in it")
    asked.settings = (*([f"--config.data.root={Path(asked.data_root).resolve()}"] if data.real else []), *settings)
    return asked


def chosen(asked: argparse.Namespace) -> tuple[str, ...]:
    """The methods that play; raises InputError if that is none, or one that there is not."""
    data, table = plan.DATASETS[asked.dataset], plan.TABLES[asked.table]
    only = tuple(filter(None, (name.strip() for name in asked.methods.split(","))))
    if strange := [name for name in only if name not in table.methods]:
        raise InputError(f"--methods: {asked.table} has no {strange[0]!r}; it has {', '.join(table.methods)}")
    given = any(setting.startswith("--config.model.path=") for setting in asked.settings)
    agents = asked.agents == "l0_tiny" or (asked.agents == "auto" and (given or not data.real))
    names = plan.methods(table, data.real, agents, only)
    without = [name for name in plan.methods(table, data.real, True, only) if name not in names]
    if without and asked.agents == "auto":
        print(f"without {', '.join(without)}: agents need --config.model.path=FOLDER here, or --agents=l0_tiny")
    if not names:
        raise InputError(f"{asked.table} is about agents alone: give --config.model.path=FOLDER, or --agents=l0_tiny")
    if unknown := [name for name in names if name not in METHODS]:
        raise InputError(f"not among the methods that this version has: {', '.join(unknown)}; narrow by --methods=A,B")
    return names


def base_model(config: ConfigDict) -> str:
    """Name and size of what the agents play on: "L0-tiny of 1.6 M"."""
    shape = aot.shape_of(config)
    model = nnx.eval_shape(lambda: Llama(shape, rngs=nnx.Rngs(0)))
    size = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(model)))
    name = Path(config.model.path).name or "L0-tiny"
    return f"{name} of {size / 1e9:.1f} B" if size >= 1e9 else f"{name} of {size / 1e6:.1f} M"


def main(words: list[str]) -> None:
    asked = parse(words)
    names, workdir = chosen(asked), Path(asked.workdir or ROOT / "runs" / "tables" / asked.dataset).resolve()
    config = ROOT / "configs" / plan.DATASETS[asked.dataset].config
    steps = plan.commands(plan.TABLES[asked.table], names, str(config), str(workdir), asked.settings)
    for number, (run, step) in enumerate(steps, 1):
        print(f"\n[{number}/{len(steps)}] {run}\n  python {shlex.join(step)}", flush=True)
        if code := supervise([subprocess.Popen([sys.executable, *step])]):
            sys.exit(code)
    agents = any(name in paper_tables.AGENTS for name in names)
    settings = ConfigDict(json.loads((workdir / "config.json").read_text()))
    made = paper_tables.Asked(
        load_run(workdir, max_traces=0), names, asked.static, base_model(settings) if agents else ""
    )
    command = shlex.join([f"launch/tables/{asked.table}.sh", *words[1:]])
    title = f"{plan.TABLES[asked.table].title}, {asked.dataset}"
    written = paper_tables.write(made, asked.table, title, command)
    print("\n" + written[0].read_text().partition("## What the paper reports")[0])
    print("\n".join(map(str, written)))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InputError as error:
        print(f"launch: {error}", file=sys.stderr)
        sys.exit(2)
