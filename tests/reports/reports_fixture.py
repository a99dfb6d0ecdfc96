"""A made-up run folder of realistic shape, for the report's tests and for looking at it in a browser."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from mma_jax.evaluation.regret import LOSSES
from mma_jax.evaluation.results import Cell, ResultLog
from mma_jax.types import FAMILIES, LOMO, OOMA

HOSTILE = "</script><img src=x onerror=alert(1)>"
SKILL = {
    "First-stage": 0.0,
    "Reverse-rank": -0.5,
    "Rank-only": -0.02,
    "Popularity": -0.25,
    "RuleRouter-Fuse": 0.25,
    "Router-StopAtFirst": 0.2,
    "RuleRouter-Peek": 0.28,
    "Expert": 0.4,
    "Evidence-linear": 0.6,
    "MMA-Auto": 0.85,
    "Bayes": 1.4,
}
PLAYS = ("RuleRouter-Fuse", "Router-StopAtFirst", "RuleRouter-Peek", "Expert", "Evidence-linear", "MMA-Auto")
TITLES = ("Nail polish remover, 8 oz", "Toy Story (1995)", "Röd läppstift — 口紅", "Baby monitor | 2-pack", "")


def write_run(directory: Path, datasets=("ml-100k",), seeds=(0,), pool=20, episodes=60, seed=0, rename=None) -> Path:
    """Fill `directory` with every file of the results contract; MMA-Auto runs all seeds, the others the first.

    rename: other names for some methods and protocols.
    """
    rng = np.random.default_rng(seed)
    rename = rename or {}
    comparisons = []
    with ResultLog(directory) as log:
        for dataset in datasets:
            for protocol, families in (("ooma", OOMA), ("lomo", LOMO), ("full_catalog", OOMA)):
                worlds = {family: rng.normal(size=(episodes, pool)) for family in families}
                first = {}
                for method, skill in SKILL.items():
                    for run_seed in seeds if method == "MMA-Auto" else seeds[:1]:
                        rows = [row for f in families for row in _episodes(rng, protocol, f, worlds[f], skill)]
                        first.setdefault(method, rows)
                        step = max(1, episodes // 3)
                        traces = [_trace(rng, method, row, pool) for row in rows[::step] if protocol != "lomo"]
                        cell = Cell(dataset, rename.get(protocol, protocol), rename.get(method, method), run_seed)
                        log.write(cell, _results(rng, method, rows), rows, traces)
                comparisons += _comparisons(rng, dataset, rename.get(protocol, protocol), first)
    (directory / "comparisons.jsonl").write_text("".join(json.dumps(row) + "\n" for row in comparisons))
    (directory / "audit.json").write_text(json.dumps(_audit(datasets)))
    (directory / "statistics.json").write_text(json.dumps(STATISTICS))
    (directory / "config.json").write_text(json.dumps(CONFIG))
    return directory


def write_analyses(directory: Path, seeds=(0, 1), iterations=30, seed=0) -> Path:
    """Add what evaluate and ppo leave beyond the results: regret, information, training logs of MMA-Auto."""
    rng = np.random.default_rng(seed)
    regret, calls = [], []
    for run_seed in seeds:
        for method in ("RuleRouter-Fuse", "MMA-Auto"):
            head = {"dataset": "ml-100k", "protocol": "ooma", "method": method, "seed": run_seed}
            for subset in ("all", *OOMA):
                losses = dict(zip(LOSSES, rng.uniform(-0.02, 0.2, 5).tolist(), strict=True))
                regretted = losses["routing"] + losses["scoring"] + losses["fusion"]
                values = {**losses, "regret": regretted, "achieved": 1 - sum(losses.values())}
                regret += [
                    {**head, "subset": subset, "part": part, "value": value, "se": 0.0123, "n": 60}
                    for part, value in values.items()
                ]
        for n in range(200):
            gain = float(rng.normal(0, 0.1))
            call = {"episode_id": f"e{n}", "subset": "text_only", "turn": 1, "null": n % 2 == 0}
            call["tool"] = "Analyze_Text" if n % 3 else "Retrieve_Graph"
            calls.append({**head, **call, "predicted": gain, "realized": 0.1 + gain + float(rng.normal(0, 0.05))})
        log = directory / "train" / "MMA-Auto" / str(run_seed) / "panel.jsonl"
        log.parent.mkdir(parents=True)
        log.write_text("".join(json.dumps(_iteration(rng, n, run_seed)) + "\n" for n in range(iterations)))
    (directory / "regret.jsonl").write_text("".join(json.dumps(row) + "\n" for row in regret))
    (directory / "information.jsonl").write_text("".join(json.dumps(row) + "\n" for row in calls))
    return directory


def _iteration(rng, n, run_seed):
    families = {f"{part}/{f}": 0.2 + 0.01 * n + 0.05 * rng.normal() for part in ("reward", "query") for f in OOMA}
    stability = {"entropy": 2 / (1 + n), "clip_fraction": 0.1, "kl": 1e-3 * n, "explained_variance": 1 - 1 / (1 + n)}
    rates = {"dlogp_p95": 1e-5, "dlogp_max": 1e-4, "invalid_rate": 0.1 / (1 + n), "repeat_null_rate": 0.0}
    alarms = ["entropy below 0.1"] if n == 7 + run_seed else []
    return {"iteration": n, "alarms": alarms, **families, **stability, **rates, "seconds": 3.0, "learning_rate": 1e-5}


CONFIG = {"run": "all", "seed": 0, "data": {"root": "../data", "name": "ml-100k"}, "pool": {"mode": "calibrated"}}

STATISTICS = {
    "rows": [["Users", "943"], ["Items", "1,682"], ["Interactions", "100,000"], ["Sparsity", "93.70%"]],
    "recall": [
        {"source": "text", "k": 100, "train": 0.3312, "valid": 0.3271, "test": 0.3298},
        {"source": "image", "k": 100, "train": 0.1024, "valid": 0.1011, "test": 0.0987},
        {"source": "behavior", "k": 100, "train": 0.5121, "valid": 0.498, "test": 0.5034},
    ],
    "without_history": {"train": 0, "valid": 12, "test": 15},
}


def _episodes(rng, protocol, family, world, skill):
    rows = []
    for index, noise in enumerate(world):
        scores = noise + 0.35 * rng.normal(size=len(noise))
        rank = 1 + int((scores > scores[0] + skill + 0.5).sum())
        found = protocol != "full_catalog" or index % 3 == 0
        rows.append(
            {
                "subset": family,
                "episode_id": f"{protocol}-{family}-{index:04d}",
                "user": index // 2,
                "recalled": index % 3 == 0,
                "inserted": index % 3 != 0 and protocol != "full_catalog",
                "ndcg@10": float(found and rank <= 10) / np.log2(rank + 1),
                "ndcg@20": float(found and rank <= 20) / np.log2(rank + 1),
                "hr@10": float(found and rank <= 10),
                "mrr": float(found) / rank,
            }
        )
    return rows


def _results(rng, method, rows):
    subsets = {"all": rows} | {f: [row for row in rows if row["subset"] == f] for f in FAMILIES}
    subsets["all/recalled"] = [row for row in rows if row["recalled"]]
    subsets["all/inserted"] = [row for row in rows if row["inserted"]]
    results = []
    for subset, members in subsets.items():
        if members:
            values = {m: float(np.mean([r[m] for r in members])) for m in ("ndcg@10", "ndcg@20", "hr@10", "mrr")}
            if method in PLAYS:
                failed, recovery, first = rng.uniform(0.3, 0.7), rng.uniform(0.4, 0.7), rng.uniform(0.5, 0.9)
                values |= {"failed_call_rate": failed, "recovery": recovery if subset in FAMILIES else np.nan}
                values |= {"tts": 3.8, "turns": 3.9, "first_action_rate": first, "return": 0.1}
                values |= {"stop_scored": 0.98, "stop_malformed_terminal": 0.02, "invalid": 0.1}
            head = {"subset": subset, "n": len(members)}
            results += [{**head, "metric": metric, "value": value} for metric, value in values.items()]
    alpha = float(rng.choice(np.linspace(0, 1, 21)))
    return [*results, {"subset": "all", "metric": "alpha", "value": alpha, "n": len(rows)}]


def _comparisons(rng, dataset, protocol, rows):
    lines = []
    for subset in ("all", *dict.fromkeys(row["subset"] for row in rows["First-stage"])):
        kept = [n for n, row in enumerate(rows["First-stage"]) if subset in ("all", row["subset"])]
        for other in ("First-stage", "RuleRouter-Fuse"):
            x, y = (np.array([rows[m][n]["ndcg@10"] for n in kept]) for m in ("Evidence-linear", other))
            delta, p = float((x - y).mean()), float(rng.choice([1e-7, 0.004, 0.03, 0.4]))
            lines.append(
                {
                    **{"dataset": dataset, "protocol": protocol, "subset": subset, "metric": "ndcg@10"},
                    **{"a": "Evidence-linear", "b": other, "family": f"{protocol}/{subset}", "n": len(kept)},
                    **{"mean_delta": delta, "ci_low": delta - 0.03, "ci_high": delta + 0.03, "n_zero": 3},
                    **{
                        "p": p,
                        "p_holm": min(1.0, 2 * p),
                        "cliffs_delta": 0.15,
                        "rank_biserial": float(np.copysign(0.8, delta)),
                    },
                }
            )
    return lines


def _trace(rng, method, row, pool):
    family = row["subset"]
    mask = FAMILIES[family]
    before = rng.permutation(pool) + 1
    target = int(rng.integers(pool))
    after = before.copy()
    swap = int(np.flatnonzero(before == max(1, before[target] // 3))[0])
    after[target], after[swap] = before[swap], before[target]
    titles = [HOSTILE if n == 0 else f"{TITLES[n % len(TITLES)]} {n}".strip() for n in range(pool)]
    scores = {str(n + 1): round(100 * (1 - after[n] / pool), 1) for n in range(pool)}
    turns = []
    if method in PLAYS:
        presence = {"Analyze_Text": mask[0], "Retrieve_Graph": mask[2], "Analyze_Image": mask[1]}
        for tool, present in presence.items():
            args = {"user_id": "u"} if tool == "Retrieve_Graph" else {"item_id": ["1", "2", "3"]}
            seen = json.dumps({"profile": {"title": {"nail": 3}}, "items": {"1": {"title": titles[0]}, "2": "no text"}})
            turns.append(
                {
                    "text": f"The summaries are thin, so I ask {tool}.\n" + json.dumps({"tool": tool, "args": args}),
                    "tool": tool,
                    "args": args,
                    "observation": seen if present else "Null",
                    "reward": -0.02,
                    "error": "",
                    "null": not present,
                    "value": 0.1234 if method == "MMA-Auto" else None,
                }
            )
        turns.append(
            {
                "text": "let me see {oops",
                "tool": "",
                "args": {},
                "reward": -0.2,
                "error": "invalid_json",
                "null": False,
                "observation": "error: the last line must be one JSON object",
            }
        )
        final = json.dumps({"tool": "Score_Candidates", "args": {"scores": scores}}, separators=(",", ":"))
        turns.append(
            {
                "text": "Candidates near the profile come first.\n" + final,
                "tool": "Score_Candidates",
                "args": {},
                "observation": "",
                "reward": row["ndcg@10"],
                "error": "",
                "null": False,
            }
        )
    listing = "\n".join(f"{n + 1}. rank {before[n]}, s0 {1 - before[n] / pool:.2f}, {titles[n]}" for n in range(pool))
    return {
        "subset": family,
        "family": family,
        "episode_id": row["episode_id"],
        "mask": list(mask),
        "prompt": [
            {"role": "system", "content": "You rerank candidates. Answer with one JSON action as the last line."},
            {"role": "user", "content": f"User u. Candidates:\n{listing}"},
        ],
        "turns": turns,
        "stop_reason": "scored",
        "scores": scores,
        "candidates": [
            {
                "handle": str(n + 1),
                "title": titles[n],
                "first_stage_rank": int(before[n]),
                "s0": 1 - before[n] / pool,
                "final_rank": int(after[n]),
                "final_score": 1 - after[n] / pool,
                "is_target": n == target,
            }
            for n in range(pool)
        ],
        "target_rank_before": int(before[target]),
        "target_rank_after": int(after[target]),
        "ndcg@10": row["ndcg@10"],
        "counterfactuals": [_counterfactual(turns, n) for n in range(2)] if method == "MMA-Auto" else [],
    }


def _counterfactual(turns, n):
    flipped = turns[n]["null"]
    told = {**turns[n], "observation": f"instead {HOSTILE}", "null": False}
    return {
        **{"turn": n + 1, "change": "flip" if flipped else "swap", "donor": None if flipped else "ooma-else"},
        **{"turns": [told, turns[-1]], "stop_reason": "scored", "rank_before": 7, "rank_after": 1},
        **{"ndcg_before": 0.3333, "ndcg_after": 1.0, "return_before": 0.0733, "return_after": 0.96},
        **{"top_before": ["3", "1"], "top_after": ["1", "3"]},
    }


def _audit(datasets):
    return [
        {
            "check": check,
            "dataset": dataset,
            "value": value,
            "threshold": limit,
            "pass": value <= limit,
            "meaning": meaning,
            "detail": detail,
        }
        for dataset in datasets
        for check, value, limit, meaning, detail in (
            (
                "inverse_rank",
                -0.2134,
                0.0,
                "reversing the first stage must not beat it (lower 95% bound of the NDCG@10 gain, worst family)",
                "text_only -0.2134, image_only -0.2555",
            ),
            ("rank_only", 0.0312, 0.01, "a scorer fitted on rank and s0 alone must not beat the first stage", ""),
            ("self_edges", 0.0, 0.0, "training targets found among the interactions that built their own evidence", ""),
            ("recall_gap", 0.0087, 0.05, "largest difference between train and test recall@B of a source", HOSTILE),
        )
    ]
