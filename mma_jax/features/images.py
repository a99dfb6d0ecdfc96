"""What an item's pictures say: one embedding and five tags an item, computed once and memory-mapped.

MMA §3.2: `Analyze_Image` runs a frozen CLIP and returns the top-5 zero-shot tags. How to open a picture and
how to encode it are passed in, so that this module knows nothing of files or models. I = items, D = embedding size.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image
from tqdm import tqdm

from mma_jax.features import storage

TAGS = 5  # an item, as in the paper
PROFILE_TAGS = 8  # at most, in a user's visual profile
_CHUNK = 256  # items encoded between two saves

OpenImage = Callable[[str], tuple[Image.Image | None, str]]
"""Path -> (RGB image, ""), or (None, why there is none)."""

EncodeImages = Callable[[Sequence[Image.Image]], np.ndarray]
"""RGB images -> float [n, D]."""


@dataclasses.dataclass(frozen=True, eq=False)
class ImageStore:
    """Image evidence of a catalog; the arrays may be memory-mapped and are read only."""

    embedding: np.ndarray  # float32 [I, D], rows of length 1, zero where the item has no readable image
    has: np.ndarray  # bool [I]
    tag_ids: np.ndarray  # int16 [I, TAGS] rows of `vocabulary`, best first, -1 where there is none
    tag_scores: np.ndarray  # float32 [I, TAGS] cosines, 0 where there is none
    vocabulary: tuple[str, ...]
    meta: dict  # encoder, checksum of the inputs, counts, reasons of unreadable files, evaluation

    def tags(self, item: int) -> list[str]:
        """The item's top-5 words, best first; empty if it has no image."""
        return [self.vocabulary[tag] for tag in self.tag_ids[item] if tag >= 0]

    def profile(self, history: np.ndarray) -> dict[str, int]:
        """How often each tag occurs among the top-5 tags of the items in `history`, int [H].

        The 8 most frequent, most frequent first, ties in the order of the vocabulary.
        """
        tags = self.tag_ids[np.asarray(history, np.int64)].ravel()
        counts = np.bincount(tags[tags >= 0], minlength=len(self.vocabulary))
        order = np.argsort(-counts, kind="stable")[:PROFILE_TAGS]
        return {self.vocabulary[tag]: int(counts[tag]) for tag in order if counts[tag]}

    def only(self, kept: np.ndarray) -> ImageStore:
        """The store as if all items but those of `kept`, bool [I], had no picture; itself if they have none anyway."""
        if not (self.has & ~kept).any():
            return self
        rows = kept[:, None]
        return dataclasses.replace(
            self,
            embedding=np.where(rows, self.embedding, np.float32(0)),
            has=self.has & kept,
            tag_ids=np.where(rows, self.tag_ids, np.int16(-1)),
            tag_scores=np.where(rows, self.tag_scores, np.float32(0)),
        )

    def save(self, directory: str | os.PathLike) -> None:
        """Writes the store, all of it or nothing."""
        arrays = {"embedding": self.embedding, "has": self.has, "tags": self.tag_ids, "tag_scores": self.tag_scores}
        storage.save(directory, arrays, {"vocabulary": self.vocabulary, "meta": self.meta})

    @classmethod
    def load(cls, directory: str | os.PathLike) -> ImageStore:
        """Memory-maps a store; raises InputError if there is none."""
        arrays, strings = storage.load(directory)
        return cls(
            embedding=arrays["embedding"],
            has=arrays["has"],
            tag_ids=arrays["tags"],
            tag_scores=arrays["tag_scores"],
            vocabulary=tuple(strings["vocabulary"]),
            meta=strings["meta"],
        )


def build(
    paths_per_item: Sequence[Sequence[str]],
    open_image: OpenImage,
    encode_images: EncodeImages,
    tag_embeddings: np.ndarray,
    vocabulary: Sequence[str],
    directory: str | os.PathLike,
    meta: dict,
    progress: bool = True,
) -> ImageStore:
    """Encodes a catalog's images and writes the store to `directory`.

    An item's embedding is the normalized mean of its images' unit embeddings; an item without a readable
    image is missing. Every 256 items are kept in DIRECTORY.partial, so that an interrupted build with the
    same `meta` goes on where it stopped.

    Args:
      paths_per_item: the image files of each item, possibly none.
      open_image: reads a file without trusting it.
      encode_images: the frozen encoder.
      tag_embeddings: float [V, D], unit rows.
      vocabulary: the V tag words.
      directory: where the store goes.
      meta: what identifies encoder and inputs (see `checksum`); kept with the store.
      progress: show a progress bar.

    Returns:
      The finished store, memory-mapped.
    """
    partial = pathlib.Path(f"{directory}.partial")
    chunks = partial / hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()[:16]
    chunks.mkdir(parents=True, exist_ok=True)
    embedding = np.zeros((len(paths_per_item), tag_embeddings.shape[1]), np.float32)
    problems: list[str] = []
    for start in tqdm(range(0, len(embedding), _CHUNK), desc="encode images", disable=not progress):
        rows, path = slice(start, start + _CHUNK), chunks / f"{start:08d}.npz"
        if not path.exists():
            found, reasons = _encode(paths_per_item[rows], open_image, encode_images, embedding.shape[1])
            _save_chunk(path, found, reasons)
        with np.load(path, allow_pickle=False) as chunk:
            embedding[rows] = chunk["embedding"]
            problems += chunk["reasons"].tolist()
    assemble(embedding, tag_embeddings, vocabulary, meta | {"unreadable": _count(problems)}).save(directory)
    shutil.rmtree(partial)
    return ImageStore.load(directory)


def assemble(embedding: np.ndarray, tag_embeddings: np.ndarray, vocabulary: Sequence[str], meta: dict) -> ImageStore:
    """A store in memory from unit embeddings [I, D] (zero rows are missing items): tags are the nearest words."""
    embedding = np.asarray(embedding, np.float32)
    has = embedding.any(axis=1)
    similarity = embedding @ np.asarray(tag_embeddings, np.float32).T
    best = np.argsort(-similarity, axis=1, kind="stable")[:, :TAGS]
    tags = np.full((len(embedding), TAGS), -1, np.int16)
    scores = np.zeros((len(embedding), TAGS), np.float32)
    tags[:, : best.shape[1]] = np.where(has[:, None], best, -1)
    scores[:, : best.shape[1]] = np.where(has[:, None], np.take_along_axis(similarity, best, axis=1), 0)
    counts = {"items": len(embedding), "items_with_image": int(has.sum()), "dim": embedding.shape[1]}
    return ImageStore(embedding, has, tags, scores, tuple(vocabulary), {**meta, **counts})


def checksum(paths_per_item: Sequence[Sequence[str]], progress: bool = True) -> str:
    """SHA-256 of which item has which image contents; where the files lie does not matter."""
    digest = hashlib.sha256()
    rows = tqdm(paths_per_item, desc="checksum of images", disable=not progress, mininterval=1.0)
    for item, paths in enumerate(rows):
        for path in paths:
            try:
                content = hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()
            except OSError:  # opening it will fail as well, and be counted
                content = "unreadable"
            digest.update(f"{item} {content}\n".encode())
    return digest.hexdigest()


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows of length 1; zero rows stay zero."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length > 0, length, 1)


def _encode(
    paths_per_item: Sequence[Sequence[str]], open_image: OpenImage, encode_images: EncodeImages, dim: int
) -> tuple[np.ndarray, list[str]]:
    """Unit embeddings float32 [n, dim] of a few items, and why files could not be read."""
    images, owners, reasons = [], [], []
    for item, paths in enumerate(paths_per_item):
        for path in paths:
            image, reason = open_image(path)
            if image is None:
                reasons.append(reason)
            else:
                images.append(image)
                owners.append(item)
    total = np.zeros((len(paths_per_item), dim), np.float32)
    if images:
        np.add.at(total, owners, unit(np.asarray(encode_images(images), np.float32)))
    return unit(total), reasons


def _save_chunk(path: pathlib.Path, embedding: np.ndarray, reasons: list[str]) -> None:
    part = path.with_suffix(".part")
    with open(part, "wb") as file:
        np.savez(file, embedding=embedding, reasons=np.asarray(reasons, str))
    os.replace(part, path)


def _count(reasons: list[str]) -> dict[str, int]:
    return {reason: reasons.count(reason) for reason in sorted(set(reasons))}
