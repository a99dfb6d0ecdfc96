"""The fixed vocabularies from which an image's zero-shot tags are taken, and the prompts that carry them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

EncodeTexts = Callable[[list[str]], np.ndarray]
"""Strings -> float [n, D], unit rows."""

TEMPLATES: dict[str, tuple[str, ...]] = {
    "general": ("a photo of a {}", "a product photo of a {}", "{}"),
    "movie_genres": ("a poster of a {} movie", "a {} movie"),
    "world": ("a picture of a {} thing", "{}"),
}
"""Each word is put into every template of its vocabulary; its embedding is the normalized mean (CLIP §3.1.4)."""

MOVIE_GENRES = (
    "Action",
    "Adventure",
    "Animation",
    "Children",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
)
"""The 18 genres of MovieLens."""

_GENERAL = """
red orange yellow green blue purple pink brown black white gray beige gold silver turquoise
bright dark pastel colorful transparent shiny matte
striped dotted checked floral plain patterned printed embroidered
wood metal glass plastic leather cotton wool silk denim rubber ceramic paper stone fur lace
round square long short small large tall flat soft
shirt dress skirt trousers jacket coat sweater hat cap scarf gloves socks underwear swimsuit
shoe boot sandal sneaker bag backpack wallet belt watch ring necklace earrings bracelet sunglasses
bottle jar tube box can cup plate bowl spoon knife pan basket
cream lotion shampoo soap perfume lipstick mascara powder brush comb razor mirror nail hair skin face
baby child woman man girl boy family couple crowd
diaper stroller crib pacifier blanket pillow toy doll puzzle ball game
bicycle helmet tent rope rifle bow fishing golf tennis basketball football yoga dumbbell
bed chair table sofa lamp shelf curtain rug clock
book poster painting drawing cartoon photograph portrait logo text map
phone laptop camera headphones speaker keyboard cable battery
guitar piano drum violin microphone
car motorcycle boat airplane train
dog cat bird horse fish insect
flower tree grass fruit vegetable leaf
pizza burger sushi salad noodles sandwich steak dessert cake bread cheese coffee tea beer wine cocktail
restaurant bar cafe kitchen shop hotel office gym garden street
beach mountain forest lake city bridge church night sunset snow indoor outdoor
"""
GENERAL = tuple(_GENERAL.split())
"""Visual words for products, places and posters: colors, looks, materials, kinds of things, scenes."""


def prompts(vocabulary: str, words: tuple[str, ...]) -> list[list[str]]:
    """Each word, in lower case, in every template of a vocabulary."""
    return [[template.format(word.lower()) for template in TEMPLATES[vocabulary]] for word in words]


def embed(prompts_per_word: Sequence[Sequence[str]], encode_texts: EncodeTexts) -> np.ndarray:
    """Prompt ensembling: each word's unit mean embedding.

    Args:
      prompts_per_word: the prompts of each of V words, at least one each.
      encode_texts: the frozen encoder.

    Returns:
      float32 [V, D], unit rows.
    """
    encoded = np.asarray(encode_texts([prompt for group in prompts_per_word for prompt in group]), np.float32)
    starts = np.cumsum([0, *(len(group) for group in prompts_per_word)])[:-1]
    total = np.add.reduceat(encoded, starts, axis=0)
    return total / np.linalg.norm(total, axis=1, keepdims=True)
