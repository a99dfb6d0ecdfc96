"""RecBole atomic files: NAME.inter, optionally NAME.item and images/.

Tab-separated UTF-8 with a typed header (https://recbole.io/docs/user_guide/data/atomic_files.html).
Columns may come in any order and unknown ones are ignored.

    NAME.inter   user_id:token item_id:token [rating:float] [timestamp:float | position:float] [split:token]
    NAME.item    item_id:token [title:token_seq] [categories:token_seq] [description:token_seq] [brand:token]
    images/      ITEM_ID.{jpg,jpeg,png,webp}, or ITEM_ID/* for several

`position` orders a user's interactions where there is no clock; `split` is train, valid or test.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from glob import escape
from itertools import compress
from pathlib import Path

import numpy as np

from mma_jax.data.images import find_images
from mma_jax.data.records import TEXT_FIELDS, BadRecords, find, number, repeats
from mma_jax.types import TEST, TRAIN, VALID, Catalog, Dataset, InputError, Interactions

SPLITS = {"train": TRAIN, "valid": VALID, "test": TEST}


def load(root: str, name: str) -> Dataset:
    """Reads root/name/name.inter (or root/name.inter) and what lies beside it.

    Users and items are numbered in order of first appearance in .inter; items known only from .item
    follow. An empty rating is nan. Bad lines are counted in `problems`.

    Raises:
      InputError: a missing folder or .inter, an empty or non-UTF-8 file, a header without its id
        columns, or more bad lines than `records.REFUSE_SHARE` and `records.REFUSE_COUNT` allow.
    """
    (inter_path,) = find(root, name, escape(f"{name}.inter"))
    inter = _read_table(inter_path, ("user_id", "item_id"))
    rating, time, order, given_split = _check_values(inter)
    inter.refuse_bad()
    if not inter.good.any():
        raise InputError(f"{inter_path}: holds no interaction; check that this is the right file")

    item_path = inter_path.with_suffix(".item")
    item = _read_table(item_path, ("item_id",)) if item_path.exists() else None
    if item:
        item.refuse_bad()
    item_rows = item.column("item_id") if item else []

    user, users = number(inter.column("user_id"))
    consumed = inter.column("item_id")
    codes, ids = number([*consumed, *item_rows])
    interactions = Interactions(user, codes[: len(consumed)], rating, time, order, given_split)
    texts, text_problems = _texts(item, codes[len(consumed) :], len(ids))
    images, image_problems = find_images(inter_path.parent / "images", ids)
    problems = [*inter.bad.problems(), *repeats(interactions.user, interactions.item)]
    problems += [*(item.bad.problems() if item else ()), *text_problems, *image_problems]
    return Dataset(name, interactions, Catalog(ids, **texts, images=images), users, tuple(problems))


@dataclasses.dataclass(eq=False)
class _Table:
    """A file's well-formed rows by column; `good` marks those whose values passed every check so far."""

    columns: dict[str, list[str]]
    lines: np.ndarray  # [R] line number of each row
    good: np.ndarray  # bool [R]
    bad: BadRecords
    total: int  # lines in the file, header aside

    def reject(self, wrong: np.ndarray, kind: str) -> None:
        self.bad.add(kind, self.lines[wrong & self.good])
        self.good &= ~wrong

    def column(self, name: str) -> list[str]:
        """The good rows' values."""
        return list(compress(self.columns[name], self.good))

    def refuse_bad(self) -> None:
        self.bad.refuse_too_many(self.total)


def _read_table(path: Path, ids: tuple[str, ...]) -> _Table:
    """Splits the file into columns; rejects lines of the wrong width and rows with an empty id."""
    header, *lines = _read_text(path).split("\n")
    names = [field.partition(":")[0] for field in header.split("\t")]
    if missing := [name for name in ids if name not in names]:
        raise InputError(f"{path}: the header lacks {missing[0]}; name that column {missing[0]}:token")
    if len(set(names)) < len(names):
        raise InputError(f"{path}: the header names a column twice; remove one")

    fits = np.array([line.count("\t") == len(names) - 1 for line in lines], bool)
    fitting = list(compress(lines, fits))
    # One split over all lines: a list per line would keep the garbage collector busy for half the load.
    cells = "\t".join(fitting).split("\t") if fitting else []
    columns = {name: cells[i :: len(names)] for i, name in enumerate(names)}
    bad = BadRecords(path)
    bad.add(f"not {len(names)} fields", np.flatnonzero(~fits) + 2)
    table = _Table(columns, np.flatnonzero(fits) + 2, np.ones(len(fitting), bool), bad, len(lines))
    for name in ids:
        table.reject(np.array([not value.strip() for value in table.columns[name]], bool), f"empty {name}")
    return table


def _read_text(path: Path) -> str:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start}; convert the file") from error
    text = text.replace("\r\n", "\n").rstrip("\n")
    if not text:
        raise InputError(f"{path}: the file is empty; it needs a header and one record a line")
    return text


def _check_values(inter: _Table) -> tuple[np.ndarray, np.ndarray, str, np.ndarray | None]:
    """Rating, time, order and given split of the good rows; rows with unusable values are rejected."""
    absent = np.full(len(inter.lines), np.nan)
    rating = time = absent
    order = "none"
    if "rating" in inter.columns:
        rating = _numbers([value or "nan" for value in inter.columns["rating"]])
        inter.reject(np.isinf(rating), "rating is not a number")
    for name in ("position", "timestamp"):  # the clock wins where a file has both
        if name in inter.columns:
            order = name
    if order != "none":
        time = _numbers(inter.columns[order])
        inter.reject(~np.isfinite(time), f"{order} is not a number")
    given_split = None
    if "split" in inter.columns:
        given_split = np.array([SPLITS.get(value, -1) for value in inter.columns["split"]], np.int8)
        inter.reject(given_split < 0, f"split is not one of {', '.join(SPLITS)}")
        given_split = given_split[inter.good]
    return rating[inter.good].astype(np.float32), time[inter.good], order, given_split


def _numbers(texts: Sequence[str]) -> np.ndarray:
    """float64 [N]; inf stands for what is not a number."""
    try:
        return np.array(texts, np.float64)
    except ValueError:  # some text is not a number: find it the slow way
        return np.array([_number(text) for text in texts])


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return np.inf


def _texts(item: _Table | None, codes: np.ndarray, n_items: int) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """The catalog's text columns, '' where .item says nothing, and the problems. `codes` [R] are the rows' items."""
    if item is None:
        return dict.fromkeys(TEXT_FIELDS, ("",) * n_items), []
    listed, first = np.unique(codes, return_index=True)
    texts = {}
    for field in TEXT_FIELDS:
        values = [""] * n_items
        if field in item.columns:
            column = item.column(field)
            for code, row in zip(listed.tolist(), first.tolist(), strict=True):
                values[code] = column[row].strip()
        texts[field] = tuple(values)
    problems = []
    if absent := n_items - len(listed):
        problems.append(f"{absent:,} items are absent from {item.bad.path.name}; kept without text")
    if repeated := len(codes) - len(listed):
        problems.append(f"{repeated:,} lines of {item.bad.path.name} repeat an item; the first one counts")
    return texts, problems
