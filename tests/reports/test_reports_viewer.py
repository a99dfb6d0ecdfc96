"""The viewer's script run by node on a document that can do just what it needs; skipped where there is no node."""

import json
import shutil
import subprocess
from importlib import resources

import pytest
from reports_fixture import HOSTILE, write_run

from mma_jax.reports.load import load_run

DOCUMENT = """
class Node {
  constructor(tag) { Object.assign(this, { tag, attributes: {}, children: [], listeners: {}, scrollTop: 0 }); }
  setAttribute(name, value) { this.attributes[name] = String(value); }
  addEventListener(event, handler) { this.listeners[event] = handler; }
  append(child) { this.children.push(child); }
  replaceChildren(...children) { this.children = children.flat(); }
  all() { return this.children.flatMap((c) => (c instanceof Node ? [c, ...c.all()] : [])); }
  matches(selector) {
    const classes = (this.attributes.class || "").split(" ");
    return selector.split(/, */).some((s) => s.split(".").slice(1).every((c) => classes.includes(c))
      && ("[.".includes(s[0]) || s.split(".")[0] === this.tag)
      && (s !== "[tabindex]" || "tabindex" in this.attributes));
  }
  querySelector(selector) { return this.all().find((n) => n.matches(selector)) || null; }
  querySelectorAll(selector) { return this.all().filter((n) => n.matches(selector)); }
  contains(node) { return this === node || this.all().includes(node); }
  focus() {}
  get text() { return this.children.map((c) => (c instanceof Node ? c.text : c)).join("\\n"); }
}
const root = new Node("div"), data = { textContent: DATA }, asked = [];
globalThis.document = {
  getElementById: (id) => (id === "viewer" ? root : id === "traces" ? data : { scrollIntoView() {} }),
  createElement: (tag) => new Node(tag), addEventListener() {}, activeElement: null, body: new Node("body"),
};
globalThis.window = { addEventListener() {} };
globalThis.history = { replaceState() {} };
globalThis.location = { hash: "HASH" };
"""


@pytest.fixture(scope="module")
def traces(tmp_path_factory):
    return load_run(write_run(tmp_path_factory.mktemp("run"), episodes=3), 10_000).traces.shown


def shown(traces, number, turn):
    """The text of the page at one step, and the viewer's root as [tag, class] of every element."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    head = DOCUMENT.replace("DATA", json.dumps(json.dumps(traces))).replace("HASH", f"#trace={number}&turn={turn}")
    script = resources.files("mma_jax.reports").joinpath("viewer.js").read_text(encoding="utf-8")
    tail = "\nconsole.log(JSON.stringify([root.text, root.all().map((n) => [n.tag, n.attributes.class || ''])]));"
    done = subprocess.run(["node", "-"], input=head + script + tail, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def index(traces, method):
    return next(n for n, trace in enumerate(traces) if trace["method"] == method and trace["turns"])


def test_a_turn_shows_what_the_value_head_expected(traces):
    text, _ = shown(traces, index(traces, "MMA-Auto"), 1)
    assert "expected before it +0.123" in text
    text, _ = shown(traces, index(traces, "RuleRouter-Fuse"), 1)
    assert "expected before" not in text and "reward −0.020" in text


def test_a_counterfactual_stands_under_its_turn(traces):
    number = index(traces, "MMA-Auto")
    trace = traces[number]
    for turn in (1, 2):
        text, nodes = shown(traces, number, turn)
        entry = trace["counterfactuals"][turn - 1]
        told = "another user’s answer had come back? (ooma-else)" if entry["change"] == "swap" else "had survived?"
        assert told in text
        assert f"instead {HOSTILE}" in text
        for figure in ("0.3333", "1.0000", "+0.073", "+0.960", "3, 1", "1, 3"):
            assert figure in text
        assert sum("whatif" in kind for _, kind in nodes) == 1
        assert not {tag for tag, _ in nodes} & {"img", "script"}
    text, nodes = shown(traces, number, 3)
    assert "What if" not in text
    assert text.count(" what if") == 2  # the timeline says where to look


def test_methods_without_turns_are_drawn(traces):
    number = next(n for n, trace in enumerate(traces) if not trace["turns"])
    assert "takes no turns" in shown(traces, number, 0)[0]


def test_scores_that_are_no_whole_numbers_keep_two_digits(traces):
    number = index(traces, "MMA-Auto")
    changed = {**traces[number], "scores": {"1": 5.248, "2": 7.0}}
    text, _ = shown([*traces[:number], changed, *traces[number + 1 :]], number, 1)
    assert "5.25" in text.split("\n") and "7" in text.split("\n") and "7.00" not in text
