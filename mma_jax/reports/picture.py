"""A figure of the report as a file of its own: SVG that opens without the page's style sheet."""

from __future__ import annotations

import re
from importlib import resources


def standalone(figure: str) -> str:
    """An SVG document on white.

    The page's colors are CSS variables, which viewers of single pictures do not know: they are replaced by the values
    of the light theme.

    Args:
        figure: what `plots.svg` returns.
    """
    sheet = resources.files("mma_jax.reports").joinpath("style.css").read_text(encoding="utf-8")
    light = dict(re.findall(r"--([a-z]+):\s*([^;]+);", sheet.partition("@media")[0])) | {"paper": "#ffffff"}
    rules = [line for line in sheet.splitlines() if line.startswith("svg")]
    style = re.sub(r"var\(--([a-z]+)\)", lambda found: light[found[1]], "\n".join(rules))
    drawn = re.search(r"<svg (.*?)>(.*)</svg>", figure, re.DOTALL)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {drawn[1]}>\n<style>\n{style}\n</style>\n'
        f'<rect width="100%" height="100%" fill="{light["paper"]}"/>\n{drawn[2]}</svg>\n'
    )
