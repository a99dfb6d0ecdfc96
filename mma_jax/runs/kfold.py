"""Image evidence without outside weights: CLIP image towers trained on the dataset's own pictures, out of fold.

The pictures are split into K folds; the tower that encodes a fold was trained on the other folds, against the
items' categories as captions, so no picture is encoded by a model that saw it (copies of a picture share a fold).
Categories are texts of items; interactions play no part.

All folds live in one space because they share one text tower, which is locked before any picture is seen (LiT,
Zhai et al. 2022, arXiv:2111.07991): its projection is solved so that the words' embeddings are orthonormal.
With D = V words they span the whole space, so each coordinate of an image embedding is its cosine with one word,
whichever fold it comes from, and no direction is left in which folds could drift apart.
I = items, V = words, N = items with a readable picture.
"""

from __future__ import annotations

import dataclasses
import re
import time

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from tqdm import tqdm

from mma_jax.data.images import open_image
from mma_jax.features import images
from mma_jax.learning import contrastive
from mma_jax.metrics.ctr import auc
from mma_jax.metrics.ranking import map_at
from mma_jax.models import clip
from mma_jax.types import Catalog, InputError


@dataclasses.dataclass(frozen=True)
class KFoldConfig:
    """How the towers are trained."""

    folds: int = 5
    steps: int = 120  # of each fold
    batch_size: int = 128
    muon_rate: float = 0.02
    adam_rate: float = 1e-3
    weight_decay: float = 0.2
    patch_size: int = 8
    layers: int = 2
    seed: int = 0


def build(catalog: Catalog, vocabulary: tuple[str, ...], config: KFoldConfig, meta: dict) -> images.ImageStore:
    """Trains K towers and encodes every picture with the one that did not see it.

    Args:
      catalog: files and categories.
      vocabulary: the words that may be captions; those in no category of the catalog are left out.
      config: folds and training.
      meta: what identifies the store; `evaluation` (see `evaluate`) and counts are added.

    Returns:
      The store, in memory.

    Raises:
      InputError: no readable picture, fewer than folds, or no category that is a word of the vocabulary.
    """
    started = time.time()
    truth = categories(catalog, vocabulary)
    words = tuple(word for word, used in zip(vocabulary, truth.any(0), strict=True) if used)
    truth = truth[:, truth.any(0)]
    if not words:
        raise InputError("encoder 'kfold': no category of the catalog is a word of config.images.vocabulary")
    shape, texts = _shape(words, config)
    pictures, owner, reasons = _pixels(catalog, shape)
    if not len(pictures):
        raise InputError("encoder 'kfold': no picture can be read; go without by --config.images.encoder=none")
    fold = assign_folds(pictures, owner, config.folds, np.random.default_rng(config.seed))
    start = lock_text(clip.Clip(shape, nnx.Rngs(config.seed)), texts)
    encoded = np.zeros((len(pictures), len(words)), np.float32)
    for held in range(config.folds):
        learn = (fold != held) & truth[owner].any(1)
        tower = _train(start, shape, config, pictures[learn], texts, truth[owner[learn]], held)
        encoded[fold == held] = clip.Encoder(tower, shape, None).pixels(pictures[fold == held])
    embedding = np.zeros((len(catalog), len(words)), np.float32)
    np.add.at(embedding, owner, encoded)
    embedding = images.unit(embedding)
    item_fold = np.full(len(catalog), -1)
    item_fold[owner] = fold
    notes = {
        "unreadable": {reason: reasons.count(reason) for reason in sorted(set(reasons))},
        "evaluation": evaluate(embedding, truth, item_fold),
        "seconds": round(time.time() - started, 1),
    }
    return images.assemble(embedding, np.eye(len(words)), words, meta | notes)


def categories(catalog: Catalog, vocabulary: tuple[str, ...]) -> np.ndarray:
    """bool [I, V]: whether the word is one of the item's categories, letters alone compared."""
    wanted = [_letters(word) for word in vocabulary]
    found = [{_letters(part) for part in re.split(r"[,;|>/]", text)} for text in catalog.categories]
    return np.array([[word in have for word in wanted] for have in found], bool)


def assign_folds(pictures: np.ndarray, owner: np.ndarray, folds: int, rng: np.random.Generator) -> np.ndarray:
    """The fold of each picture, int [P]: random, but all pictures of an item, and all copies, go together.

    Args:
      pictures: uint8 [P, S, S, 3].
      owner: int [P] items.
      folds: K.
      rng: which group goes where.
    """
    _, copy = np.unique(pictures.reshape(len(pictures), -1), axis=0, return_inverse=True)
    _, item = np.unique(owner, return_inverse=True)
    nodes = item.max() + 1 + copy.max() + 1
    links = coo_array((np.ones(len(owner)), (item, item.max() + 1 + copy)), shape=(nodes, nodes))
    count, group = connected_components(links, directed=False)
    if count < folds:
        raise InputError(f"encoder 'kfold': {count} different pictures are too few for {folds} folds")
    return rng.permutation(np.arange(count) % folds)[group[item]]


def lock_text(model: clip.Clip, texts: np.ndarray) -> clip.Clip:
    """Solves the text projection so that `texts`, int32 [V, L] with V = D, become the coordinate axes."""
    graph, state = nnx.split(model.text)
    features = np.asarray(jax.jit(lambda state: nnx.merge(graph, state).features(texts))(state), np.float64)
    model.text.projection.kernel.set_value(jnp.asarray(np.linalg.pinv(features), jnp.float32))
    return model


def evaluate(scores: np.ndarray, truth: np.ndarray, fold: np.ndarray) -> dict[str, float]:
    """Out-of-fold quality of tags beside the prior, which ranks words by their frequency in the other folds.

    Args:
      scores: float [I, V].
      truth: bool [I, V].
      fold: int [I], -1 for items to leave out.

    Returns:
      `top1` (the best tag is one of the item's categories), `map` (average precision of the words' order, mean
      over items), the same with prefix `prior_`, and `auc` (mean over words; 0.5 knows nothing of the picture).
    """
    prior = np.zeros(scores.shape)
    for held in np.unique(fold[fold >= 0]):
        prior[fold == held] = truth[(fold >= 0) & (fold != held)].mean(0)
    judged = (fold >= 0) & truth.any(1)
    scores, prior, truth = scores[judged], prior[judged], truth[judged]
    found = {"items": len(truth)}
    for prefix, values in (("", scores), ("prior_", prior)):
        order = np.argsort(-values, axis=1, kind="stable")
        relevant = np.where(truth, np.arange(truth.shape[1]), -1)
        found[f"{prefix}top1"] = round(float(np.take_along_axis(truth, order[:, :1], axis=1).mean()), 4)
        found[f"{prefix}map"] = round(float(map_at(order, relevant, truth.shape[1]).mean()), 4)
    areas = [auc(truth[:, word], scores[:, word]) for word in range(truth.shape[1])]
    return found | {"auc": round(float(np.nanmean(areas)), 4)}


def _letters(word: str) -> str:
    return re.sub(r"[^a-z0-9]", "", word.lower())


def _shape(words: tuple[str, ...], config: KFoldConfig) -> tuple[clip.ClipConfig, np.ndarray]:
    """A small CLIP whose space has one dimension per word, and the words' tokens, int32 [V, 3]."""
    tokenize = clip.WordTokenizer(tuple(word.lower() for word in words), context_length=3)
    shape = dataclasses.replace(
        clip.TINY,
        patch_size=config.patch_size,
        vision_layers=config.layers,
        text_layers=1,
        context_length=3,
        vocab_size=tokenize.vocab_size,
        eot_token=tokenize.eot_token,
        embed_dim=len(words),
        text_width=2 * max(clip.TINY.text_width // 2, len(words)),  # room for independent words, two even heads
        resize_mode="squash",  # a poster's title and top are worth more than its proportions
    )
    return shape, tokenize([word.lower() for word in words])


def _pixels(catalog: Catalog, shape: clip.ClipConfig) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Readable pictures uint8 [P, S, S, 3], the item of each int [P], and why others could not be read."""
    files = [(item, path) for item, paths in enumerate(catalog.images) for path in paths]
    found, owner, reasons = [], [], []
    for item, path in tqdm(files, desc="read images", mininterval=1.0):
        image, reason = open_image(path)
        if image is None:
            reasons.append(reason)
        else:
            found.append(clip.pixels(image, shape))
            owner.append(item)
    size = shape.image_size
    return np.array(found, np.uint8).reshape(-1, size, size, 3), np.array(owner, np.int64), reasons


def _train(start, shape, config: KFoldConfig, pictures, texts, truth, held: int) -> clip.Clip:
    recipe = contrastive.ContrastiveConfig(
        steps=config.steps,
        batch_size=config.batch_size,
        muon_rate=config.muon_rate,
        adam_rate=config.adam_rate,
        weight_decay=config.weight_decay,
        train_text=False,
        augment=True,
        seed=config.seed + held,
    )
    label = f"fold {held + 1} of {config.folds}"
    return contrastive.train(start, shape, recipe, pictures, texts, truth, label)[0]
