"""Trains the tiny CLIP of the generated world, which the repository ships in `mma_jax/assets`.

Its pictures are rendered here from random attributes with a seed of their own; no item of any dataset is seen.
Captions name any subset of the four attributes ("a red thing", "a striped circle on sky"), so that single
words are as much at home in the text space as whole descriptions; a caption is true of every image that has
the attributes it names, and InfoNCE's targets are uniform over what is true. That makes the words of
different attributes comparable: the four true ones of an image should all score alike, above the rest.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import pathlib
import sys
import time

import numpy as np
from flax import nnx
from tqdm import tqdm

from mma_jax.data import render
from mma_jax.data.disk import write_atomically
from mma_jax.learning import contrastive
from mma_jax.models import clip, clip_convert

ASSET = pathlib.Path(__file__).parent.parent / "assets" / "tiny_clip"
VOCABULARY = tuple(word for words in render.ATTRIBUTES.values() for word in words)


@dataclasses.dataclass(frozen=True)
class TinyClipConfig:
    """How the tiny CLIP is made."""

    train_images: int = 20_000
    test_images: int = 2_000
    word_steps: int = 900  # with the captions of single words, all of them every step
    caption_steps: int = 150  # then with captions of every length
    batch_size: int = 128
    muon_rate: float = 0.02
    seed: int = 20_240_501  # far from the seeds of generated datasets


def run(config, directory: pathlib.Path, dry_run: bool = False) -> None:
    """Makes the tiny CLIP, writes it to `mma_jax/assets`, and its notes to DIRECTORY/clip.json as well.

    A directory that already has the notes has nothing left to do.
    """
    settings, record = TinyClipConfig(), directory / "clip.json"
    if dry_run:
        print(f"train the tiny CLIP {clip.TINY} with {settings}, then write {ASSET}.safetensors and .json")
    elif record.exists():
        print(f"{record}: the tiny CLIP is already made; delete this file to make it again")
    else:
        notes = make(settings, ASSET)
        write_atomically(record, json.dumps(notes, indent=1))
        print(json.dumps(notes["accuracy"]))


def make(settings: TinyClipConfig, path: pathlib.Path) -> dict:
    """Trains a tiny CLIP, measures it on fresh renders, and writes PATH.safetensors and PATH.json.

    Returns:
      The notes beside the weights: words, command, settings, accuracy, seconds, loss curves.
    """
    started = time.time()
    rng = np.random.default_rng(settings.seed)
    images, values = draw(settings.train_images, rng)
    tokenize = clip.WordTokenizer(("a", "thing", "on", *VOCABULARY), clip.TINY.context_length)
    shape = dataclasses.replace(clip.TINY, vocab_size=tokenize.vocab_size, eot_token=tokenize.eot_token)
    model, curves = clip.Clip(shape, nnx.Rngs(settings.seed)), {}
    for stage, longest, steps, rate in (
        ("words", 1, settings.word_steps, settings.muon_rate),
        ("captions", len(render.ATTRIBUTES), settings.caption_steps, settings.muon_rate / 4),
    ):
        captions, truth = all_captions(values, longest)
        recipe = contrastive.ContrastiveConfig(
            steps=steps, batch_size=settings.batch_size, muon_rate=rate, seed=settings.seed
        )
        model, curves[stage] = contrastive.train(model, shape, recipe, images, tokenize(captions), truth, stage)
    notes = {
        "words": tokenize.words,
        "command": " ".join(["python -m mma_jax.main", *sys.argv[1:]]),
        "settings": dataclasses.asdict(settings),
        "accuracy": accuracy(clip.Encoder(model, shape, tokenize), *draw(settings.test_images, rng)),
        "seconds": round(time.time() - started, 1),
        "curves": curves,
    }
    clip_convert.save_own(path, model, shape, notes)
    return notes


def load_tiny(path: str | pathlib.Path = ASSET) -> clip.Encoder:
    """The tiny CLIP, by default the shipped one."""
    model, shape, notes = clip_convert.load_own(path)
    return clip.Encoder(model, shape, clip.WordTokenizer(tuple(notes["words"]), shape.context_length))


def draw(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Random renders: images uint8 [count, 48, 48, 3] and attribute values int [count, 4]."""
    sizes = [len(words) for words in render.ATTRIBUTES.values()]
    values = rng.integers(sizes, size=(count, len(sizes)))
    rows = tqdm(values, desc="render", mininterval=1.0)
    images = [np.asarray(render.render(dict(zip(render.ATTRIBUTES, row, strict=True)), rng)) for row in rows]
    return np.stack(images), values


def all_captions(values: np.ndarray, longest: int) -> tuple[list[str], np.ndarray]:
    """Every caption that names 1 to `longest` attributes, and which are true: (M texts, bool [count, M])."""
    attributes = list(render.ATTRIBUTES.items())
    choices = [(None, *range(len(words))) for _, words in attributes]
    captions, truth = [], []
    for chosen in itertools.product(*choices):
        named = [(column, value) for column, value in enumerate(chosen) if value is not None]
        if 1 <= len(named) <= longest:
            words = {attributes[column][0]: attributes[column][1][value] for column, value in named}
            captions.append(render.caption(words))
            truth.append(np.all([values[:, column] == value for column, value in named], axis=0))
    return captions, np.stack(truth, axis=1)


def word_captions() -> list[str]:
    """One caption for each word of `VOCABULARY`, naming nothing else."""
    return [render.caption({name: word}) for name, words in render.ATTRIBUTES.items() for word in words]


def accuracy(encoder: clip.Encoder, images: np.ndarray, values: np.ndarray) -> dict[str, float]:
    """Zero-shot accuracy: per attribute top-1 among its own words; `all_four_in_top5` of all 24 words."""
    scores = encoder.pixels(images) @ encoder.texts(word_captions()).T
    found, true_words, offset = {}, [], 0
    for column, (attribute, words) in enumerate(render.ATTRIBUTES.items()):
        guess = scores[:, offset : offset + len(words)].argmax(1)
        found[attribute] = round(float((guess == values[:, column]).mean()), 4)
        true_words.append(values[:, column] + offset)
        offset += len(words)
    top = np.argsort(-scores, axis=1)[:, :5]
    inside = (np.stack(true_words, axis=1)[:, :, None] == top[:, None, :]).any(2).all(1)
    return found | {"all_four_in_top5": round(float(inside.mean()), 4), "test_images": len(images)}
