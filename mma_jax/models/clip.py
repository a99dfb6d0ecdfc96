"""CLIP (Radford et al. 2021, arXiv:2103.00020): an image tower and a text tower that share one space.

The semantics are those of the public ViT checkpoints (open_clip, transformers), whose weights
`clip_convert` reads: pre-norm blocks, a norm before the first image block, the class token as the image,
a causal text tower pooled at the end-of-text token, projections without bias.
B = batch, T = tokens, W = width, D = embedding size, L = text length.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from PIL import Image

EPSILON = 1e-5  # of every layer norm
MAX_LOGIT_SCALE = float(np.log(100.0))  # CLIP §2.5: logits are never scaled by more than 100
_BATCH = 64  # images or texts encoded at once


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
}
RESIZE_MODES = ("shortest", "squash")
"""Shortest side to size and a center crop; or all of it to a square, nothing cut off."""


@dataclasses.dataclass(frozen=True)
class ClipConfig:
    """Shape of a CLIP. The defaults are ViT-B/32's, as are transformers' own.

    Raises:
      ValueError: no CLIP has these sizes, or a name or figure is none of those known.
    """

    image_size: int = 224
    patch_size: int = 32
    vision_width: int = 768
    vision_layers: int = 12
    vision_heads: int = 12
    vision_hidden: int = 3072  # width inside the MLP
    text_width: int = 512
    text_layers: int = 12
    text_heads: int = 8
    text_hidden: int = 2048
    context_length: int = 77
    vocab_size: int = 49408
    eot_token: int = 49407  # the text is read off at the first of these
    embed_dim: int = 512
    activation: str = "quick_gelu"  # or "gelu"
    resize_mode: str = "shortest"  # or "squash"
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)  # of pixels in [0, 1]
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)

    def __post_init__(self):
        for name, value in dataclasses.asdict(self).items():
            if isinstance(getattr(ClipConfig, name), int) and (type(value) is not int or value < 1):
                raise ValueError(f"{name} is {value!r}, expected a whole number from 1 on")
        for name, known in (("activation", ACTIVATIONS), ("resize_mode", RESIZE_MODES)):
            if (value := getattr(self, name)) not in known:
                raise ValueError(f"{name} is {value!r}; known: {', '.join(known)}")
        for name in ("mean", "std"):
            if np.shape(value := getattr(self, name)) != (3,) or not np.isfinite(value).all():
                raise ValueError(f"{name} is {value!r}, expected three numbers")
        if self.vision_width % self.vision_heads or self.text_width % self.text_heads:
            raise ValueError("a width is no multiple of its number of heads")
        if self.patch_size > self.image_size or self.eot_token >= self.vocab_size:
            raise ValueError("a patch is larger than the image, or the end token is not in the vocabulary")


TINY = ClipConfig(
    image_size=48,
    patch_size=8,
    vision_width=64,
    vision_layers=4,
    vision_heads=2,
    vision_hidden=256,
    text_width=64,
    text_layers=2,
    text_heads=2,
    text_hidden=256,
    context_length=10,
    vocab_size=32,
    eot_token=31,
    embed_dim=64,
)


class Block(nnx.Module):
    """Pre-norm transformer block, [B, T, W] -> [B, T, W]."""

    def __init__(self, width: int, heads: int, hidden: int, activation: str, causal: bool, rngs: nnx.Rngs):
        self.heads, self.causal, self.activation = heads, causal, activation
        self.norm1 = nnx.LayerNorm(width, epsilon=EPSILON, rngs=rngs)
        self.qkv = nnx.Linear(width, 3 * width, rngs=rngs)
        self.out = nnx.Linear(width, width, rngs=rngs)
        self.norm2 = nnx.LayerNorm(width, epsilon=EPSILON, rngs=rngs)
        self.up = nnx.Linear(width, hidden, rngs=rngs)
        self.down = nnx.Linear(hidden, width, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        batch, tokens, width = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(batch, tokens, 3, self.heads, width // self.heads)
        mixed = jax.nn.dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], is_causal=self.causal)
        x = x + self.out(mixed.reshape(batch, tokens, width))
        return x + self.down(ACTIVATIONS[self.activation](self.up(self.norm2(x))))


class ImageTower(nnx.Module):
    """Vision transformer (Dosovitskiy et al. 2021) with CLIP's extra norm, [B, H, W, 3] -> [B, D]."""

    def __init__(self, config: ClipConfig, rngs: nnx.Rngs):
        width, patches = config.vision_width, (config.image_size // config.patch_size) ** 2
        patch = (config.patch_size, config.patch_size)
        self.patch = nnx.Conv(3, width, patch, strides=patch, padding="VALID", use_bias=False, rngs=rngs)
        self.class_token = _normal((width,), width**-0.5, rngs)
        self.position = _normal((patches + 1, width), width**-0.5, rngs)
        self.norm_pre = nnx.LayerNorm(width, epsilon=EPSILON, rngs=rngs)
        self.blocks = _blocks(
            config.vision_layers,
            (width, config.vision_heads, config.vision_hidden, config.activation),
            causal=False,
            rngs=rngs,
        )
        self.norm_post = nnx.LayerNorm(width, epsilon=EPSILON, rngs=rngs)
        self.projection = nnx.Linear(width, config.embed_dim, use_bias=False, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        x = self.patch(images)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        first = jnp.broadcast_to(self.class_token[...], (x.shape[0], 1, x.shape[-1]))
        x = self.norm_pre(jnp.concatenate([first, x], axis=1) + self.position[...])
        for block in self.blocks:
            x = block(x)
        return self.projection(self.norm_post(x[:, 0]))


class TextTower(nnx.Module):
    """Causal transformer read at the end-of-text token, int32 [B, L] -> [B, D]."""

    def __init__(self, config: ClipConfig, rngs: nnx.Rngs):
        width = config.text_width
        self.eot_token = config.eot_token
        self.token = _normal((config.vocab_size, width), 0.02, rngs)
        self.position = _normal((config.context_length, width), 0.01, rngs)
        self.blocks = _blocks(
            config.text_layers,
            (width, config.text_heads, config.text_hidden, config.activation),
            causal=True,
            rngs=rngs,
        )
        self.norm_post = nnx.LayerNorm(width, epsilon=EPSILON, rngs=rngs)
        self.projection = nnx.Linear(width, config.embed_dim, use_bias=False, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        return self.projection(self.features(tokens))

    def features(self, tokens: jax.Array) -> jax.Array:
        """What is projected, float32 [B, W]."""
        x = self.token[...][tokens] + self.position[...][: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        end = jnp.argmax(tokens == self.eot_token, axis=1)
        return self.norm_post(x[jnp.arange(len(x)), end])


class Clip(nnx.Module):
    """Both towers. Embeddings have length 1; `logit_scale` is the logarithm of the inverse temperature."""

    def __init__(self, config: ClipConfig, rngs: nnx.Rngs):
        self.image = ImageTower(config, rngs)
        self.text = TextTower(config, rngs)
        self.logit_scale = nnx.Param(jnp.asarray(np.log(1 / 0.07), jnp.float32))

    def encode_image(self, images: jax.Array) -> jax.Array:
        """float32 [B, H, W, 3], made by `pixels` and `normalize` -> float32 [B, D]."""
        return _unit(self.image(images))

    def encode_text(self, tokens: jax.Array) -> jax.Array:
        """int32 [B, L], each row with an end-of-text token -> float32 [B, D]."""
        return _unit(self.text(tokens))


def pixels(image: Image.Image, config: ClipConfig) -> np.ndarray:
    """The image as CLIP sees it before normalization: uint8 [S, S, 3], bicubic, RGB."""
    image, size = image.convert("RGB"), config.image_size
    if config.resize_mode == "squash":
        return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))
    width, height = image.size
    short = min(width, height)
    width, height = size * width // short, size * height // short
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return np.asarray(image.crop((left, top, left + size, top + size)))


def normalize(images: np.ndarray | jax.Array, config: ClipConfig) -> np.ndarray | jax.Array:
    """uint8 [..., 3] -> float32 [..., 3] with CLIP's mean and standard deviation."""
    scaled = images.astype(np.float32) / np.float32(255)
    return (scaled - np.asarray(config.mean, np.float32)) / np.asarray(config.std, np.float32)


class Encoder:
    """A CLIP ready for use: pictures or strings in, unit rows out, in jitted batches of one shape."""

    def __init__(self, model: Clip, config: ClipConfig, tokenize: Callable[[Sequence[str]], np.ndarray]):
        self.config, self.tokenize = config, tokenize
        graph, state = nnx.split(model)
        image = jax.jit(lambda state, x: nnx.merge(graph, state).encode_image(normalize(x, config)))
        text = jax.jit(lambda state, x: nnx.merge(graph, state).encode_text(x))
        # The weights are arguments: closed over, they would be copied into the compiled program.
        self._image, self._text = functools.partial(image, state), functools.partial(text, state)

    def images(self, images: Sequence[Image.Image]) -> np.ndarray:
        """PIL images -> float32 [n, D]."""
        return self.pixels([pixels(image, self.config) for image in images])

    def pixels(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        """Arrays as `pixels` makes them, uint8 [S, S, 3] -> float32 [n, D]."""
        return _in_batches(self._image, arrays, self.config.embed_dim)

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Strings -> float32 [n, D]."""
        return _in_batches(self._text, self.tokenize(texts), self.config.embed_dim)


@dataclasses.dataclass(frozen=True)
class WordTokenizer:
    """Tokens of a tiny CLIP: a closed list of words. Ids: 0 pad, 1 unknown, 2 start, words from 3, then end."""

    words: tuple[str, ...]
    context_length: int

    @property
    def eot_token(self) -> int:
        return len(self.words) + 3

    @property
    def vocab_size(self) -> int:
        return len(self.words) + 4

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Strings -> int32 [n, context_length]; what does not fit is cut before the end token."""
        ids = {word: 3 + row for row, word in enumerate(self.words)}
        tokens = np.zeros((len(texts), self.context_length), np.int32)
        for row, text in enumerate(texts):
            body = [ids.get(word, 1) for word in text.lower().split()][: self.context_length - 2]
            tokens[row, : len(body) + 2] = [2, *body, self.eot_token]
        return tokens


def _blocks(layers: int, shape: tuple, causal: bool, rngs: nnx.Rngs) -> nnx.List:
    return nnx.List([Block(*shape, causal=causal, rngs=rngs) for _ in range(layers)])


def _normal(shape: tuple[int, ...], scale: float, rngs: nnx.Rngs) -> nnx.Param:
    return nnx.Param(scale * jax.random.normal(rngs.params(), shape))


def _unit(x: jax.Array) -> jax.Array:
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def _in_batches(encode: Callable[[jax.Array], jax.Array], rows: Sequence[np.ndarray], dim: int) -> np.ndarray:
    """Pads the last batch, so that one shape is compiled."""
    found = np.zeros((len(rows), dim), np.float32)
    for start in range(0, len(rows), _BATCH):
        batch = np.stack(rows[start : start + _BATCH])
        padded = np.concatenate([batch, np.repeat(batch[:1], _BATCH - len(batch), axis=0)])
        found[start : start + len(batch)] = np.asarray(encode(padded))[: len(batch)]
    return found
