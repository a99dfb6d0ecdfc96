"""Our side of the MMA paper's tables and figures, from a run's folder alone: `write(asked, "table4", command)`.

Each entry of BUILDERS answers with our tables and pictures; `write` puts the paper's own figures (`paper`) behind them,
in a table of their own. Means are over seeds, ± is the sample standard deviation over seeds; intervals in pictures are
bootstraps over users, seeds averaged within an episode first.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from mma_jax.evaluation.compare import compare_all
from mma_jax.evaluation.results import read_episodes
from mma_jax.reports import panels, paper, plots, sections, tables
from mma_jax.reports.html import write as write_file
from mma_jax.reports.load import Run, Sample, read_rows
from mma_jax.reports.picture import standalone
from mma_jax.reports.section import short
from mma_jax.reports.tables import Cell, Column, Line, Table
from mma_jax.types import OOMA, InputError

STATIC = (
    *("LightGCN", "SASRec", "BPR-MF", "MMGCN", "LRMM", "DGMRec", "GRE-MC", "MACL"),
    *("Complete-Zeros", "Complete-Mean", "Complete-NeighborMean", "Complete-Propagation"),
)
"""Recommenders that call no tool (§4.1, groups 1 to 3), of which one is "Static" in Tables 5 and 6."""

AGENTS = ("ReAct", "AgentCF", "MMA-SFT", "MMA-Pooled", "MMA-Auto", "MMA-Interactive")
"""What plays with a language model (§4.1, group 4)."""

CONTENDERS = ("MMA-Auto", "RuleRouter-Fuse", "Evidence-linear")
"""The declared family of Table 6: each against Static. The paper tests the first one alone."""

HEADROOM = {"MMA-Interactive": "MMA-Auto", "Router-Ask": "RuleRouter-Fuse"}
"""Who may ask the user, and who is the same without that (Figure 2a)."""

ROUTER = "RuleRouter-Fuse"
VALID = "valid_ndcg@10"
"""The metric, where results have it, that Static is chosen by: mean NDCG@10 on validation, fused with its own α."""

FIRST_CHOICE, LAST_CHOICE = "DGMRec", "First-stage"
"""Static where results tell nothing of validation: the paper's own, or what the pool is ranked by already."""


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a table is made from."""

    run: Run
    methods: tuple[str, ...]  # that it shows, in its order
    static: str = ""  # the pipeline called Static; "" chooses one, see `static_of`
    agents: str = ""  # the agents' base model and its size, to be printed beside their figures
    resamples: int = 1000
    seed: int = 0

    def rows(self, *protocols: str) -> list[dict]:
        """Result rows of our methods in order; who asks the user is looked up under "interactive" alone.

        Raises InputError if there are none.
        """
        found = [
            row
            for row in self.run.rows
            if row["method"] in self.methods
            and row["protocol"] in protocols
            and (len(protocols) == 1 or (row["protocol"] == "interactive") == (row["method"] in HEADROOM))
        ]
        if not found:
            raise InputError(
                f"{self.run.directory} holds no results of {', '.join(self.methods)} in {' or '.join(protocols)}"
            )
        return sorted(found, key=lambda row: self.methods.index(row["method"]))


@dataclasses.dataclass(frozen=True)
class Static:
    """The strongest non-agent baseline, and how it was found out."""

    name: str
    why: str


def static_of(asked: Asked, protocol: str) -> Static:
    """Which method is Static: named by the user, or the best on validation, or by default.

    Never by a test figure: the best of many on the test set would be a moving, and too high, bar.

    Raises:
        InputError: the one named has no results.
    """
    rows = _all_rows(asked, protocol)
    played = {row["method"] for row in rows}
    if asked.static:
        if asked.static not in played:
            raise InputError(
                f"--static={asked.static}: no results in {protocol}; there are {', '.join(sorted(played))}"
            )
        return Static(asked.static, "named by --static.")
    valid = {name: _seeds(rows, name, VALID) for name in STATIC}
    valid = {name: statistics.fmean(seeds) for name, seeds in valid.items() if seeds}
    if valid:
        best = max(valid, key=valid.__getitem__)
        return Static(best, f"the best of {len(valid)} on validation data (NDCG@10 {valid[best]:.4f}).")
    name = FIRST_CHOICE if FIRST_CHOICE in played else LAST_CHOICE
    if name not in played:
        raise InputError(f"no method to compare with in {protocol}: {LAST_CHOICE} and all baselines were left out")
    return Static(name, f"by default, since the results hold no {VALID}; --static names another.")


def _all_rows(asked: Asked, protocol: str) -> list[dict]:
    """Of methods that the table does not show, too: Static may be one."""
    return [row for row in asked.run.rows if row["protocol"] == protocol]


def _seeds(rows: Iterable[dict], method: str, metric: str, subset: str = "all") -> list[float]:
    """The values of one cell, one a seed; where a seed's is there twice, the later stands."""
    wanted = (method, metric, subset)
    found = {row["seed"]: row["value"] for row in rows if (row["method"], row["metric"], row["subset"]) == wanted}
    return [value for value in found.values() if value is not None]


def _mean(rows: Iterable[dict], method: str, metric: str = "ndcg@10") -> float | None:
    seeds = _seeds(rows, method, metric)
    return statistics.fmean(seeds) if seeds else None


def _with_column(table: Table, header: str, cell: Callable[[str], str]) -> Table:
    """A further column of words: what `cell` says of a line's method."""
    lines = tuple(dataclasses.replace(line, cells=(*line.cells, Cell(cell(line.labels[1])))) for line in table.lines)
    return dataclasses.replace(table, headers=(*table.headers, header), lines=lines)


def _with_notes(table: Table, *notes: str) -> Table:
    return dataclasses.replace(table, notes=(*table.notes, *filter(None, notes)))


def _families(rows: Sequence[dict]) -> list[str]:
    return [family for family in OOMA if any(row["subset"] == family for row in rows)]


def _absent(rows: Sequence[dict]) -> str:
    """Says which of the three surviving modalities this data cannot realise."""
    missing = [tables.family_name(family).lower() for family in OOMA if family not in _families(rows)]
    return f"This data cannot realise {' and '.join(missing)}; the average is over the rest." if missing else ""


# --- the tables -------------------------------------------------------------------------------------


def _statistics(asked: Asked) -> list[Table | str]:
    found = {label.lower(): value for label, value in asked.run.statistics.get("rows", [])}
    wanted = {
        "Dataset": "dataset",
        "#Users": "#users",
        "#Items": "#items",
        "#Inter.": "#inter.",
        "Sparsity": "sparsity",
    }
    first = tables.plain_table("Ours: dataset statistics", tuple(wanted), [[found[key] for key in wanted.values()]], 1)
    failed = [check["check"] for check in asked.run.audit if not check["pass"]]
    verdict = f"fails {', '.join(failed)}" if failed else f"passes all {len(asked.run.audit)} checks"
    return [
        _with_notes(first, f"The audit of this benchmark {verdict}." if asked.run.audit else ""),
        *sections.data_section(asked.run).parts,
    ]


def _average(asked: Asked) -> list[Table | str]:
    rows = asked.rows("ooma")
    static = static_of(asked, "ooma")
    base = _mean(_all_rows(asked, "ooma"), static.name)
    table = tables.tabulate(rows, "Ours: OOMA NDCG@10", [Column("NDCG@10", "ndcg@10", "all")])
    table = _with_column(table, "Rel. gain", lambda name: _gain(_mean(rows, name), base))
    note = f"Relative gain over {static.name}: {static.why}"
    return [_with_notes(table, note, _absent(rows)), _bars(asked, "ooma", [], static.name)]


def _gain(value: float | None, base: float | None) -> str:
    return "" if value is None or not base else f"{value / base - 1:+.1%}"


def _by_family(asked: Asked) -> list[Table | str]:
    rows = asked.rows("ooma")
    columns = [*(Column(tables.family_name(family), "ndcg@10", family) for family in OOMA)]
    table = tables.tabulate(rows, "Ours: OOMA NDCG@10", [*columns, Column("Avg. OOMA", "ndcg@10", "all")])
    return [_with_notes(table, _absent(rows)), _bars(asked, "ooma", OOMA, static_of(asked, "ooma").name)]


def _full_catalog(asked: Asked) -> list[Table | str]:
    rows, static = asked.rows("full_catalog"), static_of(asked, "full_catalog")
    recall = next(row["metric"] for row in rows if row["metric"].startswith("recall@"))
    headers = {recall: recall.capitalize(), "hr@10": "HR@10", "ndcg@10": "NDCG@10"}
    table = tables.tabulate(
        rows,
        "Ours: fixed pool of the full catalog",
        [Column(header, metric, "all") for metric, header in headers.items()],
    )
    table = _with_column(
        table, "Rel. gain", lambda name: _gain(_mean(rows, name), _mean(_all_rows(asked, "full_catalog"), static.name))
    )
    found = {round(row["value"], 12) for row in rows if (row["metric"], row["subset"]) == (recall, "all")}
    if len(found) > 1:
        raise InputError(
            f"{asked.run.directory}: {recall} differs between methods ({min(found)} to {max(found)}), so their pools "
            "do: the results are not of one benchmark; begin another --workdir"
        )
    same = f"{recall.capitalize()} is that of the pool, identical for all {len(table.lines)} methods: checked."
    return [_with_notes(table, f"Static is {static.name}: {static.why}", same, _absent(rows))]


def _significance(asked: Asked) -> list[Table | str]:
    static = static_of(asked, "ooma")
    sides = {static.name, *(name for name in CONTENDERS if name in asked.methods)}
    episodes = (
        row for row in read_episodes(asked.run.directory) if row["protocol"] == "ooma" and row["method"] in sides
    )
    lines = compare_all(episodes, static.name, asked.resamples)
    if not lines:
        raise InputError(f"nothing to test: of {', '.join(CONTENDERS)} none but {static.name} was played")
    lines.sort(key=lambda line: (("all", *OOMA).index(line["subset"]), CONTENDERS.index(line["a"])))
    table = sections.comparison_table("Ours: paired tests of OOMA NDCG@10", lines)
    return [
        _with_notes(
            table,
            f"Against {static.name}: {static.why}",
            "Wilcoxon signed-rank tests paired by episode, seeds averaged first, episodes without a difference left "
            f"out; intervals by bootstrap of users, {asked.resamples:,} resamples. Holm’s family: the contenders on "
            "the same episodes.",
        )
    ]


def _router(asked: Asked) -> list[Table | str]:
    rows, static = asked.rows("ooma"), static_of(asked, "ooma")
    compared = [row for row in _all_rows(asked, "ooma") if row["method"] == static.name]
    shown = [*compared, *(row for row in rows if row["method"] not in (static.name, *STATIC))]
    base = _mean(rows, ROUTER)
    columns = [Column(tables.metric_of(name).header, name, "all") for name in ("ndcg@10", "failed_call_rate", "turns")]
    table = tables.tabulate(shown, "Ours: deterministic-router control, OOMA", columns)

    def difference(name: str) -> str:
        value = _mean(shown, name)
        return "" if None in (value, base) or name == ROUTER else f"{value - base:+.4f}"

    table = _with_column(table, f"Δ NDCG@10 to {ROUTER}", difference)
    return [_with_notes(table, f"{static.name} is the static baseline: {static.why}", _absent(rows))]


def _cost(asked: Asked) -> list[Table | str]:
    found = {row["method"]: row for row in read_rows(asked.run.directory / "cost.jsonl")}
    lines = [_cost_line(found[name]) for name in asked.methods if name in found]
    if not lines:
        raise InputError(f"{asked.run.directory}: cost.jsonl tells nothing of {', '.join(asked.methods)}")
    headers = ("Seconds", "Program memory", "Process peak", "FLOPs", "Forward passes", "Turns")
    table = tables.plain_table("Ours: cost of a query, played alone", ("Dataset", "Method", *headers), lines, 2)
    devices = ", ".join(dict.fromkeys(found[name]["device"] for name in asked.methods if name in found))
    note = (
        f"Measured on {devices}. Seconds: median over queries of building the prompt, playing and scoring, one query "
        "at a time, everything compiled. Program memory: of the largest device program, weights and cache included, by "
        "the compiler’s account. Process peak: resident memory while playing, data and compiler included. FLOPs: the "
        "compiler’s cost analysis of every device program that a query runs, times how often it runs; what runs on the "
        "host is not counted. Forward passes: runs of the model, one for each token that is sampled; the paper’s 3.9 "
        "are turns."
    )
    looped = any(found[name]["loops"] for name in asked.methods if name in found)
    more = "≥: a program has a loop, of which the analysis counts one round." if looped else ""
    return [_with_notes(table, note, more), _settings(asked)]


def _cost_line(row: dict) -> list[str]:
    flops = f"{'≥ ' if row['loops'] else ''}{row['flops']:.2e}" if row["flops"] else "–"
    program = f"{row['program_bytes'] / 2**20:,.1f} MiB" if row["program_bytes"] else "–"
    passes = f"{row['passes']:.1f}" if row["passes"] else "–"
    process = f"{row['process_bytes'] / 2**20:,.0f} MiB"
    turns = f"{row['turns']:.2f}" if row["turns"] else "–"
    return [row["dataset"], row["method"], f"{row['seconds']:.3g}", program, process, flops, passes, turns]


def _settings(asked: Asked) -> Table:
    """Table 8's first half, as DIR/config.json has it."""
    config = asked.run.config
    model, ppo, env, sft = (config[part] for part in ("model", "ppo", "env", "sft"))
    batch = f"{ppo['prompts']} episodes x {ppo['samples']}"
    context = f"T = {env['turns']}; {env['context']:,}-token context"
    lines = [
        ["Episode", f"{context}; train temperature {ppo['temperature']:g}, eval temperature 0"],
        [
            "Pool",
            f"{config['pool']['kind']}, B = {config['pool']['size']}, negatives: {config['pool']['negatives']}",
        ],
        ["Reranking", "fusion weight selected on validation episodes"],
    ]
    if asked.agents:
        lines = [
            ["Base LLM", f"{asked.agents} parameters, {'int8, ' if model['int8'] else ''}{model['dtype']}"],
            ["Trainable", f"LoRA on {model['lora_targets']}, r = {model['lora_rank']}, α = {model['lora_alpha']:g}"],
            ["SFT", f"{sft['steps']} steps of {sft['batch']}, lr {sft['lr']:g}, scores from {sft['scores']}"],
            [
                "PPO",
                f"lr {ppo['lr']:g}, {batch}, clip {ppo['clip']:g}, λ = {ppo['lam']:g}, {ppo['iterations']} iterations",
            ],
            *lines,
        ]
    return tables.plain_table("Ours: settings", ("Item", "Value"), lines, 1)


def _routing(asked: Asked) -> list[Table | str]:
    rows = [row for row in asked.rows("ooma") if row["subset"] in OOMA]
    names = ("recovery", "failed_call_rate", "tts", "first_action_rate")
    columns = [Column(tables.metric_of(name).header, name) for name in names]
    table = tables.tabulate(rows, "Ours: routing by surviving modality, OOMA", columns, by_subset=True)
    return [_with_notes(table, sections.ROUTING_NOTE.partition(" Return:")[0], _absent(rows))]


def _headroom(asked: Asked) -> list[Table | str]:
    rows = asked.rows("ooma", "interactive")
    columns = [Column(tables.family_name(family), "ndcg@10", family) for family in OOMA]
    columns.append(Column("Avg. OOMA", "ndcg@10", "all"))
    table = tables.tabulate(rows, "Ours: what Ask_User adds, OOMA NDCG@10", columns)
    table = _with_column(
        table,
        "Headroom",
        lambda name: _gain(_mean(rows, name), _mean(rows, HEADROOM[name])) if name in HEADROOM else "",
    )
    note = "Headroom: over the same method without Ask_User (" + ", ".join(f"{a}: {b}" for a, b in HEADROOM.items())
    return [
        _with_notes(table, f"{note}). An upper bound, no deployment claim.", _absent(rows)),
        _asking_bars(asked, OOMA),
    ]


def _ablation(asked: Asked) -> list[Table | str]:
    rows = asked.rows("ooma", "interactive")
    columns = [Column(tables.family_name(family), "ndcg@10", family) for family in OOMA]
    table = tables.tabulate(rows, "Ours: ablation, OOMA NDCG@10", [*columns, Column("Avg. OOMA", "ndcg@10", "all")])
    return [_with_notes(table, _absent(rows)), _asking_bars(asked, [])]


# --- pictures ---------------------------------------------------------------------------------------


def _bars(asked: Asked, protocol: str, families: Sequence[str], reference: str) -> str:
    return _draw(asked, dict.fromkeys(asked.methods, protocol), families, reference, short(protocol))


def _asking_bars(asked: Asked, families: Sequence[str]) -> str:
    protocols = {name: "interactive" if name in HEADROOM else "ooma" for name in asked.methods}
    return _draw(asked, protocols, families, "MMA-Auto", "OOMA")


def _draw(asked: Asked, protocols: dict[str, str], families: Sequence[str], reference: str, title: str) -> str:
    """Bars of NDCG@10 with 95% intervals: a panel for all episodes, and one for each of the families."""
    drawn: dict[str, list[plots.Interval]] = {}
    for family in ("", *families):
        for method, protocol in protocols.items():
            sample = _sample(asked.run, protocol, method, [family] if family else list(OOMA))
            if sample is not None:
                values, name = sample.values["ndcg@10"], _named(asked, method)
                role = tables.ROLES.get(method, "")
                entry = plots.interval(name, role, values, sample.users, asked.resamples, asked.seed)
                drawn.setdefault(tables.family_name(family) if family else "All OOMA episodes", []).append(entry)
    dataset = ", ".join(asked.run.unique("dataset"))
    roles = {tables.ROLES.get(name, "") for name in protocols}
    marks = {"hollow: controls": "control" in roles, "brown: bounds": "bound" in roles}
    marks[f"dashed: {reference}"] = reference in protocols
    told = "; ".join(["mean and 95% interval (bootstrap of users)", *(mark for mark, there in marks.items() if there)])
    axis = f"NDCG@10, {told}"
    return panels.bar_panels(drawn, f"{dataset}, {title}: NDCG@10", axis, _named(asked, reference))


def _sample(run: Run, protocol: str, method: str, families: Sequence[str]) -> Sample | None:
    """Episodes of some families together; None if the method played none of them."""
    found = [
        sample
        for (_, its_protocol, family, name), sample in run.samples.items()
        if (its_protocol, name) == (protocol, method) and family in families
    ]
    if not found:
        return None
    values = np.concatenate([sample.values["ndcg@10"] for sample in found])
    return Sample(np.concatenate([sample.users for sample in found]), {"ndcg@10": values})


# --- files ------------------------------------------------------------------------------------------


def _named(asked: Asked, method: str) -> str:
    """An agent's name has its base model beside it, since its figures are that model's."""
    return f"{method}, {asked.agents}" if asked.agents and method in AGENTS else method


def _label(asked: Asked, table: Table) -> Table:
    lines = tuple(
        Line(tuple(_named(asked, label) for label in line.labels), line.cells, line.role) for line in table.lines
    )
    return dataclasses.replace(table, lines=lines)


BUILDERS: dict[str, Callable[[Asked], list[Table | str]]] = {
    "table2": _statistics,
    "table3": _average,
    "table4": _by_family,
    "table5": _full_catalog,
    "table6": _significance,
    "table7": _router,
    "table8": _cost,
    "table9": _routing,
    "figure2a": _headroom,
    "figure2b": _ablation,
}
"""Our tables, and pictures as `plots.svg` makes them, by the paper's number."""


def write(asked: Asked, name: str, title: str, command: str) -> list[Path]:
    """Write DIR/tables/NAME.md and .tex, and NAME.svg where there is a picture; their paths.

    Args:
        asked: what from.
        name: a key of BUILDERS.
        title: of the page, behind the paper's number.
        command: that the page says it was made by.

    Raises:
        InputError: the results do not hold what the table shows.
    """
    parts = BUILDERS[name](asked)
    ours = [_label(asked, part) for part in parts if isinstance(part, Table)]
    pictures = [part for part in parts if isinstance(part, str)]
    theirs, folder = paper.table(name), asked.run.directory / "tables"
    folder.mkdir(exist_ok=True)
    number = theirs.caption.removeprefix("The paper’s ").partition(":")[0]
    text = [f"# {number}: {title}", f"`{command}`", *map(tables.to_markdown, ours)]
    written = [folder / f"{name}.md", folder / f"{name}.tex"]
    if pictures:
        written.append(folder / f"{name}.svg")
        write_file(written[-1], standalone(pictures[0]))
        text.append(f"![{number}: {title}]({name}.svg)")
    text += ["## What the paper reports", tables.to_markdown(theirs)]
    write_file(written[0], "\n\n".join(part.strip() for part in text) + "\n")
    write_file(written[1], "% needs \\usepackage{booktabs}\n" + "\n".join(map(tables.to_latex, [*ours, theirs])))
    return written
