"""DIR/report/index.html: everything a run found, in one page that opens offline.

The page makes no request of any kind (its content security policy forbids them), runs one script, whose
hash the policy names, and shows foreign text (titles, model output, names) only escaped or as text nodes.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import html
import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from mma_jax.reports import tables
from mma_jax.reports.load import Run, load_run
from mma_jax.reports.section import Section
from mma_jax.reports.sections import all_sections
from mma_jax.reports.tables import Table


def write_report(
    directory: str | Path, *, command: str = "", max_traces: int = 200, n_resamples: int = 1000, seed: int = 0
) -> Path:
    """Write DIR/report/{index.html,tables.md,tables.tex} from the result files in DIR; the path of the page.

    Args:
      directory: a run's workdir (results.jsonl, per_episode.jsonl, traces.jsonl, comparisons.jsonl, audit.json,
        statistics.json, config.json, each of which may be missing).
      command: the command line to print in the header.
      max_traces: episodes embedded in the viewer, spread over methods and families.
      n_resamples, seed: of the bootstrap behind the intervals.

    Raises InputError if the folder does not exist or a file in it is damaged.
    """
    run = load_run(directory, max_traces)
    sections = all_sections(run, n_resamples, seed)
    folder = run.directory / "report"
    folder.mkdir(exist_ok=True)
    found = [part for section in sections for part in section.parts if isinstance(part, Table) and part.lines]
    write(folder / "tables.md", "\n".join(map(tables.to_markdown, found)))
    write(folder / "tables.tex", "% needs \\usepackage{booktabs}\n" + "\n".join(map(tables.to_latex, found)))
    write(folder / "index.html", _page(run, sections, command))
    return folder / "index.html"


def write(path: Path, text: str) -> None:
    """Whole or not at all. Lone surrogates, which JSON can carry and UTF-8 cannot, become question marks."""
    temporary = path.with_name(path.name + ".part")
    temporary.write_bytes(text.encode("utf-8", "replace"))
    os.replace(temporary, path)


# --- the page ---------------------------------------------------------------------------------------


def _page(run: Run, sections: Sequence[Section], command: str) -> str:
    script = _asset("viewer.js") if run.traces.shown else ""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'"
    title = "Missing-modality reranking: " + (", ".join(run.unique("dataset")) or "no results yet")
    links = "".join(f'<li><a href="#{section.slug}">{html.escape(section.title)}</a></li>' for section in sections)
    shown_command = f'<pre class="command">{html.escape(command)}</pre>' if command else ""
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>\n{_asset('style.css')}</style></head>\n<body>\n"
        f"<header><h1>{html.escape(title)}</h1>"
        f'<p class="byline">Written {now} from {html.escape(str(run.directory))}</p>'
        f"{shown_command}{_facts(run)}<nav aria-label='Sections'><ul>{links}</ul></nav></header>\n<main>\n"
        f"{''.join(map(_section, sections))}</main>\n"
        f"{f'<script>{script}</script>' if script else ''}</body></html>\n"
    )


def _asset(name: str) -> str:
    return resources.files("mma_jax.reports").joinpath(name).read_text(encoding="utf-8")


def _section(section: Section) -> str:
    lead = f"<p>{html.escape(section.lead)}</p>" if section.lead and section.parts else ""
    absent = f'<p class="absent">{html.escape(section.absent)}</p>' if section.absent else ""
    parts = "".join(tables.to_html(part) if isinstance(part, Table) else part for part in section.parts)
    return f'<section id="{section.slug}"><h2>{html.escape(section.title)}</h2>{lead}{absent}{parts}</section>\n'


def _facts(run: Run) -> str:
    passed = sum(bool(check["pass"]) for check in run.audit)
    seeds = run.unique("seed")
    episodes = [len(sample.users) for sample in run.samples.values()]
    pairs = [
        ("Datasets", ", ".join(run.unique("dataset"))),
        ("Protocols", ", ".join(run.unique("protocol"))),
        ("Methods", str(len(run.unique("method")) or "")),
        ("Seeds", ", ".join(seeds)),
        ("Episodes per family", f"up to {max(episodes):,}" if episodes else ""),
        ("Audit", f"{passed} of {len(run.audit)} checks pass" if run.audit else "not run"),
    ]
    items = "".join(f"<div><dt>{name}</dt><dd>{html.escape(value)}</dd></div>" for name, value in pairs if value)
    return f'<dl class="facts">{items}</dl>'
