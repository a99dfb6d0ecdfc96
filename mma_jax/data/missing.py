"""Which modalities an episode keeps, and which missingness families a dataset can realize.

What a mask hides (§3.1 of the MMA paper leaves it open):

missing    hides                                         keeps
text       item text, the text profile, BM25             titles of graph neighbors, as in the paper
                                                         (`env.graph_titles=False` shows handles)
image      images, tags, the visual profile
behavior   collaborative identity: graph, co-purchases,  the content of what the user consumed
           user and item-ID embeddings, popularity       (`data.max_history=0` hides that too)

Every method, baselines included, gets the same masks in training and test. An item that lacks its own
text or image answers so for that item alone; a mask hides a modality for the whole episode.
"""

from __future__ import annotations

from operator import and_

from mma_jax.types import FAMILIES, Mask


def realizable(presence: Mask) -> tuple[str, ...]:
    """Names of the families (Table 1 of the MMA paper) that need no modality the dataset lacks.

    `presence` says which of (text, image, behavior) the dataset has. (True, False, True), a dataset
    without images, can realize no_image, text_only and behavior_only; the other cells stay empty.
    """
    lacks = [not has for has in presence]
    return tuple(name for name, mask in FAMILIES.items() if not any(map(and_, mask, lacks)))
