"""Raw Amazon reviews of 2014 (McAuley et al., SIGIR 2015; https://jmcauley.ucsd.edu/data/amazon/).

    reviews*.json[.gz]   a review a line: reviewerID, asin, overall (1-5), unixReviewTime, reviewText, summary
    meta*.json[.gz]      optional, an item a line: asin, title, description, categories, brand, related
    images/ASIN.jpg      optional; nothing is downloaded, imUrl is not followed

Review text is not read: the review of a held-out interaction would then stand in its item's text, and the
target would announce itself. Items without metadata simply have no text.

`related.also_bought` becomes `Dataset.copurchases`. Amazon gathered it over all time, so it may know of
interactions that a split holds out; evidence that must be free of that builds its graph from interactions.
"""

from __future__ import annotations

import ast
import gzip
import html
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mma_jax.data.images import find_images
from mma_jax.data.records import BadRecords, find, number, repeats
from mma_jax.types import Catalog, Dataset, InputError, Interactions

ASIN = re.compile(r"""["']asin["']\s*:\s*["']([^"']+)["']""")


def load(root: str, name: str) -> Dataset:
    """Reads the one reviews*.json[.gz] in root/name (or root), and the one meta*.json[.gz] if there is one.

    Items are those reviewed, numbered like users in order of first appearance; metadata of other items
    is passed over. A review without `overall` has rating nan. Bad lines are counted in `problems`.

    Raises:
      InputError: no reviews file or several, a damaged gzip, or too many bad lines (see `records`).
    """
    reviews = find(root, name, "reviews*.json", "reviews*.json.gz")
    path = _only(reviews)
    folder = path.parent
    metas = sorted([*folder.glob("meta*.json"), *folder.glob("meta*.json.gz")])

    bad = BadRecords(path)
    user_names, item_names, rating, time = _read_reviews(path, bad)
    user, users = number(user_names)
    item, ids = number(item_names)
    interactions = Interactions(user, item, np.array(rating, np.float32), np.array(time, np.float64), "timestamp")

    meta, meta_problems = _read_meta(_only(metas), ids) if metas else ({}, [])
    images, image_problems = find_images(folder / "images", ids)
    records = [meta.get(asin, {}) for asin in ids]
    catalog = Catalog(
        ids,
        title=tuple(_text(record.get("title")) for record in records),
        categories=tuple(_categories(record.get("categories")) for record in records),
        description=tuple(_text(record.get("description")) for record in records),
        brand=tuple(_text(record.get("brand")) for record in records),
        images=images,
    )
    problems = (*bad.problems(), *repeats(user, item), *meta_problems, *image_problems)
    return Dataset(name, interactions, catalog, users, problems, _copurchases(records, ids))


def _only(paths: list[Path]) -> Path:
    if len(paths) > 1:
        found = ", ".join(path.name for path in paths)
        raise InputError(f"{paths[0].parent}: several files where one is expected ({found}); keep one per folder")
    return paths[0]


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number, line) of a plain or gzip file. Damaged bytes within a line become U+FFFD."""
    read = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for read, line in enumerate(tqdm(file, path.name, unit=" lines", disable=None), 1):
                yield read, line.decode("utf-8", "replace")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path}: damaged gzip after {read:,} lines ({error}); fetch the file again") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def _read_reviews(path: Path, bad: BadRecords) -> tuple[list[str], list[str], list[float], list[float]]:
    """User names, item names, ratings and unix seconds, a review each."""
    reviews = []
    line = 0
    for line, text in _lines(path):
        try:
            reviews.append(_review(json.loads(text)))
        except _BadReview as error:
            bad.add(str(error), [line])
        except (ValueError, RecursionError):
            bad.add("not JSON", [line])
    bad.refuse_too_many(line)
    if not reviews:
        raise InputError(f"{path}: holds no review; check that this is the right file")
    users, items, rating, time = map(list, zip(*reviews, strict=True))
    return users, items, rating, time


class _BadReview(Exception):
    """Says what a review lacks."""


def _review(record: object) -> tuple[str, str, float, float]:
    if not isinstance(record, dict):
        raise _BadReview("not a JSON object")
    for key in ("reviewerID", "asin"):
        if not isinstance(record.get(key), str) or not record[key].strip():
            raise _BadReview(f"no {key}")
    rating = _number(record["overall"]) if record.get("overall") is not None else np.nan
    time = _number(record.get("unixReviewTime"))
    if np.isinf(rating):
        raise _BadReview("overall is not a number")
    if not np.isfinite(time):
        raise _BadReview("unixReviewTime is not a number")
    return record["reviewerID"], record["asin"], rating, time


def _number(value: object) -> float:
    """inf stands for what is not a number."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return np.inf


def _read_meta(path: Path, ids: tuple[str, ...]) -> tuple[dict[str, dict], list[str]]:
    """Records by asin, of the items in `ids`, and the problems.

    The public files write Python literals, not JSON, and hold many times the reviewed items, so a line
    is parsed only if its asin is wanted.
    """
    wanted = set(ids)
    records: dict[str, dict] = {}
    bad = BadRecords(path)
    line = repeated = 0
    for line, text in _lines(path):
        asin = ASIN.search(text)
        if not asin:
            bad.add("no asin", [line])
        elif asin[1] in records:
            repeated += 1
        elif asin[1] in wanted:
            record = _literal(text)
            if isinstance(record, dict):
                records[asin[1]] = record
            else:
                bad.add("neither JSON nor a Python literal", [line])
    bad.refuse_too_many(line)
    problems = bad.problems()
    if absent := len(wanted) - len(records):
        problems.append(f"{absent:,} items are absent from {path.name}; kept without text")
    if repeated:
        problems.append(f"{repeated:,} lines of {path.name} repeat an item; the first one counts")
    return records, problems


def _literal(text: str) -> object:
    """What a line of JSON or a Python literal says, None where it is neither."""
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
    return None


def _text(value: object) -> str:
    """A metadata field as one line of plain text; '' for what is absent or no text."""
    parts = value if isinstance(value, list) else [value]
    text = " ".join(part for part in parts if isinstance(part, str))
    return " ".join(html.unescape(text).split())


def _categories(paths: object) -> str:
    """[["Beauty", "Nails"], ["Gifts"]] -> "Beauty > Nails; Gifts"."""
    if not isinstance(paths, list):
        return _text(paths)
    names = [" > ".join(filter(None, map(_text, path))) if isinstance(path, list) else _text(path) for path in paths]
    return "; ".join(filter(None, names))


def _copurchases(records: list[dict], ids: tuple[str, ...]) -> np.ndarray | None:
    """int32 [E, 2] distinct pairs (item, also bought), both in the catalog; None where there is none."""
    row = {asin: i for i, asin in enumerate(ids)}
    pairs = {
        (i, row[other])
        for i, record in enumerate(records)
        for other in _also_bought(record)
        if other in row and row[other] != i
    }
    return np.array(sorted(pairs), np.int32) if pairs else None


def _also_bought(record: dict) -> list[str]:
    related = record.get("related")
    listed = related.get("also_bought") if isinstance(related, dict) else None
    return [asin for asin in listed if isinstance(asin, str)] if isinstance(listed, list) else []
