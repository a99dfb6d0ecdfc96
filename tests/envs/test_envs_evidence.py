import numpy as np
import pytest
from doubles import NEIGHBORS, GraphDouble, ImageDouble, TextDouble, case, evidence, search_graph
from hypothesis import given
from hypothesis import strategies as st

from mma_jax.envs.evidence import Evidence, clean, cut


@pytest.mark.parametrize(
    ("hostile", "tame"),
    [
        ('a\nb\t c\r\n\u2028d\x00\x1b[31m "q" {"tool":1}', 'a b c d [31m "q" {"tool":1}'),
        ("x<|eot_id|>y", "x y"),
        ("<<|a|>|eot_id|>", "< | eot_id| >"),
        ("<\u200b|eot_id|>", "< |eot_id| >"),
        ("<|", "< |"),
        ("\ud800 half", "half"),
        ("žluťoučký 中文 🎸", "žluťoučký 中文 🎸"),
    ],
)
def test_clean(hostile, tame):
    assert " ".join(clean(hostile).replace("|", " | ").split()) == " ".join(tame.replace("|", " | ").split())
    assert "<|" not in clean(hostile) and "|>" not in clean(hostile)


@given(st.text(alphabet=st.sampled_from("<|>a \n\u200b\u2028")))
def test_clean_leaves_one_line_without_markers(text):
    cleaned = clean(text)
    assert cleaned.isprintable() and "<|" not in cleaned and "|>" not in cleaned
    assert clean(cleaned) == cleaned


def test_cut_ends_with_a_word():
    assert cut("one two three", 8) == "one two"
    assert cut("one two three", 7) == "one two"
    assert cut("one two", 7) == "one two"
    assert cut("abcdefgh", 3) == "abc"
    assert cut("one two", 0) == ""


def test_history_is_no_neighbour_of_itself():
    found = evidence().neighbors(np.array([0, 2], np.int32))
    assert found.tolist() == [1, 6]  # the search gives 0 2 1 6


def test_ten_neighbours_at_most_however_long_the_history():
    history = np.arange(50, dtype=np.int32)
    everything = Evidence(graph=GraphDouble(), search_graph=lambda _, k: np.arange(k, dtype=np.int32))
    assert everything.neighbors(history).tolist() == list(range(50, 60))


def test_links_against_a_loop():
    pool, items = np.array([3, 1, 4, 6, 0]), np.array([0, 2, 5, 7])
    linked = evidence().linked(items, pool)
    for k, i in enumerate(items):
        for j, c in enumerate(pool):
            assert linked[k, j] == (i == c or c in NEIGHBORS[i] or i in NEIGHBORS[c])


def test_a_modality_the_dataset_lacks_is_not_observed():
    for stores, expected in ((Evidence(), (0, 0, 0)), (Evidence(TextDouble(), ImageDouble()), (1, 1, 0))):
        assert tuple(stores.observes(case(), m) for m in ("text", "image", "behavior")) == expected
    assert not evidence().observes(case(mask=(False, True, True)), "text")


def test_profiles_are_computed_once_per_history():
    calls = []

    def count(history, k):
        calls.append(history.tolist())
        return search_graph(history, k)

    stores = Evidence(graph=GraphDouble(), search_graph=count)
    for history in ([0], [0], [1], [0]):
        stores.neighbors(np.array(history, np.int32))
    assert calls == [[0], [1]]
