import numpy as np
import pytest

from mma_jax.config import base
from mma_jax.evaluation.bits import bits_table
from mma_jax.evaluation.experiment import Experiment
from mma_jax.features import images


def store(words):
    """Items tagged at random with these words."""

    def build(config, dataset, directory):
        embedding = images.unit(np.random.default_rng(0).normal(size=(len(dataset.catalog), len(words))))
        return images.assemble(embedding.astype(np.float32), np.eye(len(words)), words, {"unreadable": {}})

    return build


def test_tags_of_another_vocabulary_recover_nothing(tmp_path):
    config = base()
    config.world.n_items, config.world.n_users, config.images.encoder = 80, 100, "clip"
    made = Experiment(config, tmp_path, store(("person", "dog", "red", "car", "tree", "house", "sea")))
    rows = bits_table(made.world, made.dataset.catalog, made.view("test"))
    found = {row["attribute"]: row for row in rows if row["modality"] == "image"}
    assert set(found) == {"color", "shape"}
    assert (
        found["shape"]["recovered"] == pytest.approx(0) and found["shape"]["bits"] > 1
    )  # "red" is the only word of the world
