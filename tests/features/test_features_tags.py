import numpy as np
import pytest

from mma_jax.features import tags


def test_vocabularies_are_fixed_and_without_repetition():
    assert 150 <= len(tags.GENERAL) <= 250 and len(set(tags.GENERAL)) == len(tags.GENERAL)
    assert len(tags.MOVIE_GENRES) == len(set(tags.MOVIE_GENRES)) == 18
    assert all(word.isalpha() and word.islower() for word in tags.GENERAL)


@pytest.mark.parametrize("vocabulary", sorted(tags.TEMPLATES))
def test_prompts_fill_every_template(vocabulary):
    found = tags.prompts(vocabulary, ("Sci-Fi", "War"))
    assert [len(group) for group in found] == [len(tags.TEMPLATES[vocabulary])] * 2
    assert all("sci-fi" in prompt for prompt in found[0]) and all("war" in prompt for prompt in found[1])


def test_embedding_is_the_normalized_mean_of_a_words_prompts():
    known = {"a": [1, 0, 0], "b": [0, 1, 0], "c": [0, 0, 1]}
    found = tags.embed([["a", "b"], ["c"], ["a", "a", "b"]], lambda texts: np.array([known[text] for text in texts]))
    expected = np.array([[1, 1, 0] / np.sqrt(2), [0, 0, 1], [2, 1, 0] / np.sqrt(5)])
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found.dtype == np.float32
