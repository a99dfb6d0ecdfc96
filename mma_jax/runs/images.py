"""From a dataset's pictures to its image store: which encoder, which words, and nothing done twice.

tiny       the CLIP that the repository ships, for the generated world's renders
kfold      towers trained on the dataset's own pictures, each picture encoded by one that never saw it
clip       our Flax CLIP with public weights: `config.weights` is a folder in transformers' or open_clip's format
open_clip  the same through open_clip and torch: `config.weights` is MODEL:PRETRAINED, a tag or a file
none       no image evidence
"""

from __future__ import annotations

import hashlib
import os
import pathlib
from collections.abc import Callable

from mma_jax.data.images import open_image
from mma_jax.features import images, tags
from mma_jax.models import clip, clip_convert
from mma_jax.runs import clip as tiny_clip
from mma_jax.runs import kfold
from mma_jax.types import Dataset, InputError

VOCABULARIES: dict[str, tuple[str, ...]] = {
    "world": tiny_clip.VOCABULARY,
    "general": tags.GENERAL,
    "movie_genres": tags.MOVIE_GENRES,
}


def build_image_store(config, dataset: Dataset, directory: str | os.PathLike) -> images.ImageStore | None:
    """The dataset's image store, built in `directory` unless it is there already.

    Args:
      config: `encoder`, `weights`, `vocabulary`, `seed`; see `config.images`.
      dataset: its catalog names the files.
      directory: where the store is, or goes.

    Returns:
      The store, or None if the encoder is "none" or no item has a readable image.

    Raises:
      InputError: an unknown encoder or vocabulary, weights that cannot be used, a missing extra.
    """
    check_encoder(config)
    if config.encoder == "none" or not any(dataset.catalog.images):
        return None
    identity, make = ENCODERS[config.encoder](config)
    meta = {
        "encoder": config.encoder,
        "weights": identity,
        "vocabulary": config.vocabulary,
        "inputs": images.checksum(dataset.catalog.images),
    }
    store = _finished(directory, meta) or make(config, dataset, directory, meta)
    return store if store.has.any() else None


def check_encoder(config) -> None:
    """Raise InputError for an unknown encoder or vocabulary, missing weights or a missing extra; reads no weights."""
    _check_known("encoder", config.encoder, ["none", *ENCODERS])
    _check_known("vocabulary", config.vocabulary, list(VOCABULARIES))
    if config.encoder != "none":
        ENCODERS[config.encoder](config)


def _check_known(name: str, value: str, known: list[str]) -> None:
    if value not in known:
        raise InputError(f"config.images.{name}={value!r} is unknown; known: {', '.join(known)}")


def _finished(directory: str | os.PathLike, meta: dict) -> images.ImageStore | None:
    if not pathlib.Path(directory).is_dir():
        return None
    store = images.ImageStore.load(directory)
    return store if meta.items() <= store.meta.items() else None


Make = Callable[[object, Dataset, str | os.PathLike, dict], images.ImageStore]


def _tiny(config) -> tuple[str, Make]:
    if config.vocabulary != "world":
        raise InputError("config.images.encoder='tiny' knows the words of vocabulary 'world' only; set it so")

    def load() -> tuple[images.EncodeImages, tags.EncodeTexts, list[list[str]]]:
        encoder = tiny_clip.load_tiny()
        return encoder.images, encoder.texts, [[caption] for caption in tiny_clip.word_captions()]

    return _file_hash(tiny_clip.ASSET.with_suffix(".safetensors")), _with_encoder(load)


def _clip(config) -> tuple[str, Make]:
    folder = pathlib.Path(config.weights or "(config.images.weights is empty)")
    weights = [folder / name for name in ("open_clip_model.safetensors", "model.safetensors")]
    found = [path for path in weights if path.is_file()]
    if not found:
        raise InputError(f"{folder}: no CLIP weights; config.images.weights must be a folder with {weights[1].name}")

    def load() -> tuple[images.EncodeImages, tags.EncodeTexts, list[list[str]]]:
        model, shape = clip_convert.load(folder)
        encoder = clip.Encoder(model, shape, clip_convert.tokenizer(folder, shape))
        return encoder.images, encoder.texts, _prompts(config)

    return _file_hash(found[0]), _with_encoder(load)


def _open_clip(config) -> tuple[str, Make]:
    try:
        import open_clip
        import torch
    except ImportError:
        raise InputError("config.images.encoder='open_clip' needs the extra: pip install 'mma_jax[clip]'") from None
    name, _, pretrained = config.weights.partition(":")
    if name not in open_clip.list_models():
        raise InputError(f"config.images.weights={config.weights!r}: expected MODEL:PRETRAINED, as in ViT-L-14:openai")

    def load() -> tuple[images.EncodeImages, tags.EncodeTexts, list[list[str]]]:
        try:
            model, _, transform = open_clip.create_model_and_transforms(name, pretrained=pretrained)
        except (OSError, RuntimeError, ValueError) as error:
            raise InputError(f"open_clip cannot load {config.weights!r}: {str(error).splitlines()[0]}") from None
        model.eval()
        tokenize = open_clip.get_tokenizer(name)

        @torch.inference_mode()
        def encode_images(pictures):
            return torch.cat([model.encode_image(transform(picture)[None]) for picture in pictures]).float().numpy()

        @torch.inference_mode()
        def encode_texts(texts):
            return model.encode_text(tokenize(texts), normalize=True).float().numpy()

        return encode_images, encode_texts, _prompts(config)

    return config.weights, _with_encoder(load)


def _kfold(config) -> tuple[str, Make]:
    def make(config, dataset: Dataset, directory: str | os.PathLike, meta: dict) -> images.ImageStore:
        words = VOCABULARIES[config.vocabulary]
        kfold.build(dataset.catalog, words, kfold.KFoldConfig(seed=config.seed), meta).save(directory)
        return images.ImageStore.load(directory)

    return str(kfold.KFoldConfig(seed=config.seed)), make


ENCODERS: dict[str, Callable[[object], tuple[str, Make]]] = {
    "tiny": _tiny,
    "kfold": _kfold,
    "clip": _clip,
    "open_clip": _open_clip,
}
"""Name -> what identifies the weights, and how to make the store. Weights are read only when there is work."""


def _with_encoder(load: Callable[[], tuple[images.EncodeImages, tags.EncodeTexts, list[list[str]]]]) -> Make:
    def make(config, dataset: Dataset, directory: str | os.PathLike, meta: dict) -> images.ImageStore:
        encode_images, encode_texts, prompts = load()
        words = VOCABULARIES[config.vocabulary]
        embeddings = tags.embed(prompts, encode_texts)
        return images.build(dataset.catalog.images, open_image, encode_images, embeddings, words, directory, meta)

    return make


def _prompts(config) -> list[list[str]]:
    return tags.prompts(config.vocabulary, VOCABULARIES[config.vocabulary])


def _file_hash(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
