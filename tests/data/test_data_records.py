from pathlib import Path

import numpy as np
import pytest

from mma_jax.data.records import BadRecords, find, number, repeats
from mma_jax.types import InputError


def test_number_codes_by_first_appearance():
    codes, names = number(["b", "a", "b", "c", "a"])
    assert names == ("b", "a", "c")
    assert codes.tolist() == [0, 1, 0, 2, 1]
    assert codes.dtype == np.int32


def test_repeats_counts_pairs_not_users_or_items():
    user = np.array([0, 0, 0, 1, 1], np.int32)
    item = np.array([5, 5, 6, 5, 0], np.int32)
    assert repeats(user, item) == ["1 interactions repeat an earlier (user, item) pair; kept"]
    assert repeats(user[1:], item[1:]) == []


def test_problem_lines_name_kind_file_count_and_first_lines():
    bad = BadRecords(Path("folder/x.inter"))
    bad.add("short", [9, 4, 7, 12])
    bad.add("odd", [5])
    bad.add("never", [])
    assert bad.problems() == ["4 bad in x.inter: short (lines 4, 7, 9, ...)", "1 bad in x.inter: odd (line 5)"]


@pytest.mark.parametrize(
    ("bad_lines", "total", "refused"),
    [(10, 12, False), (11, 1000, True), (11, 1099, True), (11, 1100, False), (50, 5000, False), (51, 5000, True)],
)
def test_refused_above_one_percent_and_ten_lines(bad_lines, total, refused):
    bad = BadRecords(Path("x.inter"))
    bad.add("short", range(1, bad_lines + 1))
    if refused:
        with pytest.raises(InputError, match=r"x\.inter: .* unreadable") as error:
            bad.refuse_too_many(total)
        assert "\n" not in str(error.value)
    else:
        bad.refuse_too_many(total)


def test_find_prefers_the_named_folder_and_falls_back_to_root(tmp_path):
    (tmp_path / "x.inter").touch()
    assert find(str(tmp_path), "x", "x.inter") == [tmp_path / "x.inter"]
    (tmp_path / "x").mkdir()
    assert find(str(tmp_path), "x", "x.inter") == [tmp_path / "x.inter"]
    (tmp_path / "x" / "x.inter").touch()
    assert find(str(tmp_path), "x", "x.inter") == [tmp_path / "x" / "x.inter"]


def test_find_tells_a_missing_folder_from_a_missing_file(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        find(str(tmp_path / "nowhere"), "x", "x.inter")
    with pytest.raises(InputError, match=r"no x\.inter in x/"):
        find(str(tmp_path), "x", "x.inter")
