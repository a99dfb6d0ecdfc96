"""Result rows -> tables, and tables -> Markdown, LaTeX (booktabs) and HTML.

A table keeps the order in which methods first appear in the rows. A cell is the mean over seeds, with
the sample standard deviation where several seeds ran. What was not measured stays empty: no cell is
ever filled from, or averaged over, others.
"""

from __future__ import annotations

import dataclasses
import html
import itertools
import re
import statistics
from collections.abc import Iterable, Sequence

ROLES = {
    "Reverse-rank": "control",
    "Rank-only": "control",
    "Popularity": "control",
    "Reverse-popularity": "control",
    "RuleRouter-Fuse": "control",
    "Router-StopAtFirst": "control",
    "RuleRouter-Peek": "control",
    "Exploit-ScoreAtOnce": "exploit",
    "Exploit-Reverse": "exploit",
    "Exploit-Invalid": "exploit",
    "Exploit-RepeatNull": "exploit",
    "Bayes": "bound",
    "Optimal-router": "bound",
    "MMA-Interactive": "bound",
    "Router-Ask": "bound",
}
"""Methods that are no contestants: a control explains a result away, an exploit games the reward, a bound
shows the headroom. A control that wins is printed as the best, since that is what it is there to reveal;
a bound never is."""


@dataclasses.dataclass(frozen=True)
class Metric:
    """How one metric is headed, printed and compared."""

    header: str
    form: str = "{:.4f}"
    factor: float = 1.0
    ranked: bool = False  # the highest is the best


METRICS = {
    "ndcg@10": Metric("NDCG@10", ranked=True),
    "expected_ndcg@10": Metric("Expected NDCG@10", ranked=True),
    "ndcg@20": Metric("NDCG@20", ranked=True),
    "hr@10": Metric("HR@10", ranked=True),
    "hr@20": Metric("HR@20", ranked=True),
    "mrr": Metric("MRR", ranked=True),
    "alpha": Metric("α", "{:.2f}"),
    "valid_ndcg@10": Metric("NDCG@10 on validation"),
    "failed_call_rate": Metric("Failed calls", "{:.1f}%", 100),
    "recovery": Metric("Recovery", "{:.1f}%", 100),
    "tts": Metric("TTS", "{:.2f}"),
    "turns": Metric("Turns", "{:.2f}"),
    "turns_to_first_evidence": Metric("First evidence", "{:.2f}"),
    "first_action_rate": Metric("First action", "{:.1f}%", 100),
    "invalid": Metric("Invalid turns", "{:.2f}"),
    "return": Metric("Return", "{:+.3f}"),
    "seconds_per_episode": Metric("s / episode", "{:.3g}"),
}


def metric_of(name: str) -> Metric:
    """The entry of METRICS, or an unranked one for a name that is not there: stop_REASON is a share of
    episodes, invalid_KIND a count per episode, anything else a score."""
    if name in METRICS:
        return METRICS[name]
    if name.startswith("recall@"):
        return Metric(name.capitalize())
    kind, _, rest = name.partition("_")
    words = rest.replace("_", " ").capitalize()
    if kind == "stop":
        return Metric(words, "{:.1f}%", 100)
    return Metric(words, "{:.2f}") if kind == "invalid" else Metric(name)


@dataclasses.dataclass(frozen=True)
class Column:
    """Which rows a column shows: a metric on one subset, or on the line's own subset (None)."""

    header: str
    metric: str
    subset: str | None = None


@dataclasses.dataclass(frozen=True)
class Cell:
    """What is printed; "" where nothing was measured."""

    text: str = ""
    spread: str = ""  # standard deviation over seeds, "" if one seed ran
    best: bool = False
    kind: str = "figure"  # CSS class: "figure" | "words" | "pass" | "fail"


@dataclasses.dataclass(frozen=True)
class Line:
    labels: tuple[str, ...]
    cells: tuple[Cell, ...]
    role: str = ""  # "control" | "exploit" | "bound" | "": printed after the last of the labels that names a method


@dataclasses.dataclass(frozen=True)
class Table:
    caption: str
    labels: tuple[str, ...]  # headers of the label columns
    headers: tuple[str, ...]  # headers of the cells
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()
    folded: bool = False  # closed on the page until asked for


def family_name(subset: str) -> str:
    """The printed form: text_only is "Text-only", all/recalled is "Recalled"."""
    return subset.removeprefix("all/").replace("_", "-").replace("/", ", ").capitalize()


def tabulate(rows: Sequence[dict], caption: str, columns: Sequence[Column], by_subset: bool = False) -> Table:
    """Dataset x method lines (x subset if `by_subset`) over `columns`, from rows of one protocol.

    Where a seed's value is there twice, the later row stands. A null value is no value.
    """
    names = ("dataset", "method", "subset")
    values: dict[tuple[str, str, str, str], dict[object, float]] = {}
    for row in rows:
        if row["value"] is not None:
            key = (row["dataset"], row["method"], row["subset"], row["metric"])
            values.setdefault(key, {})[row["seed"]] = row["value"]

    orders = [{value: rank for rank, value in enumerate(dict.fromkeys(row[name] for row in rows))} for name in names]
    keys = {tuple(row[name] for name in names[: 3 if by_subset else 2]) for row in rows}
    table: dict[tuple, list[list[float]]] = {}
    for key in sorted(keys, key=lambda key: [order[part] for order, part in zip(orders, key, strict=False)]):
        found = [list(values.get((*key[:2], c.subset or key[-1], c.metric), {}).values()) for c in columns]
        if any(found):
            table[key] = found
    best = {
        (dataset, index): _best([key for key in table if key[0] == dataset], table, index, column.metric)
        for dataset in orders[0]
        for index, column in enumerate(columns)
        if not by_subset
    }
    lines = tuple(
        Line(
            (*key[:2], *map(family_name, key[2:])),
            tuple(_cell(found[i], columns[i].metric, key in best.get((key[0], i), ())) for i in range(len(columns))),
            ROLES.get(key[1], ""),
        )
        for key, found in table.items()
    )
    labels = ("Dataset", "Method", "Family")[: 3 if by_subset else 2]
    notes = (_seed_note(table), *_episode_notes(rows, columns))
    return Table(caption, labels, tuple(column.header for column in columns), lines, tuple(filter(None, notes)))


def _print(value: float, metric: Metric) -> str:
    return metric.form.format(metric.factor * value)


def _cell(seeds: list[float], name: str, best: bool) -> Cell:
    if not seeds:
        return Cell()
    metric = metric_of(name)
    spread = _print(statistics.stdev(seeds), metric).lstrip("+") if len(seeds) > 1 else ""
    return Cell(_print(statistics.fmean(seeds), metric), spread, best)


def _best(keys: list[tuple], table: dict, index: int, name: str) -> set[tuple]:
    """The contestants whose printed mean equals the best one; nobody where all are equal."""
    metric = metric_of(name)
    means = {key: statistics.fmean(table[key][index]) for key in keys if table[key][index]}
    means = {key: mean for key, mean in means.items() if ROLES.get(key[1]) != "bound"}
    if not means or not metric.ranked:
        return set()
    top = _print(max(means.values()), metric)
    best = {key for key, mean in means.items() if _print(mean, metric) == top}
    return best if len(best) < len(means) else set()


def _seed_note(table: dict[tuple, list[list[float]]]) -> str:
    counts = {len(seeds) for found in table.values() for seeds in found if seeds}
    if not counts:
        return ""
    if counts == {1}:
        return "One seed ran, so no spread over seeds can be given."
    several = f"Mean ± standard deviation over {' or '.join(map(str, sorted(counts - {1})))} seeds"
    return f"{several}; cells without ± ran with one seed." if 1 in counts else f"{several}."


def _episode_notes(rows: Sequence[dict], columns: Sequence[Column]) -> Iterable[str]:
    """How many episodes stand behind the columns, a sentence per dataset."""
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        parts = []
        for subset in dict.fromkeys(column.subset for column in columns if column.subset):
            counts = {row["n"] for row in rows if row["dataset"] == dataset and row["subset"] == subset}
            if counts:
                ends = f"{min(counts):,}" + (f"–{max(counts):,}" if len(counts) > 1 else "")
                parts.append(f"{family_name(subset).lower()} {ends}")
        if parts:
            yield f"Episodes, {dataset}: {'; '.join(parts)}."


def plain_table(caption: str, headers: Sequence[str], lines: Iterable[Sequence[str | Cell]], n_labels: int) -> Table:
    """A table of words and figures that were formatted already; the first `n_labels` columns are labels."""
    lines = [[cell if isinstance(cell, Cell) else Cell(cell) for cell in line] for line in lines]
    return Table(
        caption,
        tuple(headers[:n_labels]),
        tuple(headers[n_labels:]),
        tuple(Line(tuple(c.text for c in line[:n_labels]), tuple(line[n_labels:])) for line in lines),
    )


# --- Markdown ---------------------------------------------------------------------------------------


def escape_markdown(text: str) -> str:
    """Foreign text as inert Markdown inside a table cell: one line, no markup, no HTML."""
    text = re.sub(r"([\\`*_{}\[\]|~#])", r"\\\1", " ".join(text.split()))
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def to_markdown(table: Table) -> str:
    """A GitHub-flavored table under its caption, notes beneath it."""

    def cell(cell: Cell) -> str:
        text = escape_markdown(cell.text)
        text = f"**{text}**" if cell.best and text else text
        return f"{text} ± {cell.spread}" if cell.spread else text

    rows = [[*map(escape_markdown, _labels(line)), *map(cell, line.cells)] for line in table.lines]
    header = [*map(escape_markdown, table.labels), *map(escape_markdown, table.headers)]
    rule = ["---"] * len(table.labels) + ["---:"] * len(table.headers)
    body = "\n".join(f"| {' | '.join(row)} |" for row in [header, rule, *rows])
    notes = "".join(f"\n{escape_markdown(note)}\n" for note in table.notes)
    return f"**{escape_markdown(table.caption)}**\n\n{body}\n{notes}"


def _labels(line: Line) -> tuple[str, ...]:
    if not line.role:
        return line.labels
    return (line.labels[0], f"{line.labels[1]} ({line.role})", *line.labels[2:])


# --- LaTeX ------------------------------------------------------------------------------------------

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{character: "\\" + character for character in "&%$#_{}"},
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "α": r"$\alpha$",
    "λ": r"$\lambda$",
    "δ": r"$\delta$",
    "Δ": r"$\Delta$",
    "−": "$-$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "–": "--",
    "†": r"$\dagger$",
}


def escape_latex(text: str) -> str:
    """Foreign text as inert LaTeX, the symbols of our own headers in math mode."""
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))


def to_latex(table: Table) -> str:
    """A `table` environment with booktabs rules, one \\midrule between datasets."""

    def cell(cell: Cell) -> str:
        text = escape_latex(cell.text)
        text = rf"\textbf{{{text}}}" if cell.best and text else text
        return rf"{text} $\pm$ {escape_latex(cell.spread)}" if cell.spread else text

    groups = [
        "\n".join(" & ".join([*map(escape_latex, _labels(line)), *map(cell, line.cells)]) + r" \\" for line in group)
        for _, group in itertools.groupby(table.lines, key=lambda line: line.labels[:1])
    ]
    notes = "".join(f"\n\\par\\footnotesize {escape_latex(note)}" for note in table.notes)
    separator = "\n\\midrule\n" if len(groups) < len(table.lines) else "\n"
    return "\n".join(
        [
            r"\begin{table}[t]",
            r"\centering",
            rf"\caption{{{escape_latex(table.caption)}}}",
            rf"\begin{{tabular}}{{{'l' * len(table.labels)}{'r' * len(table.headers)}}}",
            r"\toprule",
            " & ".join(map(escape_latex, [*table.labels, *table.headers])) + r" \\",
            r"\midrule",
            separator.join(groups),
            r"\bottomrule",
            rf"\end{{tabular}}{notes}",
            r"\end{table}",
            "",
        ]
    )


# --- HTML -------------------------------------------------------------------------------------------


def to_html(table: Table) -> str:
    """A captioned table in a scrollable region; lines of one dataset share a row group. "" for one without lines."""
    if not table.lines:
        return ""
    kinds = [cell.kind for cell in table.lines[0].cells]
    head = "".join(f'<th scope="col">{html.escape(h)}</th>' for h in table.labels)
    head += "".join(
        f'<th scope="col" class="{kind}">{html.escape(h)}</th>' for h, kind in zip(table.headers, kinds, strict=True)
    )
    groups = itertools.groupby(table.lines, key=lambda line: line.labels[0])
    body = "".join(f"<tbody>{_html_group(label, list(lines))}</tbody>" for label, lines in groups)
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in table.notes)
    caption = html.escape(table.caption)
    frame = (
        f'<div class="table"><div class="scroll" tabindex="0" role="region" aria-label="{caption}">'
        f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead>{body}</table></div>{notes}</div>\n"
    )
    return f"<details><summary>{caption}</summary>{frame}</details>" if table.folded else frame


def _html_group(label: str, lines: list[Line]) -> str:
    rows = []
    for index, line in enumerate(lines):
        scope = "rowgroup" if len(lines) > 1 else "row"
        first = f'<th scope="{scope}" rowspan="{len(lines)}">{html.escape(label)}</th>' if index == 0 else ""
        others = "".join(
            f'<th scope="row">{html.escape(text)}{_role_mark(line.role) if place == 0 else ""}</th>'
            for place, text in enumerate(line.labels[1:])
        )
        kind = f' class="{line.role}"' if line.role else ""
        rows.append(f"<tr{kind}>{first}{others}{''.join(map(_html_cell, line.cells))}</tr>")
    return "".join(rows)


def _role_mark(role: str) -> str:
    return f' <span class="role">{role}</span>' if role else ""


def _html_cell(cell: Cell) -> str:
    text = html.escape(cell.text)
    text = f"<strong>{text}</strong>" if cell.best and text else text
    spread = f' <span class="spread">± {html.escape(cell.spread)}</span>' if cell.spread else ""
    return f'<td class="{cell.kind}">{text}{spread}</td>'
