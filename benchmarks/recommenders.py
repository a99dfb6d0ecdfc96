"""Seconds per training epoch and per full-sort evaluation of all users, beside RecBole 1.2.1 on the same data.

    python benchmarks/recommenders.py --data_root DATA --environment DIR [--models LightGCN,SASRec] [--rounds 3]

DATA holds RecBole atomic folders with an order (`position` or `timestamp`). RecBole gets a virtual environment of its
own, made in DIR if it is not there; --torch says which torch it gets. Both train on all but each user's last two items
and rank the whole catalog for every user's last item, on the CPU, with the hyperparameters of SETTINGS. Contestants
take turns, a process each; figures are medians over the rounds. A row is one prediction that is trained on. SASRec
learns from a user's last `length` steps here and from every prefix there, so rows per epoch differ, and the last column
compares per row.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import statistics
import sys
import tempfile
from collections.abc import Callable

import contest
import numpy as np

SETTINGS = {
    "LightGCN": {"dim": 64, "layers": 2, "reg": 1e-5, "lr": 1e-3, "batch": 2048},
    "SASRec": {
        "dim": 64,
        "layers": 2,
        "heads": 2,
        "dropout": 0.5,
        "length": 10,
        "loss": "ce",
        "lr": 1e-3,
        "batch": 512,
    },
}
"""`batch`: rows, that is predictions, of one update."""

TASKS = ("epoch", "full sort")
CHUNK, CUTOFFS = 512, (10, 20)  # users scored at once, by both
RECBOLE = ["scipy", "pandas", "tqdm", "colorlog", "colorama", "scikit-learn", "pyyaml", "tensorboard", "tabulate"]
RECBOLE += ["plotly", "texttable", "psutil", "thop", "setuptools<81"]  # tensorboard there imports pkg_resources


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_root", help="folder of RecBole atomic folders")
    parser.add_argument("--name", default="amazon-beauty", help="folder under it")
    parser.add_argument("--environment", help="folder of RecBole's virtual environment")
    parser.add_argument("--torch", default="torch", help="what pip installs there, such as torch==2.13.0+cpu")
    parser.add_argument("--models", default=",".join(SETTINGS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)  # a contestant's own process: name, folder
    options = parser.parse_args()
    if options.serve:
        name, folder = options.serve
        contest.serve(CONTESTANTS[name](pathlib.Path(folder)))
        return
    if not options.data_root or not options.environment:
        parser.error("--data_root and --environment are needed")
    pythons = {contest.REFERENCE: sys.executable}
    if python := recbole_python(pathlib.Path(options.environment).absolute(), options.torch):
        pythons["recbole"] = python
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # torch's threads would spin, and waiting count as work
    print_header()
    for model in options.models.split(","):
        with tempfile.TemporaryDirectory() as folder:
            job = {"model": model, "root": os.path.abspath(options.data_root), "name": options.name}
            pathlib.Path(folder, "job.json").write_text(json.dumps(job))
            print_rows(model, contest.compare(__file__, pythons, folder, TASKS, options.rounds))


def recbole_python(folder: pathlib.Path, torch: str) -> str | None:
    """The interpreter of RecBole's environment. Its own list of requirements asks for ray, which nothing here uses."""
    python = folder / "bin" / "python"
    if python.exists() and list(folder.glob("lib/python*/site-packages/recbole/trainer")):
        return str(python)
    made = contest.environment(folder, [torch, *RECBOLE])
    return made and contest.environment(folder, ["--no-deps", "recbole==1.2.1"])


def read_job(folder: pathlib.Path) -> dict:
    return json.loads((folder / "job.json").read_text())


def ours(folder: pathlib.Path) -> Callable[[str], dict]:
    """The epoch of `fit.fit`, and `full_sort.evaluate`."""
    import jax
    import published
    from flax import nnx

    from mma_jax.baselines import fit
    from mma_jax.baselines.registry import BASELINES
    from mma_jax.data import atomic
    from mma_jax.evaluation import full_sort

    job = read_job(folder)
    task = published.leave_one_out(atomic.load(job["root"], job["name"]))
    baseline = BASELINES[job["model"]]
    config = baseline.get_config()
    config.update(SETTINGS[job["model"]])
    rows = len(task.corpus.users)
    if job["model"] == "SASRec":  # its batch counts users
        rows = int(np.minimum(np.diff(task.corpus.starts) - 1, config.length).clip(0).sum())
        config.batch = round(config.batch * task.corpus.known_user.sum() / rows)
    recommender = baseline.make(config, task.corpus)
    graph, learned, given = fit.split(recommender, 0)
    (optimizer, step), key = fit.make_step(graph, config.lr), jax.random.key(0)
    state = {"progress": fit.Progress(learned, optimizer.init(nnx.filter_state(learned, nnx.Param))), "epoch": 0}

    def epoch() -> dict:
        progress, losses = state["progress"], []
        for number, batch in enumerate(fit.ahead(recommender.batches(np.random.default_rng([0, state["epoch"]])))):
            progress, loss = step(progress, given, batch, jax.random.fold_in(key, number))
            losses.append(loss)
        state.update(progress=progress, epoch=state["epoch"] + 1)
        return {"rows": rows, "updates": len(losses), "loss": float(np.mean(losses))}

    def evaluate() -> dict:
        scorer = fit.Scorer(graph, state["progress"].learned, given)
        length = config.get("length", 1)  # LightGCN has vectors of users and reads no history
        found = full_sort.evaluate(scorer, task.corpus, task.test, CUTOFFS, length, CHUNK)
        return {"rows": len(task.test.users), "ndcg@10": round(float(found["ndcg@10"].mean()), 4)}

    return lambda name: epoch() if name == "epoch" else evaluate()


def recbole(folder: pathlib.Path) -> Callable[[str], dict]:
    """RecBole's own trainer."""
    os.chdir(folder)  # it writes logs into the working folder
    sys.argv = sys.argv[:1]  # it reads the command line
    mend()
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed

    job = read_job(folder)
    with pathlib.Path(job["root"], job["name"], f"{job['name']}.inter").open(encoding="utf-8") as lines:
        clock = "timestamp" if "timestamp" in lines.readline() else "position"
    config = Config(job["model"], job["name"], config_dict=recbole_settings(job, clock))
    init_seed(0, reproducibility=True)
    dataset = create_dataset(config)
    if job["model"] == "LightGCN":
        config["eval_batch_size"] = CHUNK * dataset.item_num  # there it counts scores, for sequences users
    train, _, test = data_preparation(config, dataset)
    model = get_model(job["model"])(config, train.dataset).to(config["device"])
    trainer = get_trainer(config["MODEL_TYPE"], job["model"])(config, model)
    trainer.eval_collector.data_collect(train)
    epochs = iter(range(10**6))

    def epoch() -> dict:
        total = trainer._train_epoch(train, next(epochs))
        return {"rows": len(train.dataset), "updates": len(train), "loss": total / len(train)}

    def evaluate() -> dict:
        found = trainer.evaluate(test, load_best_model=False)
        return {"rows": len(test.dataset), "ndcg@10": float(found["ndcg@10"])}

    return lambda name: epoch() if name == "epoch" else evaluate()


def recbole_settings(job: dict, clock: str) -> dict:
    """SETTINGS in RecBole's words."""
    own = SETTINGS[job["model"]]
    shared = {
        "data_path": job["root"],
        "load_col": {"inter": ["user_id", "item_id", clock]},
        "TIME_FIELD": clock,
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
        "metrics": ["Recall", "NDCG", "Hit", "MRR"],
        "topk": list(CUTOFFS),
        "valid_metric": f"NDCG@{CUTOFFS[0]}",
        "learning_rate": own["lr"],
        "train_batch_size": own["batch"],
        "eval_batch_size": CHUNK,
        "use_gpu": False,
        "state": "ERROR",
        "show_progress": False,
    }
    if job["model"] == "LightGCN":
        return shared | {"embedding_size": own["dim"], "n_layers": own["layers"], "reg_weight": own["reg"]}
    return shared | {
        "train_neg_sample_args": None,
        "loss_type": own["loss"].upper(),
        "MAX_ITEM_LIST_LENGTH": own["length"],
        "hidden_size": own["dim"],
        "inner_size": 4 * own["dim"],
        "n_layers": own["layers"],
        "n_heads": own["heads"],
        "hidden_dropout_prob": own["dropout"],
        "attn_dropout_prob": own["dropout"],
    }


def mend() -> None:
    """Names that RecBole 1.2.1 uses and later numpy and scipy no longer have."""
    import scipy.sparse

    for name, kind in {"float_": np.float64, "complex_": np.complex128, "unicode_": np.str_}.items():
        setattr(np, name, kind)
    scipy.sparse.dok_matrix._update = lambda matrix, entries: matrix._dict.update(entries)


CONTESTANTS = {contest.REFERENCE: ours, "recbole": recbole}


def print_header() -> None:
    columns = ("model", "task", "contestant", "rows", "updates", "s", "CPU s", "peak GB", "NDCG@10")
    columns += ("s / ours", "CPU s / ours", "CPU s a row / ours")
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")


def print_rows(model: str, results: contest.Results) -> None:
    """Medians over the rounds, Markdown."""
    for (task, name), answers in results.items():
        if (task, contest.REFERENCE) not in results:
            continue
        wall, cpu, rows, peak = (median(answers, key) for key in ("wall", "cpu", "rows", "peak"))
        reference = results[task, contest.REFERENCE]
        ratio = cpu / median(reference, "cpu")
        print(
            f"| {model} | {task} | {name} | {rows:,.0f} | {answers[0].get('updates', '')} | {wall:.2f} | {cpu:.2f} "
            f"| {peak / 1e9:.2f} | {answers[-1].get('ndcg@10', '')} | {wall / median(reference, 'wall'):.2f} "
            f"| {ratio:.2f} | {ratio * median(reference, 'rows') / rows:.2f} |",
            flush=True,
        )


def median(answers: list[dict], key: str) -> float:
    return statistics.median(answer[key] for answer in answers)


if __name__ == "__main__":
    main()
