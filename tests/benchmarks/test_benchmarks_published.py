"""The protocols of published figures, on logs small enough to read."""

import numpy as np
import pytest

from benchmarks import published
from mma_jax.baselines.registry import BASELINES
from mma_jax.data import atomic


def dataset(folder, columns, rows):
    path = folder / "tiny"
    path.mkdir()
    lines = ["\t".join(["user_id:token", "item_id:token", *columns])]
    lines += ["\t".join(map(str, row)) for row in rows]
    (path / "tiny.inter").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return atomic.load(str(folder), "tiny")


def named(data, held):
    """{user: (history, seen, targets)} by name."""
    found = {}
    for place, user in enumerate(held.users):
        parts = []
        for part in (held.history, held.seen, held.targets):
            items = part.items[part.starts[place] : part.starts[place + 1]]
            parts.append("".join(data.catalog.ids[item] for item in items))
        found[data.users[user]] = tuple(parts)
    return found


def trained(data, corpus):
    return {(data.users[u], data.catalog.ids[i]) for u, i in zip(corpus.users, corpus.items, strict=True)}


LOG = [("u", "c", 3), ("v", "a", 0), ("u", "a", 1), ("u", "d", 4), ("u", "b", 2), ("w", "d", 7), ("v", "d", 1)]
LOG += [("w", "a", 9), ("w", "c", 8)]


def test_leave_one_out(tmp_path):
    data = dataset(tmp_path, ["position:float"], LOG)
    task = published.leave_one_out(data)
    assert named(data, task.test) == {"u": ("abc", "abc", "d"), "w": ("dc", "dc", "a")}  # v has two items: training
    assert named(data, task.valid) == {"u": ("ab", "ab", "c"), "w": ("d", "d", "c")}
    assert trained(data, task.corpus) == {("u", "a"), ("u", "b"), ("v", "a"), ("v", "d"), ("w", "d")}
    corpus = task.corpus
    assert [corpus.before[corpus.starts[u]] for u in range(3)] == [0, 0, 0]
    np.testing.assert_array_equal(corpus.histories(np.flatnonzero(corpus.before == 1), 2)[:, 0], [-1, -1])


def test_leave_one_out_with_every_item_a_candidate(tmp_path):
    data = dataset(tmp_path, ["position:float"], LOG)
    task = published.leave_one_out_all(data)
    assert named(data, task.test) == {"u": ("abc", "", "d"), "w": ("dc", "", "a")}


def test_the_given_split(tmp_path):
    parts = ["train", "train", "valid", "test", "test", "test", "train", "valid"]
    rows = [("u", "a"), ("u", "b"), ("u", "c"), ("u", "d"), ("u", "e"), ("v", "a"), ("w", "e"), ("w", "a")]
    data = dataset(tmp_path, ["split:token"], [(*row, part) for row, part in zip(rows, parts, strict=True)])
    task = published.given_split(data)
    assert named(data, task.valid) == {"u": ("ab", "ab", "c"), "w": ("e", "e", "a")}
    assert named(data, task.test) == {"u": ("ab", "ab", "de")}  # v has no training item
    assert trained(data, task.corpus) == {("u", "a"), ("u", "b"), ("w", "e")}
    assert (task.corpus.before == -1).all()


def test_a_repeated_pair_is_refused(tmp_path):
    rows = [("u", "a", 0), ("u", "a", 1), ("u", "b", 2), ("u", "c", 3)]
    with pytest.raises(SystemExit, match="twice"):
        published.leave_one_out(dataset(tmp_path, ["position:float"], rows))


@pytest.mark.parametrize("name", published.ENTRIES)
def test_entries_name_what_there_is(name):
    entry = published.ENTRIES[name]
    config = BASELINES[entry.baseline].get_config()
    config.update(entry.settings | {key: values[0] for key, values in entry.grid.items()})
    assert entry.protocol in published.PROTOCOLS
    assert set(entry.settings) | set(entry.grid) <= set(BASELINES[entry.baseline].get_config())
    assert all(metric.partition("@")[0] in ("hr", "recall", "ndcg", "mrr") for metric in entry.published)


def test_an_entry_runs_and_the_best_on_validation_is_asked(tmp_path, capsys):
    rng = np.random.default_rng(0)
    rows = [
        (f"u{u}", f"i{u % 2 * 20 + item}", place)
        for u in range(60)
        for place, item in enumerate(rng.permutation(20)[:8])
    ]
    dataset(tmp_path, ["position:float"], rows)
    entry = published.Entry(
        data="tiny",
        protocol="leave one out",
        baseline="BPR-MF",
        settings={"batch": 64, "epochs": 12, "validate_every": 6, "patience": 2},
        grid={"lr": (1e-9, 3e-2)},
        published={"recall@10": 0.5, "ndcg@10": 0.25},
        tolerance=0.1,
        source="nobody",
    )
    outcome = published.run(entry, str(tmp_path), tmp_path / "work", seed=0)
    assert outcome.settings == {"lr": 3e-2}
    assert outcome.figures["recall@10"] > 0.4  # of 40 items 14 of one's kind are left: half of these at best
    assert 0 < outcome.figures["ndcg@10"] < outcome.figures["recall@10"]
    published.ENTRIES["tiny"] = entry
    try:
        (line, _) = published.table_rows("tiny", 0, outcome)
    finally:
        del published.ENTRIES["tiny"]
    assert line.count("|") == 12 and "0.5000" in line
