"""The action set: tool name -> plain typed function. A new tool is one file and one line here."""

from __future__ import annotations

from typing import Any

from mma_jax.envs.tools.analyze_image import analyze_image
from mma_jax.envs.tools.analyze_text import analyze_text
from mma_jax.envs.tools.ask_user import ask_user
from mma_jax.envs.tools.retrieve_graph import retrieve_graph
from mma_jax.envs.tools.schema import Tool, make_tool
from mma_jax.envs.tools.score_candidates import score_candidates

ASK = "Ask_User"
TERMINAL = "Score_Candidates"

TOOLS = {
    "Analyze_Text": analyze_text,
    "Analyze_Image": analyze_image,
    "Retrieve_Graph": retrieve_graph,
    ASK: ask_user,
    TERMINAL: score_candidates,
}


def toolbox(options: Any) -> dict[str, Tool]:
    """The tools an agent has under `options`: MMA-Auto lacks Ask_User (MMA §3.3)."""
    return {name: make_tool(name, f, options) for name, f in TOOLS.items() if name != ASK or options.interactive}
