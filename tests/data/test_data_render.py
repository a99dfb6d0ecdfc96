import itertools

import numpy as np
import pytest

from mma_jax.data import render

ALL = [
    dict(zip(render.ATTRIBUTES, row, strict=True)) for row in itertools.product(range(8), range(8), range(4), range(4))
]


def draw(seed=0, **values):
    named = {name: render.ATTRIBUTES[name].index(word) for name, word in values.items()}
    return np.asarray(render.render(named, np.random.default_rng(seed)), float)


def cover(image, color):
    """Share of pixels that are near a word's color."""
    return (np.abs(image - render.RGB[color]).max(axis=2) < 45).mean()


def test_words_are_distinct_and_have_a_color():
    words = [word for words in render.ATTRIBUTES.values() for word in words]
    assert len(words) == len(set(words)) == 24
    assert set(render.RGB) == {*render.ATTRIBUTES["color"], *render.ATTRIBUTES["background"]}


def test_same_generator_state_same_image_and_jitter_otherwise():
    values = dict(color="red", shape="star", pattern="plain", background="sky")
    assert np.array_equal(draw(1, **values), draw(1, **values))
    assert np.abs(draw(1, **values) - draw(2, **values)).mean() > 5


@pytest.mark.parametrize("color", render.ATTRIBUTES["color"])
@pytest.mark.parametrize("background", render.ATTRIBUTES["background"])
def test_color_and_background_are_what_is_said(color, background):
    image = draw(3, color=color, shape="square", pattern="plain", background=background)
    assert cover(image, color) > 0.2
    corners = image[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert (np.abs(corners - render.RGB[background]) < 45).all()


def test_every_combination_shows_shape_and_background():
    for values in ALL[:: len(ALL) // 100]:
        words = {name: render.ATTRIBUTES[name][value] for name, value in values.items()}
        image = draw(4, **words)
        assert 0.04 < cover(image, words["color"]) < 0.7, words
        assert cover(image, words["background"]) > 0.2, words


def test_patterns_cut_holes():
    covers = {
        pattern: np.mean(
            [
                cover(draw(seed, color="red", shape="square", pattern=pattern, background="black"), "red")
                for seed in range(9)
            ]
        )
        for pattern in render.ATTRIBUTES["pattern"]
    }
    assert all(covers[pattern] < 0.8 * covers["plain"] for pattern in ("striped", "dotted", "checked"))


def test_shapes_differ_beyond_jitter():
    """With clean, centered averages over many drawings, each drawing lies nearest its own shape's average."""

    def mask(shape, seed):
        image = draw(seed, color="red", shape=shape, pattern="plain", background="black")[..., 0] > 110
        rows, columns = np.nonzero(image)
        box = image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].astype(float)
        pick = [np.linspace(0, side - 1, 16).round().astype(int) for side in box.shape]
        return box[np.ix_(*pick)]

    shapes = render.ATTRIBUTES["shape"]
    means = np.stack([np.mean([mask(shape, seed) for seed in range(20)], axis=0) for shape in shapes])
    guesses = [
        np.argmin(((means - mask(shape, seed)) ** 2).sum((1, 2))) == row
        for row, shape in enumerate(shapes)
        for seed in range(100, 110)
    ]
    assert np.mean(guesses) > 0.95


def test_attributes_left_out_are_random():
    greens = [
        cover(np.asarray(render.render({"shape": 1}, np.random.default_rng(s)), float), "green") for s in range(60)
    ]
    assert 2 <= sum(share > 0.1 for share in greens) <= 20


def test_bad_values_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="unknown attributes"):
        render.render({"size": 1}, rng)
    with pytest.raises(ValueError, match=r"color=8: expected 0\.\.7"):
        render.render({"color": 8}, rng)


def test_size_and_mode():
    image = render.render({}, np.random.default_rng(0), size=64)
    assert image.size == (64, 64) and image.mode == "RGB"


@pytest.mark.parametrize(
    ("words", "caption"),
    [
        (dict(color="red", shape="circle", pattern="striped", background="white"), "a red striped circle on white"),
        (dict(background="sky"), "a thing on sky"),
        (dict(pattern="dotted", shape="moon"), "a dotted moon"),
        (dict(color="blue"), "a blue thing"),
    ],
)
def test_captions(words, caption):
    assert render.caption(words) == caption
