import os
from pathlib import Path

import numpy as np
import pytest

from mma_jax.data import amazon2014, atomic
from mma_jax.data.splits import positives, split
from mma_jax.data.statistics import statistics
from mma_jax.types import FIT, TEST, TRAIN, VALID, Catalog, Dataset, Interactions

DATA = Path(os.environ.get("MMA_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))


def test_rows_by_hand():
    catalog = Catalog(("a", "b"), ("A", ""), ("", ""), ("x", "y"), ("", ""), (("a.jpg", "b.jpg"), ()))
    log = Interactions(
        *np.array([[0, 0, 1], [0, 1, 0]], np.int32), np.array([5, 1, 5], np.float32), np.arange(3.0), "timestamp"
    )
    dataset = Dataset("toy", log, catalog, ("u", "v"), ("two bad things",))
    rows = statistics(dataset, np.array([True, False, True]), np.array([FIT, FIT, TEST], np.int8))
    assert rows == [
        ("dataset", "toy"),
        ("#users", "2"),
        ("#items", "2"),
        ("#inter.", "3"),
        ("sparsity", "25.00%"),
        ("positives", "2 (66.7%)"),
        ("order", "timestamp"),
        ("evidence (FIT)", "2 (1 positive)"),
        ("training targets (TRAIN)", "0 (0 positive)"),
        ("validation", "0 (0 positive)"),
        ("test", "1 (1 positive)"),
        ("items with title", "1 (50.0%)"),
        ("items with categories", "0 (0.0%)"),
        ("items with description", "2 (100.0%)"),
        ("items with brand", "0 (0.0%)"),
        ("items with images", "1 (50.0%)"),
        ("problem", "two bad things"),
    ]


def test_a_repeated_interaction_fills_one_cell():
    catalog = Catalog(("a", "b"), *[("", "")] * 4, ((), ()))
    log = Interactions(*np.array([[0, 0, 0], [1, 1, 1]], np.int32), np.ones(3, np.float32), np.arange(3.0), "timestamp")
    rows = dict(statistics(Dataset("toy", log, catalog, ("u", "v")), np.ones(3, bool), np.zeros(3, np.int8)))
    assert rows["#inter."] == "3" and rows["sparsity"] == "75.00%"


TABLE_2 = {
    "ml-100k": (atomic, ["943", "1,682", "100,000", "93.70%"]),
    "amazon-beauty": (atomic, ["22,363", "12,101", "198,502", "99.93%"]),
    "amazon-sports": (atomic, ["35,598", "18,357", "296,337", "99.95%"]),
    "amazon-baby": (atomic, ["19,445", "7,050", "160,792", "99.88%"]),
    "amazon-musical-instruments": (amazon2014, ["1,429", "900", "10,261", "99.20%"]),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.skipif(not (DATA / name).is_dir(), reason=f"no {name}")) for name in TABLE_2],
)
def test_real_datasets_match_the_papers_tables(name):
    source, expected = TABLE_2[name]
    dataset = source.load(str(DATA), name)
    positive = positives(dataset.interactions, 4.0)
    parts = split(dataset.interactions, positive)
    rows = dict(statistics(dataset, positive, parts))
    assert [rows[label] for label in ("#users", "#items", "#inter.", "sparsity")] == expected
    assert rows["problem"] == "none"
    sizes = np.bincount(parts, minlength=4) / len(parts)
    assert sizes[VALID] == pytest.approx(0.1, abs=0.04)
    assert sizes[TEST] == pytest.approx(0.1, abs=0.04)
    assert sizes[TRAIN] == pytest.approx(0.1, abs=0.04)
