import os
import time
from pathlib import Path

import numpy as np
import pytest

from mma_jax.data import atomic
from mma_jax.types import TEST, TRAIN, VALID, InputError

DATA = Path(os.environ.get("MMA_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))

INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"


def write(root, inter, item=None, name="toy"):
    folder = root / name
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.inter").write_bytes(inter if isinstance(inter, bytes) else inter.encode())
    if item is not None:
        (folder / f"{name}.item").write_text(item, encoding="utf-8")
    return str(root)


def load(root, *files):
    return atomic.load(write(root, *files), "toy")


def test_columns_in_any_order_and_unknown_ones_ignored(tmp_path):
    inter = (
        "timestamp:float\tmood:token\titem_id:token\trating:float\tuser_id:token\n"
        "30\tgood\tb\t4.5\tann\n10\tbad\ta\t\tbob\n20\t\tb\t1\tann"
    )
    data = load(tmp_path, inter)
    log = data.interactions
    assert data.users == ("ann", "bob")
    assert data.catalog.ids == ("b", "a")
    assert (log.user.tolist(), log.item.tolist()) == ([0, 1, 0], [0, 1, 0])
    np.testing.assert_array_equal(log.rating, np.array([4.5, np.nan, 1], np.float32))
    assert log.time.tolist() == [30, 10, 20]
    assert (log.user.dtype, log.item.dtype, log.rating.dtype, log.time.dtype) == (
        "int32",
        "int32",
        "float32",
        "float64",
    )
    assert log.order == "timestamp"
    assert log.given_split is None
    assert data.problems == ("1 interactions repeat an earlier (user, item) pair; kept",)


def test_order_is_the_clock_then_the_position_then_none(tmp_path):
    header = "user_id:token\titem_id:token"
    both = load(tmp_path, f"{header}\tposition:float\ttimestamp:float\nu\ti\t1\t500\n").interactions
    assert (both.order, both.time.tolist()) == ("timestamp", [500])
    position = load(tmp_path, f"{header}\tposition:float\nu\ti\t1\n").interactions
    assert (position.order, position.time.tolist()) == ("position", [1])
    none = load(tmp_path, f"{header}\nu\ti\n").interactions
    assert none.order == "none"
    assert np.isnan(none.time).all()
    assert np.isnan(none.rating).all()


def test_given_split(tmp_path):
    rows = "u\ta\ttrain\nu\tb\tvalid\nu\tc\ttest\nu\td\tdev\n"
    data = load(tmp_path, "user_id:token\titem_id:token\tsplit:token\n" + rows)
    assert data.interactions.given_split.tolist() == [TRAIN, VALID, TEST]
    assert data.interactions.given_split.dtype == np.int8
    assert data.catalog.ids == ("a", "b", "c")
    assert data.problems == ("1 bad in toy.inter: split is not one of train, valid, test (line 5)",)


def test_catalog_is_the_union_of_both_files(tmp_path):
    item = (
        "brand:token\titem_id:token\ttitle:token_seq\tdescription:token_seq\tcategories:token_seq\n"
        'Unknown\tb\t The "B"\tsays hi\tX > Y\n'
        "\tz\tOnly here\t\t\n"
        "\tb\tAgain\t\t\n"
    )
    data = load(tmp_path, INTER + "u\ta\t5\t1\nu\tb\t5\t2\n", item)
    assert data.catalog.ids == ("a", "b", "z")
    assert data.catalog.title == ("", 'The "B"', "Only here")
    assert data.catalog.brand == ("", "Unknown", "")
    assert data.catalog.description == ("", "says hi", "")
    assert data.catalog.categories == ("", "X > Y", "")
    assert data.catalog.images == ((), (), ())
    assert data.problems == (
        "1 items are absent from toy.item; kept without text",
        "1 lines of toy.item repeat an item; the first one counts",
    )


def test_without_item_file_text_is_missing_and_no_problem(tmp_path):
    data = load(tmp_path, INTER + "u\ta\t5\t1\n")
    assert data.catalog.title == data.catalog.categories == data.catalog.description == data.catalog.brand == ("",)
    assert data.problems == ()


def test_images_single_several_and_stray(tmp_path):
    images = tmp_path / "toy" / "images"
    (images / "b").mkdir(parents=True)
    for path in ("a.jpg", "c.PNG", "stray.webp", "notes.txt", "b/2.jpg", "b/1.jpeg", "b/readme.md"):
        (images / path).touch()
    data = load(tmp_path, INTER + "u\ta\t5\t1\nu\tb\t5\t2\nu\tc\t5\t2\nu\td\t5\t2\n")
    found = [tuple(os.path.relpath(path, images) for path in paths) for paths in data.catalog.images]
    assert found == [("a.jpg",), ("b/1.jpeg", "b/2.jpg"), ("c.PNG",), ()]
    assert data.problems == ("1 images in images/ belong to no item",)


def test_bad_lines_are_counted_with_line_numbers(tmp_path):
    rows = [
        "u\ta\t5\t1",
        "u\ta\t5",
        "",
        "\tb\t5\t1",
        "u\t \t5\t1",
        "u\tc\tfive\t1",
        "u\td\t5\t",
        "u\te\tsix\tnan",
        "v\tf\t1\t9",
    ]
    data = load(tmp_path, INTER + "\n".join(rows) + "\n\n")
    assert data.catalog.ids == ("a", "f")
    assert data.interactions.time.tolist() == [1, 9]
    assert data.problems == (
        "2 bad in toy.inter: not 4 fields (lines 3, 4)",
        "1 bad in toy.inter: empty user_id (line 5)",
        "1 bad in toy.inter: empty item_id (line 6)",
        "2 bad in toy.inter: rating is not a number (lines 7, 9)",
        "1 bad in toy.inter: timestamp is not a number (line 8)",
    )


def test_many_bad_lines_are_refused(tmp_path):
    good = "u\ta\t5\t1\n" * 989
    load(tmp_path, INTER + good + "u\ta\n" * 9 + "u\ta\tx\t1\n")
    with pytest.raises(InputError, match=r"11 of 1,000 lines are unreadable"):
        load(tmp_path, INTER + good + "u\ta\n" * 10 + "u\ta\tx\t1\n")


def test_many_bad_item_lines_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"toy\.item: 11 of 12 lines"):
        load(tmp_path, INTER + "u\ta\t5\t1\n", "item_id:token\ttitle:token_seq\na\tA\n" + "broken\n" * 11)


@pytest.mark.parametrize(
    ("inter", "message"),
    [
        ("", "empty"),
        ("\n\n", "empty"),
        ("uid:token\titem_id:token\nu\ti\n", "the header lacks user_id"),
        ("user_id:token\titem:token\nu\ti\n", "the header lacks item_id"),
        ("user_id:token\titem_id:token\titem_id:token\nu\ti\ti\n", "names a column twice"),
        (INTER, "no interaction"),
        (INTER + "only one field\n", "no interaction"),
        (INTER.encode() + b"u\t\xff\t5\t1\n", "not UTF-8 at byte"),
    ],
)
def test_unusable_files_are_refused_in_one_line(tmp_path, inter, message):
    with pytest.raises(InputError, match=message) as error:
        load(tmp_path, inter)
    assert "toy.inter" in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_folder_and_file(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        atomic.load(str(tmp_path / "nowhere"), "toy")
    with pytest.raises(InputError, match=r"no toy\.inter"):
        atomic.load(str(tmp_path), "toy")
    (tmp_path / "toy.inter").mkdir()
    with pytest.raises(InputError, match="cannot be read"):
        atomic.load(str(tmp_path), "toy")


def test_root_may_be_the_folder_itself(tmp_path):
    write(tmp_path, INTER + "u\ta\t5\t1\n", "item_id:token\ttitle:token_seq\na\tA\n")
    assert atomic.load(str(tmp_path / "toy"), "toy").catalog.title == ("A",)


def test_windows_line_ends_byte_order_mark_and_odd_characters(tmp_path):
    item = "\ufeffitem_id:token\ttitle:token_seq\r\na\tone\u2028two\x85three\r\n"
    data = load(tmp_path, ("\ufeff" + INTER + "u\ta\t5\t1\n").replace("\n", "\r\n"), item)
    assert data.catalog.title == ("one\u2028two\x85three",)
    assert data.problems == ()


def test_name_with_glob_characters(tmp_path):
    assert atomic.load(write(tmp_path, INTER + "u\ta\t5\t1\n", name="[2014]*"), "[2014]*").name == "[2014]*"


@pytest.mark.skipif(not (DATA / "ml-100k").is_dir(), reason="no ml-100k")
def test_ml100k():
    start = time.perf_counter()
    data = atomic.load(str(DATA), "ml-100k")
    assert time.perf_counter() - start < 5  # 0.4 s on an idle core
    assert (len(data.users), len(data.catalog), len(data.interactions)) == (943, 1682, 100_000)
    assert data.interactions.order == "timestamp"
    assert sum(map(len, data.catalog.images)) == 1663
    assert sum(map(bool, data.catalog.description)) == 1664
    assert data.catalog.title[data.catalog.ids.index("1")] == "Toy Story (1995)"
    log = data.interactions
    assert (data.users[log.user[2]], data.catalog.ids[log.item[2]], log.rating[2], log.time[2]) == (
        "22",
        "377",
        1,
        878887116,
    )
    assert data.problems == ()
