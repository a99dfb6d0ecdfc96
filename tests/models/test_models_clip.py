import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from mma_jax.models import clip

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def model():
    return clip.Clip(clip.TINY, nnx.Rngs(0))


def test_embeddings_have_length_one(model):
    images = RNG.normal(size=(3, 48, 48, 3)).astype(np.float32)
    tokens = np.array([[2, 5, 31, 0, 0, 0, 0, 0, 0, 0]], np.int32)
    for rows in (model.encode_image(images), model.encode_text(tokens)):
        assert rows.shape[1] == 64 and rows.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)


def test_text_is_read_at_the_first_end_token(model):
    base = np.array([2, 5, 6, 31, 0, 0, 0, 0, 0, 0], np.int32)
    padding, word = base.copy(), base.copy()
    padding[4:] = [7, 31, 8, 9, 31, 3]
    word[1] = 7
    same, other, reference = model.encode_text(np.stack([padding, word, base]))
    np.testing.assert_allclose(same, reference, atol=1e-6)
    assert np.abs(other - reference).max() > 1e-3


def test_a_truncated_text_batch_gives_the_same(model):
    tokens = np.array([[2, 5, 6, 31, 0, 0, 0, 0, 0, 0]], np.int32)
    np.testing.assert_allclose(model.encode_text(tokens[:, :4]), model.encode_text(tokens), atol=1e-6)


def test_image_patches_keep_their_place(model):
    image = np.zeros((1, 48, 48, 3), np.float32)
    image[:, :8, :8] = 1
    assert np.abs(model.encode_image(image) - model.encode_image(image[:, ::-1])).max() > 1e-4


@pytest.mark.parametrize("activation", sorted(clip.ACTIVATIONS))
def test_activations_by_their_formulas(activation):
    from scipy.special import erf

    x = np.linspace(-4, 4, 41, dtype=np.float32)
    expected = {"quick_gelu": x / (1 + np.exp(-1.702 * x)), "gelu": x * (1 + erf(x / np.sqrt(2))) / 2}
    np.testing.assert_allclose(clip.ACTIVATIONS[activation](x), expected[activation], atol=1e-6)


VIT_L_14 = clip.ClipConfig(
    patch_size=14,
    vision_width=1024,
    vision_layers=24,
    vision_heads=16,
    vision_hidden=4096,
    text_width=768,
    text_heads=12,
    text_hidden=3072,
    embed_dim=768,
)


@pytest.mark.parametrize(("config", "millions"), [(VIT_L_14, 427.6), (clip.ClipConfig(), 151.3), (clip.TINY, 0.32)])
def test_towers_have_the_published_parameter_counts(config, millions):
    shapes = nnx.eval_shape(lambda: clip.Clip(config, nnx.Rngs(0)))
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(shapes)))
    assert count / 1e6 == pytest.approx(millions, abs=0.06)


def test_shortest_side_is_fitted_and_the_center_kept():
    config = dataclasses.replace(clip.TINY, image_size=10)
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = 255  # the middle third is exactly what a center crop keeps
    assert clip.pixels(Image.fromarray(wide), config)[:, 1:-1].min() > 250
    squashed = clip.pixels(Image.fromarray(wide), dataclasses.replace(config, resize_mode="squash"))
    assert squashed.shape == (10, 10, 3) and squashed[:, 0].max() < 50


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "CMYK"])
def test_every_mode_becomes_rgb(mode):
    assert clip.pixels(Image.new(mode, (70, 50)), clip.TINY).shape == (48, 48, 3)


def test_normalization():
    white = clip.normalize(clip.pixels(Image.new("RGB", (48, 48), "white"), clip.TINY), clip.TINY)
    np.testing.assert_allclose(white[0, 0], (1 - np.array(clip.TINY.mean)) / np.array(clip.TINY.std), rtol=1e-5)
    assert white.dtype == np.float32


def test_encoder_batches_equal_single_rows(model):
    tokenize = clip.WordTokenizer(tuple("abcdefghijklmnopqrstuvwxyzäö"), 10)
    assert tokenize.eot_token == 31 and tokenize.vocab_size == 32
    encoder = clip.Encoder(model, clip.TINY, tokenize)
    pictures = [Image.fromarray(RNG.integers(0, 256, (48, 48, 3), np.uint8)) for _ in range(66)]
    together = encoder.images(pictures)
    assert together.shape == (66, 64)
    np.testing.assert_allclose(encoder.images(pictures[65:])[0], together[65], atol=1e-6)
    arrays = np.stack([clip.pixels(picture, clip.TINY) for picture in pictures[:3]])
    direct = model.encode_image(clip.normalize(arrays, clip.TINY))
    np.testing.assert_allclose(together[:3], direct, atol=1e-5)
    np.testing.assert_allclose(encoder.texts(["a b"]), model.encode_text(tokenize(["a b"])), atol=1e-6)
    assert encoder.images([]).shape == (0, 64)


def test_word_tokenizer():
    tokenize = clip.WordTokenizer(("red", "star"), 5)
    tokens = tokenize(["Red star", "a red", "", "red red red red red"])
    assert tokens.dtype == np.int32
    assert tokens.tolist() == [[2, 3, 4, 5, 0], [2, 1, 3, 5, 0], [2, 5, 0, 0, 0], [2, 3, 3, 3, 5]]
