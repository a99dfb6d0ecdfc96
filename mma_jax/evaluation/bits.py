"""Does the generated world's evidence carry what its knobs promise? Bits per modality and attribute, beside the exact
capacity of the channel (DESIGN §7)."""

from __future__ import annotations

import numpy as np
from scipy.cluster.vq import kmeans2

from mma_jax.data import generated, render
from mma_jax.data.world import World, recovered_bits
from mma_jax.evaluation.views import View
from mma_jax.types import MODALITIES, Catalog


def bits_table(world: World, catalog: Catalog, view: View) -> list[dict]:
    """Rows {"modality", "attribute", "bits", "recovered"}: what the knobs say, and what real evidence yields.

    Recovered from the words of the text, from the tags of the image encoder, and from communities of the graph
    embedding (k-means, one cluster for each combination of behaviour values).
    """
    promised = world.bits()
    read = {"text": _from_text, "image": _from_tags, "behavior": _from_graph}
    rows = []
    for present, modality in zip(view.presence, MODALITIES, strict=True):
        if not present:
            continue
        found = read[modality](world, catalog, view)
        for name, bits in promised[modality].items():
            column = [attribute.name for attribute in world.config.attributes].index(name)
            recovered = recovered_bits(world.latents[:, column], found[name])
            rows.append({"modality": modality, "attribute": name, "bits": bits, "recovered": recovered})
    return rows


def _from_text(world: World, catalog: Catalog, view: View) -> dict[str, np.ndarray]:
    return generated.read_words(world.config, catalog)


def _from_tags(world: World, catalog: Catalog, view: View) -> dict[str, np.ndarray]:
    """The best-ranked tag among the words of each attribute, -1 where none made the top five, or where the tags are of
    a vocabulary without them."""
    place = {word: n for n, word in enumerate(view.image.vocabulary)}
    found = {}
    for name, drawn in generated.drawn_as(world.config).items():
        value_of = np.full(len(place) + 1, -1)  # the last row serves tag -1
        for value, word in enumerate(render.ATTRIBUTES[drawn]):
            if word in place:
                value_of[place[word]] = value
        values = value_of[view.image.tag_ids]
        best = np.argmax(values >= 0, axis=1)
        found[name] = np.take_along_axis(values, best[:, None], axis=1)[:, 0]
    return found


def _from_graph(world: World, catalog: Catalog, view: View) -> dict[str, np.ndarray]:
    names = [world.config.attributes[column].name for column in world.config.shown_by("behavior")]
    kinds = len(np.unique(world.shown["behavior"], axis=0))
    vectors = np.asarray(view.graph.embedding, float)
    vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    _, community = kmeans2(vectors[:, :kinds], kinds, minit="++", seed=0)
    return dict.fromkeys(names, community)
