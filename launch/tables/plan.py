"""What each table needs, and on what data: the two dicts that `python -m launch.tables` goes by."""

from __future__ import annotations

import dataclasses

from mma_jax.reports.paper_tables import AGENTS, CONTENDERS, HEADROOM, ROUTER, STATIC

SEEDS = "0,1,2,3,4"

SETTINGS = ("--config.eval.language_protocols=ooma,full_catalog,interactive",)
"""The same for all tables of a dataset, so that they share a folder."""

ABLATION = ("ReAct", "MMA-SFT", "MMA-Pooled", "MMA-Auto", "MMA-Interactive")
ROUTERS = (ROUTER, "Router-StopAtFirst", "RuleRouter-Peek")
BOUND = "Bayes"


@dataclasses.dataclass(frozen=True)
class Table:
    """One table or figure.

    `runs`: values of config.run, in turn; "train" is left out where no agent plays.
    """

    title: str
    methods: tuple[str, ...]
    protocols: tuple[str, ...] = ("ooma",)
    runs: tuple[str, ...] = ("train", "evaluate")


_MAIN = (
    "First-stage",
    "Popularity",
    *STATIC,
    "RuleRouter-Fuse",
    "Evidence-linear",
    "ReAct",
    "AgentCF",
    "MMA-Auto",
    BOUND,
)

TABLES: dict[str, Table] = {
    "table2": Table("dataset statistics", ("First-stage",), runs=("prepare", "audit")),
    "table3": Table("OOMA NDCG@10", _MAIN),
    "table4": Table("OOMA NDCG@10 by surviving modality", _MAIN),
    "table5": Table(
        "reranking of the full catalog's fixed pool",
        ("First-stage", *STATIC, "RuleRouter-Fuse", "Evidence-linear", "MMA-Auto"),
        ("full_catalog",),
    ),
    "table6": Table("paired significance tests", ("First-stage", *STATIC, *CONTENDERS)),
    "table7": Table("deterministic-router control", ("First-stage", *STATIC, *ROUTERS, "MMA-Auto")),
    "table8": Table(
        "settings and cost of a query",
        ("First-stage", *STATIC, "RuleRouter-Fuse", "Evidence-linear", "MMA-Auto", "MMA-Interactive"),
        ("ooma", "interactive"),
        ("train", "cost"),
    ),
    "table9": Table("routing diagnostics", (*ROUTERS, "MMA-Auto")),
    "figure2a": Table(
        "what Ask_User adds", ("RuleRouter-Fuse", "Router-Ask", "MMA-Auto", "MMA-Interactive"), ("ooma", "interactive")
    ),
    "figure2b": Table("ablation of the agent", ABLATION, ("ooma", "interactive")),
}


@dataclasses.dataclass(frozen=True)
class Data:
    """A dataset: its file in configs/, with a preset or not, and the data's folder; "" if it makes itself."""

    config: str
    folder: str = ""

    @property
    def real(self) -> bool:
        return bool(self.folder)


DATASETS: dict[str, Data] = {
    "demo": Data("demo.py"),
    "generated": Data("generated.py"),
    "ml-100k": Data("ml100k.py", "ml-100k"),
    "amazon-beauty": Data("amazon_beauty.py", "amazon-beauty"),
    "amazon-sports": Data("amazon_sports.py", "amazon-sports"),
    "amazon-baby": Data("amazon_baby.py", "amazon-baby"),
    "amazon-baby-small": Data("amazon_baby.py:small", "amazon-baby"),
}

TIMES: dict[tuple[str, str], str] = {
    ("table2", "ml-100k"): "3:21 minutes beside other work",
    ("table4", "ml-100k"): "62 minutes beside other work: twelve baselines, five seeds, 10 to 100 epochs",
    ("table3", "ml-100k"): "21 s where table4 is done",
    ("table5", "ml-100k"): "3 minutes where table4 is done",
    ("table6", "ml-100k"): "15 s where table4 is done",
    ("table7", "ml-100k"): "40 s where table4 is done",
    ("table9", "ml-100k"): "13 s where table4 is done",
}
"""(table, dataset) -> wall time on 2 cores, with nothing computed before unless it says so; --help prints it."""


def methods(table: Table, real: bool, agents: bool, only: tuple[str, ...]) -> tuple[str, ...]:
    """Which methods of a table play.

    Args:
        table: of TABLES.
        real: the data has no known truth, so no bound.
        agents: a language model is there.
        only: if any, no others.
    """
    left_out = {BOUND} if real else set()
    if not agents:
        left_out |= {*AGENTS}
    return tuple(name for name in table.methods if name not in left_out and (not only or name in only))


def commands(
    table: Table, names: tuple[str, ...], config: str, workdir: str, settings: tuple[str, ...]
) -> list[tuple[str, list[str]]]:
    """(run, words behind `python`) that compute what a table shows."""
    fixed = [f"--config={config}", f"--workdir={workdir}", *SETTINGS, f"--config.seeds={SEEDS}", *settings]
    trained = [name for name in names if name in AGENTS]
    found = []
    for run in table.runs:
        if run == "train" and not trained:
            continue
        played = trained if run == "train" else names
        chosen = [f"--config.run={run}", f"--config.methods={','.join(played)}"]
        chosen.append(f"--config.protocols={','.join(_protocols(table, names))}")
        found.append((run, ["-m", "mma_jax.main", *fixed, *chosen]))
    return found


def _protocols(table: Table, names: tuple[str, ...]) -> list[str]:
    """Without those in which none of the methods plays."""
    asking = any(name in HEADROOM for name in names)
    others = any(name not in HEADROOM for name in names)
    return [protocol for protocol in table.protocols if (asking if protocol == "interactive" else others)]
