import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest

from mma_jax.data import amazon2014
from mma_jax.types import InputError

DATA = Path(os.environ.get("MMA_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))


def review(user="U1", asin="A1", overall=5.0, time=100, **more):
    return {"reviewerID": user, "asin": asin, "overall": overall, "unixReviewTime": time, **more}


def lines(records):
    return "".join(f"{record if isinstance(record, str) else json.dumps(record)}\n" for record in records).encode()


def write(root, reviews, meta=None):
    (root / "reviews_Toys_5.json").write_bytes(lines(reviews))
    if meta is not None:
        (root / "meta_Toys.json.gz").write_bytes(gzip.compress(lines(meta)))
    return str(root)


def load(root, *files):
    return amazon2014.load(write(root, *files), "toys")


def test_reviews(tmp_path):
    data = load(tmp_path, [review("U2", "A2", 3.0, 50), review("U1", "A1", None, 70), review("U2", "A1", "4", 60)])
    log = data.interactions
    assert data.users == ("U2", "U1")
    assert data.catalog.ids == ("A2", "A1")
    assert (log.user.tolist(), log.item.tolist(), log.time.tolist()) == ([0, 1, 0], [0, 1, 1], [50, 70, 60])
    np.testing.assert_array_equal(log.rating, np.array([3, np.nan, 4], np.float32))
    assert log.order == "timestamp"
    assert data.copurchases is None
    assert data.problems == ()


def test_review_text_never_becomes_item_text(tmp_path):
    catalog = load(tmp_path, [review(reviewText="secret", summary="secret")]).catalog
    assert catalog.title == catalog.description == catalog.categories == catalog.brand == ("",)


def test_metadata_as_python_literals_or_json(tmp_path):
    python = str({"asin": "A1", "title": "Tom's &amp; Co", "categories": [["Toys", "Trains"], ["Gifts"]], "brand": None,
                  "related": {"also_bought": ["A2", "A1", "A9", "A2"]}, "imUrl": "http://nowhere/x.jpg"})  # fmt: skip
    as_json = {
        "asin": "A2",
        "description": ["two\n lines", " here"],
        "brand": "Acme",
        "related": {"also_viewed": ["A1"]},
    }
    unreviewed = "{'asin': 'A9', 'title': this line is never parsed}"
    data = load(tmp_path, [review(asin="A1"), review(asin="A2"), review(asin="A3")], [python, unreviewed, as_json])
    assert data.catalog.title == ("Tom's & Co", "", "")
    assert data.catalog.categories == ("Toys > Trains; Gifts", "", "")
    assert data.catalog.description == ("", "two lines here", "")
    assert data.catalog.brand == ("", "Acme", "")
    assert data.catalog.images == ((), (), ())
    assert data.copurchases.tolist() == [[0, 1]]
    assert data.copurchases.dtype == np.int32
    assert data.problems == ("1 items are absent from meta_Toys.json.gz; kept without text",)


def test_bad_metadata_is_counted(tmp_path):
    meta = [
        "{'asin': 'A1', 'title': __import__('os')}",
        "no item here",
        {"asin": "A2", "related": "none"},
        {"asin": "A2", "title": "again"},
    ]
    data = load(tmp_path, [review(asin="A1"), review(asin="A2")], meta)
    assert data.catalog.title == ("", "")
    assert data.problems == (
        "1 bad in meta_Toys.json.gz: neither JSON nor a Python literal (line 1)",
        "1 bad in meta_Toys.json.gz: no asin (line 2)",
        "1 items are absent from meta_Toys.json.gz; kept without text",
        "1 lines of meta_Toys.json.gz repeat an item; the first one counts",
    )


def test_bad_reviews_are_counted(tmp_path):
    bad = [
        "not json",
        "[1]",
        review(user=""),
        review(asin=None),
        review(overall="five"),
        review(time=None),
        "[" * 100_000,
        review(time=10**400),
    ]
    data = load(tmp_path, [review(), *bad, review(asin="A2")])
    assert data.catalog.ids == ("A1", "A2")
    assert sorted(data.problems) == [
        "1 bad in reviews_Toys_5.json: no asin (line 5)",
        "1 bad in reviews_Toys_5.json: no reviewerID (line 4)",
        "1 bad in reviews_Toys_5.json: not a JSON object (line 3)",
        "1 bad in reviews_Toys_5.json: overall is not a number (line 6)",
        "2 bad in reviews_Toys_5.json: not JSON (lines 2, 8)",
        "2 bad in reviews_Toys_5.json: unixReviewTime is not a number (lines 7, 9)",
    ]


def test_too_many_bad_reviews_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"reviews_Toys_5\.json: 11 of 12 lines are unreadable"):
        load(tmp_path, [review(), *["nonsense"] * 11])


def test_truncated_gzip_names_the_file_and_the_lines_read(tmp_path):
    rng = np.random.default_rng(0)
    whole = gzip.compress(lines(review(user=str(rng.integers(1 << 60))) for _ in range(5000)))
    path = tmp_path / "reviews_Toys_5.json.gz"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"reviews_Toys_5\.json\.gz: damaged gzip after [\d,]+ lines") as error:
        amazon2014.load(str(tmp_path), "toys")
    read = int(str(error.value).split("after ")[1].split(" lines")[0].replace(",", ""))
    assert 2000 < read < 3000
    path.write_bytes(b"this is no gzip")
    with pytest.raises(InputError, match="damaged gzip after 0 lines"):
        amazon2014.load(str(tmp_path), "toys")


def test_several_no_or_empty_review_files(tmp_path):
    with pytest.raises(InputError, match=r"no reviews\*\.json"):
        amazon2014.load(str(tmp_path), "toys")
    with pytest.raises(InputError, match="holds no review"):
        load(tmp_path, [])
    (tmp_path / "reviews_Games.json.gz").touch()
    with pytest.raises(InputError, match=r"reviews_Games\.json\.gz, reviews_Toys_5\.json"):
        load(tmp_path, [review()])


def test_local_images(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "A1.jpg").touch()
    assert load(tmp_path, [review()]).catalog.images == ((str(tmp_path / "images" / "A1.jpg"),),)


@pytest.mark.skipif(not (DATA / "amazon-musical-instruments").is_dir(), reason="no amazon-musical-instruments")
def test_musical_instruments():
    data = amazon2014.load(str(DATA), "amazon-musical-instruments")
    log = data.interactions
    assert (len(data.users), len(data.catalog), len(log)) == (1429, 900, 10_261)
    assert (data.users[0], data.catalog.ids[0]) == ("A2IBPI20UZIR0U", "1384719342")
    assert (log.rating[0], log.time[0]) == (5, 1393545600)
    assert data.problems == ()
