"""Text evidence: tokens, what a history says about its user, and what must not leak into idf."""

import collections
import math
import re
import time
import unicodedata

import numpy as np
import pytest

from mma_jax.features import text
from mma_jax.types import Catalog, InputError


def make_catalog(rows):
    """rows of (title, categories, description, brand)."""
    titles, categories, descriptions, brands = zip(*rows, strict=True)
    ids = tuple(str(i) for i in range(len(rows)))
    return Catalog(ids, titles, categories, descriptions, brands, ((),) * len(rows))


ROWS = [
    ("Red nail polish", "Beauty > Nails", "A red lacquer", "OPI"),
    ("Blue nail polish polish", "Beauty > Nails", "", "OPI"),
    ("Green shampoo", "Beauty > Hair", "Shampoo for dry hair", ""),
    ("", "", "", ""),
    ("Blue comb", "Beauty > Hair", "", ""),
    ("Unsold red curio", "", "", ""),
]
TRAIN = np.array([1, 1, 1, 0, 1, 0], bool)


@pytest.fixture
def store():
    return text.build(make_catalog(ROWS), TRAIN)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("The Café's 2-in-1 SHAMPOO!", ["café", "2", "1", "shampoo"]),
        ("Cafe\u0301 snake_case", ["café", "snake", "case"]),
        ("Война и мир 戦争", ["война", "и", "мир", "戦争"]),
        ("", []),
        ("of the \t\n --- ", []),
        ("हिन्दी किताब", ["हिन्दी", "किताब"]),
        ("தமிழ் நூல்", ["தமிழ்", "நூல்"]),
        ("น้ำหอม กลิ่น", ["น้ําหอม", "กลิ่น"]),  # NFKC takes sara am apart
        ("مُحَمَّد", ["مُحَمَّد"]),
        ("İstanbul istanbul ISTANBUL", ["istanbul"] * 3),
        ("за\u0301мок \u0301 ключ", ["за\u0301мок", "ключ"]),
        ("Nail 2\ufe0f\u20e3 \u2764\ufe0f polish", ["nail", "2", "polish"]),  # an emoji's marks are none of a word
        ("日本語の本・テスト 猫", ["日本", "本語", "語の", "の本", "テス", "スト", "猫"]),
        ("iPhone15ケースV2", ["iphone15", "ケー", "ース", "v2"]),
        ("한국어 책", ["한국어", "책"]),  # Korean has blanks
        ("𠮷野家", ["𠮷野", "野家"]),
    ],
)
def test_tokenize(given, expected):
    assert text.tokenize(given) == expected


def test_scripts_without_marks_of_their_own_are_runs_of_letters_and_digits():
    """In Latin, Greek and Cyrillic nothing but these makes a word, whatever stands between them."""
    letters = [chr(code) for code in (*range(0x20, 0x300), *range(0x370, 0x483), *range(0x1E00, 0x2190))]
    drawn = np.random.default_rng(0).choice([c for c in letters if c != "İ"], (200, 40))
    for line in map("".join, drawn.tolist()):
        plain = unicodedata.normalize("NFKC", line).lower()
        if not any(map(unicodedata.combining, plain)):
            assert text.tokenize(line) == [w for w in re.findall(r"[^\W_]+", plain) if w not in text.STOP_WORDS]


def test_has_and_documents(store):
    np.testing.assert_array_equal(store.has, [True, True, True, False, True, True])
    assert store.documents[0] == ["red", "nail", "polish", "beauty", "nails", "opi", "red", "lacquer"]
    assert store.documents[1] == ["blue", "nail", "polish", "polish", "beauty", "nails", "opi"]
    assert store.documents[3] == []


def test_item_leaves_out_absent_fields(store):
    assert store.item(1) == {"title": "Blue nail polish polish", "category": "Beauty > Nails", "brand": "OPI"}
    assert store.item(3) == {}


@pytest.mark.parametrize("length", [159, 160, 161, 400])
def test_description_is_cut_at_a_word(length):
    sentence = ("lavender " * 60)[:length].rstrip() + "." * (length - len(("lavender " * 60)[:length].rstrip()))
    shown = text.build(make_catalog([("", "", sentence, "")]), np.ones(1, bool)).item(0)["description"]
    assert len(shown) <= 160
    if length <= 160:
        assert shown == sentence
    else:
        assert shown == " ".join(["lavender"] * 17) + "…"


def test_one_endless_word_is_cut_anyway():
    shown = text.build(make_catalog([("", "", "x" * 500, "")]), np.ones(1, bool)).item(0)["description"]
    assert shown == "x" * 159 + "…"


def test_idf_counts_training_items_only(store):
    ids = {word: row for row, word in enumerate(store.vocabulary)}
    title = store.idf[text.FIELDS.index("title")]
    assert title[ids["nail"]] == pytest.approx(math.log(5 / 3))  # 4 training items, 2 with it
    assert title[ids["polish"]] == pytest.approx(math.log(5 / 3))  # twice in one title counts once
    assert title[ids["red"]] == 0  # one training item; the unsold one does not count
    assert title[ids["curio"]] == 0
    assert store.idf[text.FIELDS.index("category")][ids["beauty"]] == 0  # every training item
    assert store.idf[text.FIELDS.index("category")][ids["nails"]] == pytest.approx(math.log(5 / 3))


def test_unsold_items_cannot_change_a_profile():
    changed = [*ROWS[:5], ("nail nail blue shampoo", "Beauty > Nails", "red red", "OPI")]
    history = np.array([0, 1, 2, 4], np.int32)
    before = text.build(make_catalog(ROWS), TRAIN).profile(history)
    assert before == text.build(make_catalog(changed), TRAIN).profile(history)


def test_profile_counts_items_and_orders_by_tfidf(store):
    profile = store.profile(np.array([0, 1, 4], np.int32))
    # title: blue, nail, polish in 2 items each with equal idf (alphabetical), then words too rare to weigh.
    assert list(profile["title"].items()) == [("blue", 2), ("nail", 2), ("polish", 2), ("comb", 1), ("red", 1)]
    assert list(profile["category"].items()) == [("nails", 2), ("hair", 1), ("beauty", 3)]
    assert profile["description"] == {"lacquer": 1, "red": 1}
    assert store.profile(np.zeros(0, np.int32)) == {}
    assert store.profile(np.array([3], np.int32)) == {}


def test_profile_agrees_with_a_plain_count():
    rng = np.random.default_rng(0)
    words = [f"w{i}" for i in range(40)]
    rows = [tuple(" ".join(rng.choice(words, rng.integers(0, 9))) for _ in range(4)) for _ in range(60)]
    train = rng.random(60) < 0.7
    store = text.build(make_catalog(rows), train)
    columns = {"title": 0, "category": 1, "description": 2}
    for _ in range(20):
        history = rng.integers(60, size=rng.integers(1, 25)).astype(np.int32)
        expected = {}
        for field, size in text.PROFILE_WORDS.items():
            sets = [set(row[columns[field]].split()) for row in rows]
            df = collections.Counter(word for words, seen in zip(sets, train, strict=True) if seen for word in words)
            counts = collections.Counter(word for item in history for word in sets[item])
            weight = {w: c * math.log((train.sum() + 1) / (df[w] + 1)) * (df[w] >= 2) for w, c in counts.items()}
            best = sorted(counts, key=lambda word, weight=weight: (-round(weight[word], 9), word))[:size]
            if best:
                expected[field] = {word: counts[word] for word in best}
        assert store.profile(history) == expected


def test_query_takes_recent_items_without_their_descriptions():
    rows = [("first", "", "", ""), ("second title", "cat", "long story", "brand"), ("", "", "only story", "")]
    store = text.build(make_catalog(rows), np.ones(3, bool))
    history = np.array([0, 1, 1, 2], np.int32)
    second = ["second", "title", "cat", "brand"]
    assert store.query(history) == ["first", *second, *second, "only", "story"]
    assert store.query(history, max_items=2) == [*second, "only", "story"]
    assert store.query(history[:0]) == []


def test_common_words_are_those_of_most_items_then_of_earlier_fields(store):
    # blue, nail, polish, opi, nails, hair, beauty and red are in several items; curio, comb, green, unsold in one title
    words = store.common()
    assert words[0] == "beauty"  # in four items; red is in a title and a description of one item: it counts once
    assert words[1:6] == ["blue", "nail", "polish", "red", "hair"]  # titles' first, in order of the alphabet
    assert words[6:8] == ["nails", "opi"] and set(words[8:13]) == {"comb", "curio", "green", "shampoo", "unsold"}
    assert sorted(words) == store.vocabulary


def test_saved_store_is_the_same(store, tmp_path):
    store.save(tmp_path / "text")
    store.save(tmp_path / "text")  # replaces
    loaded = text.load(tmp_path / "text")
    history = np.array([0, 1, 2, 4], np.int32)
    assert loaded.documents == store.documents
    assert loaded.profile(history) == store.profile(history)
    assert [loaded.item(i) for i in range(6)] == [store.item(i) for i in range(6)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text"]


def test_missing_store_is_a_user_error(tmp_path):
    with pytest.raises(InputError, match="no evidence store"):
        text.load(tmp_path / "nowhere")


@pytest.mark.parametrize("row", [("", "", "", ""), ("the of", "", "...", "")])
def test_catalog_without_words(row):
    store = text.build(make_catalog([row, row]), np.ones(2, bool))
    assert not store.has.any()
    assert store.profile(np.array([0, 1])) == {}
    assert store.documents == [[], []]


def test_profile_is_fast():
    rng = np.random.default_rng(0)
    words = np.array([f"w{i}" for i in range(5000)])
    rows = [tuple(" ".join(rng.choice(words, n)) for n in (6, 5, 40, 1)) for _ in range(300)]
    store = text.build(make_catalog(rows), np.ones(300, bool))
    histories = rng.integers(300, size=(100, 20)).astype(np.int32)
    # 0.2 ms is usual; three times the allowance of 0.3 ms spares busy machines and still catches a slip to Python.
    start = time.process_time()
    for history in histories:
        store.profile(history)
    assert (time.process_time() - start) / len(histories) < 0.9e-3
