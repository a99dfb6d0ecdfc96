"""Draws the generated world's item images: one patterned shape on a background.

The drawing depends on four attributes only; where the shape lies, its size, its tilt, the shades and the
pixel noise are random, so that an encoder has to learn the words and cannot look pictures up.
A pattern is cut out of the shape (the background shows through) and never brings in a second color,
because a darker orange would be a brown.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "color": ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown"),
    "shape": ("circle", "square", "triangle", "star", "cross", "heart", "ring", "moon"),
    "pattern": ("plain", "striped", "dotted", "checked"),
    "background": ("white", "black", "sand", "sky"),
}
"""The words of each attribute; a value is the index of its word. No word occurs twice."""

RGB: dict[str, tuple[int, int, int]] = {
    "red": (215, 30, 35),
    "orange": (250, 135, 10),
    "yellow": (250, 225, 30),
    "green": (35, 150, 60),
    "blue": (30, 65, 200),
    "purple": (125, 40, 165),
    "pink": (250, 120, 190),
    "brown": (115, 65, 30),
    "white": (248, 248, 248),
    "black": (20, 20, 24),
    "sand": (222, 204, 160),
    "sky": (150, 205, 240),
}

_SUPERSAMPLING = 2  # each pixel is the mean of 2 x 2 samples, which smooths the edges
_RIM = 0.8  # the pattern fills the shape shrunk by this; the rim around it stays solid

_Region = Callable[[np.ndarray, np.ndarray], np.ndarray]  # (x, y) in shape coordinates, y downward -> inside?


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    tip = 2 * np.pi / 5
    angle = np.abs((np.arctan2(x, -y) + tip / 2) % tip - tip / 2)  # angle from the nearest tip, 0..pi/5
    inner = 0.42  # radius of the notches; the edge is the line from (tip, 1) to (notch, inner)
    along, across = np.hypot(x, y) * np.cos(angle), np.hypot(x, y) * np.sin(angle)
    notch_x, notch_y = inner * np.cos(tip / 2), inner * np.sin(tip / 2)
    return (along - 1) * notch_y - across * (notch_x - 1) <= 0


def _heart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    u, v = 1.2 * x, -1.2 * y + 0.1
    return (u**2 + v**2 - 1) ** 3 - u**2 * v**3 <= 0


_SHAPES: dict[str, _Region] = {
    "circle": lambda x, y: x**2 + y**2 <= 0.85**2,
    "square": lambda x, y: np.maximum(np.abs(x), np.abs(y)) <= 0.75,
    "triangle": lambda x, y: (y <= 0.65) & (2.0 * np.abs(x) <= y + 0.95),
    "star": _star,
    "cross": lambda x, y: (np.minimum(np.abs(x), np.abs(y)) <= 0.32) & (np.maximum(np.abs(x), np.abs(y)) <= 0.9),
    "heart": _heart,
    "ring": lambda x, y: (x**2 + y**2 <= 0.9**2) & (x**2 + y**2 >= 0.4**2),
    "moon": lambda x, y: (x**2 + y**2 <= 0.9**2) & ((x - 0.5) ** 2 + y**2 >= 0.58**2),
}

_HOLES: dict[str, _Region] = {
    "plain": lambda x, y: np.zeros_like(x, bool),
    "striped": lambda x, y: (x * 2.2) % 1.0 < 0.5,
    "dotted": lambda x, y: ((x * 2.3) % 1.0 - 0.5) ** 2 + ((y * 2.3) % 1.0 - 0.5) ** 2 < 0.34**2,
    "checked": lambda x, y: ((x * 2.0) % 1.0 < 0.5) ^ ((y * 2.0) % 1.0 < 0.5),
}


def render(values: dict[str, int], rng: np.random.Generator, size: int = 48) -> Image.Image:
    """Draws an item.

    Args:
      values: attribute -> index into `ATTRIBUTES[attribute]`; an attribute left out is drawn at random,
        so that the image says nothing about it.
      rng: place, scale, tilt, shades and noise; the same generator state gives the same image.
      size: width and height in pixels.

    Returns:
      An RGB image.

    Raises:
      ValueError: an unknown attribute, or an index outside its words.
    """
    words = _words(values, rng)
    x, y = _shape_coordinates(rng, size)
    inside = _SHAPES[words["shape"]](x, y)
    hole = _SHAPES[words["shape"]](x / _RIM, y / _RIM) & _HOLES[words["pattern"]](x, y)
    cover = _average(inside & ~hole, size)[..., None]
    pixels = cover * _shade(words["color"], rng) + (1 - cover) * _shade(words["background"], rng)
    pixels += rng.normal(0.0, 6.0, pixels.shape)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def caption(words: dict[str, str]) -> str:
    """The caption of any subset of the attributes, in one fixed order: "a red striped circle on white"."""
    looks = [words[attribute] for attribute in ("color", "pattern") if attribute in words]
    place = ["on", words["background"]] if "background" in words else []
    return " ".join(["a", *looks, words.get("shape", "thing"), *place])


def _words(values: dict[str, int], rng: np.random.Generator) -> dict[str, str]:
    if unknown := sorted(set(values) - set(ATTRIBUTES)):
        raise ValueError(f"unknown attributes {unknown}; known: {sorted(ATTRIBUTES)}")
    words = {}
    for attribute, names in ATTRIBUTES.items():
        value = int(values[attribute]) if attribute in values else int(rng.integers(len(names)))
        if not 0 <= value < len(names):
            raise ValueError(f"{attribute}={value}: expected 0..{len(names) - 1}")
        words[attribute] = names[value]
    return words


def _shape_coordinates(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Samples of the canvas in the shape's own frame: shifted, scaled, tilted by up to 10 degrees."""
    axis = (np.arange(size * _SUPERSAMPLING) + 0.5) / (size * _SUPERSAMPLING) * 2 - 1
    column, row = np.meshgrid(axis, axis)
    scale = rng.uniform(0.72, 0.95)
    shift_x, shift_y = rng.uniform(-1, 1, 2) * (1 - scale)
    tilt = np.deg2rad(rng.uniform(-10, 10))
    column, row = (column - shift_x) / scale, (row - shift_y) / scale
    return column * np.cos(tilt) + row * np.sin(tilt), row * np.cos(tilt) - column * np.sin(tilt)


def _average(mask: np.ndarray, size: int) -> np.ndarray:
    return mask.reshape(size, _SUPERSAMPLING, size, _SUPERSAMPLING).mean((1, 3))


def _shade(word: str, rng: np.random.Generator) -> np.ndarray:
    """The word's color, each channel off by a few levels."""
    return np.asarray(RGB[word], float) + rng.uniform(-12, 12, 3)
