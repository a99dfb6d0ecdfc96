import dataclasses

import jax
import numpy as np
import optax
import pytest
from flax import nnx
from jax.scipy.special import logsumexp

from mma_jax.learning import contrastive
from mma_jax.models import clip

RNG = np.random.default_rng(0)
SHAPE = dataclasses.replace(
    clip.TINY, image_size=16, vision_layers=1, text_layers=1, vocab_size=7, eot_token=6, context_length=3, embed_dim=16
)
TEXTS = np.array([[2, 3, 6], [2, 4, 6], [2, 5, 6]], np.int32)


def test_identity_is_clips_own_loss():
    similarity = RNG.normal(size=(5, 5)).astype(np.float32)
    rows = optax.softmax_cross_entropy_with_integer_labels(similarity, np.arange(5)).mean()
    columns = optax.softmax_cross_entropy_with_integer_labels(similarity.T, np.arange(5)).mean()
    found = contrastive.info_nce(similarity, np.eye(5, dtype=bool))
    np.testing.assert_allclose(found, (rows + columns) / 2, rtol=1e-6)


def test_several_positives_by_hand():
    """Images 0 and 1 share text 0; image 2 has no true text and text 2 no image: both count as negatives only."""
    similarity = RNG.normal(size=(3, 3)).astype(np.float32)
    positive = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0]], bool)
    by_row = similarity - logsumexp(similarity, axis=1, keepdims=True)
    by_column = similarity - logsumexp(similarity, axis=0, keepdims=True)
    rows = -(by_row[0, 0] + (by_row[1, 0] + by_row[1, 1]) / 2) / 2
    columns = -((by_column[0, 0] + by_column[1, 0]) / 2 + by_column[1, 1]) / 2
    np.testing.assert_allclose(contrastive.info_nce(similarity, positive), (rows + columns) / 2, rtol=1e-6)


def test_true_pairs_are_not_pushed_apart():
    positive = np.array([[1, 1, 0], [1, 1, 0], [0, 0, 1]], bool)
    optimum = np.where(positive, 0.0, -30.0).astype(np.float32)
    gradient = jax.grad(contrastive.info_nce)(optimum, positive)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


def colored(count):
    """Images that are red, green or blue with noise, and which of three texts is true."""
    color = RNG.integers(3, size=count)
    images = RNG.integers(0, 120, (count, 16, 16, 3))
    images[np.arange(count), :, :, color] += 120
    return images.astype(np.uint8), np.eye(3, dtype=bool)[color]


@pytest.mark.parametrize("train_text", [True, False])
def test_colors_are_learned(train_text):
    images, truth = colored(256)
    recipe = contrastive.ContrastiveConfig(steps=40, batch_size=32, train_text=train_text, log_every=10, augment=True)
    start = clip.Clip(SHAPE, nnx.Rngs(0))
    before = start.encode_text(TEXTS)
    model, curve = contrastive.train(start, SHAPE, recipe, images, TEXTS, truth)
    assert [step for step, _ in curve] == [10, 20, 30, 40]
    assert curve[-1][1] < curve[0][1]
    new_images, new_truth = colored(60)
    scores = np.asarray(model.encode_image(clip.normalize(new_images, SHAPE)) @ model.encode_text(TEXTS).T)
    assert (scores.argmax(1) == new_truth.argmax(1)).mean() > 0.95
    np.testing.assert_array_equal(start.encode_text(TEXTS), before)
    assert np.array_equal(model.encode_text(TEXTS), before) != train_text


def test_two_runs_with_one_seed_agree():
    images, truth = colored(64)
    recipe = contrastive.ContrastiveConfig(steps=4, batch_size=16, log_every=1)
    curves = [
        contrastive.train(clip.Clip(SHAPE, nnx.Rngs(0)), SHAPE, recipe, images, TEXTS, truth)[1] for _ in range(2)
    ]
    assert curves[0] == curves[1] and len(curves[0]) == 4


def test_texts_are_drawn_among_the_true_ones():
    truth = RNG.random((40, 100)) < 0.1
    truth[:, 0] |= ~truth.any(1)
    drawn = contrastive._draw_texts(truth, RNG)
    assert truth[np.arange(40), drawn].all()
    assert len(set(drawn)) > 20
    assert contrastive._draw_texts(truth[:, :40], RNG).tolist() == list(range(40))


def test_an_image_without_a_true_text_is_refused():
    with pytest.raises(ValueError, match="1 images have no true text"):
        contrastive.train(
            clip.Clip(SHAPE, nnx.Rngs(0)),
            SHAPE,
            contrastive.ContrastiveConfig(steps=1),
            np.zeros((2, 16, 16, 3), np.uint8),
            TEXTS,
            np.array([[1, 0, 0], [0, 0, 0]], bool),
        )


def test_muon_takes_the_towers_matrices_only():
    state = nnx.state(clip.Clip(SHAPE, nnx.Rngs(0)))
    numbers = contrastive.matrices(state)
    leaves = jax.tree.leaves(numbers, is_leaf=lambda x: isinstance(x, optax.contrib.MuonDimensionNumbers))
    assert len(leaves) == 2 * 4 + 2  # four matrices in each of two blocks, two projections
    assert numbers["image"]["patch"]["kernel"].get_value() is None
    assert numbers["text"]["token"].get_value() is None


def test_augmentation_mirrors_shifts_and_keeps_range():
    images = np.broadcast_to(np.linspace(0, 255, 16)[None, None, :, None], (64, 16, 16, 3)).astype(np.uint8)
    changed = np.asarray(contrastive.augment(images, jax.random.key(0)))
    assert changed.shape == images.shape and changed.min() >= 0 and changed.max() <= 255
    falling = changed[:, 0, 0, 0] > changed[:, 0, -1, 0]
    assert 16 < falling.sum() < 48
    assert len(np.unique(changed.mean((1, 2, 3)).round(1))) > 40
