// Steps through recorded episodes. Everything foreign enters the page through textContent only.
// The state lives in the address: #trace=3&turn=2 opens the fourth episode at its second turn (0 is the prompt).
(function () {
  "use strict";
  const root = document.getElementById("viewer");
  const traces = JSON.parse(document.getElementById("traces").textContent);
  const severalSeeds = new Set(traces.map((trace) => trace.seed)).size > 1;
  const KEYS = [
    ["Task", (t) => t.dataset + " · " + t.protocol],
    ["Method", (t) => t.method],
    ["Family", (t) => t.family],
    ["Episode", (t) => t.episode_id + (severalSeeds ? " · seed " + t.seed : "")],
  ];
  const first = Math.max(0, traces.findIndex((trace) => trace.turns.length)); // an episode with something to step through
  const state = { trace: first, turn: 0, order: "first_stage_rank" };

  function element(tag, attributes, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (name === "on") for (const [event, handler] of Object.entries(value)) node.addEventListener(event, handler);
      else if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
    }
    for (const child of children.flat()) if (child !== null) node.append(child); // strings become text nodes
    return node;
  }

  const signed = (value) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(3);
  const fixed = (value, digits) => (typeof value === "number" ? value.toFixed(digits) : value == null ? "" : String(value));

  // --- choosing an episode --------------------------------------------------------------------------

  // Keep the other choices where such an episode exists, so that methods can be compared on one episode.
  function choose(place, value) {
    const wanted = KEYS.map(([, key]) => key(traces[state.trace]));
    wanted[place] = value;
    let pool = traces;
    for (const index of [0, place, 1, 2, 3]) {
      const key = KEYS[index][1];
      const same = pool.filter((t) => key(t) === wanted[index]);
      if (same.length) pool = same;
    }
    go(traces.indexOf(pool[0]), 0);
  }

  function selectors(current) {
    let pool = traces;
    return KEYS.map(([label, key], place) => {
      const values = [...new Set(pool.map(key))];
      pool = pool.filter((t) => key(t) === key(current));
      const options = values.map((v) => element("option", { value: v, selected: v === key(current) }, v));
      const select = element("select", { on: { change: (event) => choose(place, event.target.value) } }, options);
      return element("label", {}, element("span", {}, label), select);
    });
  }

  // --- one step -------------------------------------------------------------------------------------

  function split(text) {
    const lines = text.trimEnd().split("\n");
    const last = lines[lines.length - 1].trim();
    if (!last.startsWith("{")) return [text, ""];
    return [lines.slice(0, -1).join("\n").trim(), last];
  }

  function block(title, text, kind) {
    return element("section", { class: "block " + (kind || "") }, element("h4", {}, title), element("pre", {}, text));
  }

  function promptStep(trace) {
    if (!trace.turns.length) return [element("p", {}, "This method takes no turns: it scores the candidates directly.")];
    return trace.prompt.map((message) => block(message.role, message.content));
  }

  function turnStep(turn) {
    const [reasoning, action] = split(turn.text);
    const observed = turn.null
      ? block("Observation: Null, this modality is missing", turn.observation, "null")
      : block("Observation", turn.observation || "(none: the episode ended here)");
    return [
      turn.error ? element("p", { class: "error" }, "Error: " + turn.error) : null,
      block("Reasoning", reasoning || "(none)"),
      block("Action: " + (turn.tool || "could not be read"), action || "(no action line)", "action"),
      observed,
    ];
  }

  // --- what if this call had been told something else -------------------------------------------------

  const changesAt = (trace, turn) => (trace.counterfactuals || []).filter((entry) => entry.turn === turn);
  const route = (turns) => turns.map((turn) => turn.tool || "unreadable action").join(" → ") || "the end";

  function whatIf(trace, entry) {
    const told = entry.change === "flip"
      ? "What if this modality had survived?"
      : "What if another user’s answer had come back? (" + entry.donor + ")";
    const rows = [
      ["Then", route(trace.turns.slice(entry.turn)), route(entry.turns.slice(1))],
      ["Target’s rank", fixed(entry.rank_before), fixed(entry.rank_after)],
      ["NDCG@10", fixed(entry.ndcg_before, 4), fixed(entry.ndcg_after, 4)],
      ["Return", signed(entry.return_before), signed(entry.return_after)],
      ["First candidates", entry.top_before.join(", "), entry.top_after.join(", ")],
      ["Stopped because", trace.stop_reason.replace(/_/g, " "), entry.stop_reason.replace(/_/g, " ")],
    ];
    const head = ["", "as played", "changed"].map((name) => element("th", { scope: "col" }, name));
    const body = rows.map(([name, before, after]) => element("tr", { class: before === after ? null : "differs" },
      element("th", { scope: "row" }, name), element("td", {}, before), element("td", {}, after)));
    const after = entry.turns.slice(1).map((turn, place) => element("div", {},
      element("h4", {}, "Turn " + (entry.turn + 1 + place)), turnStep(turn)));
    return element("section", { class: "block whatif" }, element("h4", {}, told),
      element("table", {}, element("thead", {}, element("tr", {}, head)), element("tbody", {}, body)),
      element("details", {}, element("summary", {}, "What it was told, and what it did"),
        block("Observation", entry.turns[0].observation), after));
  }

  function timeline(trace) {
    let total = 0;
    const items = [["Prompt", "", ""]].concat(
      trace.turns.map((turn) => {
        total += turn.reward;
        const name = turn.tool || "unreadable action";
        return [name, turn.error ? "error" : turn.null ? "null" : "", signed(turn.reward) + " → " + signed(total)];
      }),
    );
    return element("ol", { class: "timeline" }, items.map(([name, kind, reward], index) =>
      element("li", {}, element("button", {
        type: "button",
        class: kind,
        "aria-current": index === state.turn ? "step" : null,
        on: { click: () => go(state.trace, index) },
      },
      element("span", { class: "name" }, (index ? index + ". " : "") + name),
      element("span", { class: "result" }, (kind === "null" ? "Null" : kind) + (changesAt(trace, index).length ? " what if" : "")),
      element("span", { class: "reward" }, reward)))));
  }

  // Recorded by agents with a value head only.
  const expected = (turn) => (typeof turn.value === "number" ? ", expected before it " + signed(turn.value) : "");

  function step(trace) {
    const last = trace.turns.length;
    const title = state.turn ? "Turn " + state.turn + " of " + last : "Prompt";
    const turn = trace.turns[state.turn - 1];
    const total = trace.turns.slice(0, state.turn).reduce((sum, t) => sum + t.reward, 0);
    const reward = turn ? "reward " + signed(turn.reward) + ", return so far " + signed(total) + expected(turn) : "";
    const move = (by, label, sign) => element("button", {
      type: "button", "aria-label": label, disabled: state.turn + by < 0 || state.turn + by > last,
      on: { click: () => go(state.trace, state.turn + by) },
    }, sign);
    return element("div", { class: "step" },
      element("header", {}, element("h3", {}, title), element("span", { class: "reward" }, reward),
        move(-1, "previous turn", "←"), move(1, "next turn", "→")),
      turn ? turnStep(turn) : promptStep(trace),
      changesAt(trace, state.turn).map((entry) => whatIf(trace, entry)));
  }

  // --- the outcome ----------------------------------------------------------------------------------

  function facts(trace) {
    const mask = ["text", "image", "behavior"].map((name, place) => name + (trace.mask[place] ? " present" : " missing"));
    const total = trace.turns.reduce((sum, turn) => sum + turn.reward, 0);
    const pairs = [
      ["Hidden mask", mask.join(", ")],
      ["Stopped because", trace.stop_reason.replace(/_/g, " ")],
      ["Return", signed(total)],
      ["NDCG@10", fixed(trace["ndcg@10"], 4)],
    ];
    return element("dl", { class: "facts" },
      pairs.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))));
  }

  function target(trace) {
    const size = trace.candidates.length;
    const found = trace.candidates.find((candidate) => candidate.is_target);
    if (!found) return element("p", { class: "target" }, "The target is not in this pool: the first stage did not find it.");
    const before = trace.target_rank_before;
    const after = trace.target_rank_after;
    const at = (rank) => "left:" + (100 * (rank - 1)) / Math.max(1, size - 1) + "%";
    return element("div", { class: "target" },
      element("p", {}, element("strong", {}, "Target: "), "handle " + found.handle + ", “" + (found.title || "untitled"),
        "”: first-stage rank " + fixed(before, 0) + ", final rank " + fixed(after, 0) + " of " + size),
      element("div", { class: "track", "aria-hidden": "true" },
        element("span", { class: "before", style: at(before) }), element("span", { class: "after", style: at(after) })),
      element("p", { class: "key", "aria-hidden": "true" }, element("span", {}, "rank 1"),
        element("span", {}, "○ before   ● after"), element("span", {}, "rank " + size)));
  }

  function candidates(trace) {
    const rows = [...trace.candidates].sort((a, b) => a[state.order] - b[state.order]);
    const orders = [["first_stage_rank", "before: first-stage order"], ["final_rank", "after: final order"]];
    const toggle = orders.map(([order, label]) => element("button", {
      type: "button",
      "aria-pressed": String(state.order === order),
      on: { click: () => { state.order = order; render(); } },
    }, label));
    const header = ["Handle", "Title", "First-stage rank", "s⁽⁰⁾", "Agent’s score", "Fused score", "Final rank", "Moved"];
    const head = header.map((name, place) => element("th", { scope: "col", class: place > 1 ? "figure" : null }, name));
    const body = rows.map((row) => {
      const moved = row.first_stage_rank - row.final_rank;
      const score = trace.scores ? trace.scores[row.handle] : null;
      const figures = [fixed(row.first_stage_rank), fixed(row.s0, 3), fixed(score, Number.isInteger(score) ? 0 : 2), fixed(row.final_score, 3), fixed(row.final_rank),
        moved > 0 ? "▲ " + moved : moved < 0 ? "▼ " + -moved : "·"];
      return element("tr", { class: row.is_target ? "is-target" : null },
        element("td", {}, row.handle),
        element("td", {}, row.is_target ? element("span", { class: "role" }, "target") : null, " " + (row.title || "untitled")),
        figures.map((value, place) => element("td", { class: place === 5 ? "figure moved" : "figure" }, value)));
    });
    return element("div", {},
      element("header", { class: "toggle" }, element("h3", {}, "Candidates"), toggle,
        element("button", { type: "button", on: { click: showTarget } }, "show the target")),
      element("div", { class: "scroll tall", tabindex: "0", role: "region", "aria-label": "Candidates" },
        element("table", {}, element("thead", {}, element("tr", {}, head)), element("tbody", {}, body))));
  }

  function showTarget() {
    const row = root.querySelector(".is-target");
    const frame = root.querySelector(".scroll.tall");
    if (row) frame.scrollTop = row.offsetTop - frame.clientHeight / 2;
  }

  // --- state ----------------------------------------------------------------------------------------

  function render() {
    const trace = traces[state.trace];
    const focused = document.activeElement && root.contains(document.activeElement) ? focusPath(document.activeElement) : null;
    const scrolled = root.querySelector(".scroll.tall") ? root.querySelector(".scroll.tall").scrollTop : 0;
    root.replaceChildren(
      element("div", { class: "selectors" }, selectors(trace)),
      facts(trace),
      element("div", { class: "play" }, timeline(trace), step(trace)),
      target(trace),
      candidates(trace),
    );
    root.querySelector(".scroll.tall").scrollTop = scrolled;
    if (focused !== null) refocus(focused);
  }

  // The page is rebuilt at every step; the keyboard's place in it is kept.
  const focusable = () => [...root.querySelectorAll("button, select, [tabindex]")];
  const focusPath = (node) => focusable().indexOf(node);
  function refocus(place) {
    const node = focusable()[place];
    if (node) node.focus({ preventScroll: true });
  }

  function clamp(value, highest) {
    return Math.min(Math.max(0, Number.isInteger(value) ? value : 0), highest);
  }

  function go(trace, turn) {
    state.trace = clamp(trace, traces.length - 1);
    state.turn = clamp(turn, traces[state.trace].turns.length);
    history.replaceState(null, "", "#trace=" + state.trace + "&turn=" + state.turn);
    render();
  }

  function fromAddress() {
    const fields = new URLSearchParams(location.hash.slice(1));
    if (!fields.has("trace")) return false;
    state.trace = clamp(Number(fields.get("trace")), traces.length - 1);
    state.turn = clamp(Number(fields.get("turn")), traces[state.trace].turns.length);
    return true;
  }

  function onKey(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const here = event.target === document.body || (root.contains(event.target) && !event.target.matches("select, .scroll"));
    if (!step || !here || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    go(state.trace, state.turn + step);
  }

  document.addEventListener("keydown", onKey);
  window.addEventListener("hashchange", () => { if (fromAddress()) render(); });
  const asked = fromAddress();
  render();
  if (asked) document.getElementById("traces-section").scrollIntoView();
})();
