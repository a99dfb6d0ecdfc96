"""Two shops that differ in their held-out interactions alone, and everything that training reads of one: for tests that
nothing of the future reaches it.

A trained method is checked by `assert_blind(pair, arrays)`, where `arrays(made)` are the tensors that it trains on, or
what it has learned: `{name: array}` from an `Experiment` (a baseline's batches, parameters, tables).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image

from mma_jax.agents import controls, evidence_linear, routers
from mma_jax.agents.rollout import play
from mma_jax.config import base
from mma_jax.envs.environment import Environment
from mma_jax.evaluation.experiment import Experiment
from mma_jax.features import images
from mma_jax.models.convert import L0_TINY
from mma_jax.models.tokenizer import Chat, load_tokenizer
from mma_jax.runs.train import Trainer
from mma_jax.types import Dataset, Episode

USERS, ITEMS, PER_USER = 60, 90, 20
CANARY = "zyxcanary"
"""A word of the last item alone, which nobody takes before the test part."""

Pair = tuple[Experiment, Experiment]
Arrays = Callable[[Experiment], Mapping[str, np.ndarray]]


def write_shop(root: Path, held_out: int, since: float = 0.8, canary: bool = False) -> None:
    """root/shop, in atomic files: interactions later than `since` of the log are drawn with the seed `held_out`, those
    before with one of their own; the canary item is among the latest twentieth if asked for."""
    rng = np.random.default_rng(1)
    taste, kind = rng.integers(3, size=USERS), np.arange(ITEMS) % 3
    users = rng.permutation(np.repeat(np.arange(USERS), PER_USER))
    count, first = len(users), int(since * len(users))
    items = _taken(rng, users, taste, kind)
    items[: ITEMS - 1] = np.arange(ITEMS - 1)  # all but the last item appear before anything is held out
    items[first:] = _taken(np.random.default_rng([2, held_out]), users[first:], taste, kind)
    if canary:
        items[-count // 20 :: 4] = ITEMS - 1
    folder = root / "shop"
    (folder / "images").mkdir(parents=True)
    rows = [f"u{u}\ti{i}\t{1000 + t}" for t, (u, i) in enumerate(zip(users, items, strict=True))]
    (folder / "shop.inter").write_text("\n".join(["user_id:token\titem_id:token\ttimestamp:float", *rows]))
    words = ["red apple", "green tree", "blue river"]
    texts = [f"i{i}\t{words[kind[i]]} thing{i % 7}\tkind{kind[i]}\tmade by hand {i % 5}" for i in range(ITEMS - 1)]
    texts.append(f"i{ITEMS - 1}\t{words[kind[-1]]} {CANARY}\tkind{kind[-1]}\t{CANARY} {CANARY}s")
    header = "item_id:token\ttitle:token_seq\tcategories:token_seq\tdescription:token_seq"
    (folder / "shop.item").write_text("\n".join([header, *texts]))
    for item in range(ITEMS):
        color = [40 + 60 * int(kind[item]), 10 + 2 * item, 200 - item]
        Image.new("RGB", (8, 8), tuple(color)).save(folder / "images" / f"i{item}.png")


def _taken(rng: np.random.Generator, users: np.ndarray, taste: np.ndarray, kind: np.ndarray) -> np.ndarray:
    """An item of each user's kind, or any; never the last one. int64 [n]."""
    drawn = rng.integers(ITEMS - 1, size=(len(users), 8))
    fits = kind[drawn] == taste[users][:, None]
    return np.where(rng.random(len(users)) < 0.8, drawn[np.arange(len(users)), fits.argmax(1)], drawn[:, -1])


def colors(config, dataset: Dataset, directory: Path) -> images.ImageStore:
    """An image store without a model: mean colors, and tags by the nearest of three."""
    pictures = [np.asarray(Image.open(paths[0]), np.float32).mean((0, 1)) for paths in dataset.catalog.images]
    return images.assemble(images.unit(np.stack(pictures)), np.eye(3), ("red", "green", "blue"), {"unreadable": {}})


def shop(root: Path, held_out: int, **how) -> Experiment:
    """An experiment on `write_shop`."""
    write_shop(root / f"data{held_out}", held_out, **how)
    config = base()
    config.data.source, config.data.root, config.data.name = "atomic", str(root / f"data{held_out}"), "shop"
    config.images.encoder = "tiny"  # any but none; `colors` stands in for it
    config.pool.size, config.graph.dim = 10, 16
    config.episodes.train, config.episodes.valid, config.episodes.test = 60, 30, 40
    config.sft.episodes = 12
    return Experiment(config, root / f"work{held_out}", colors)


def twins(root: Path, **how) -> Pair:
    """Two experiments alike until `since`, with other interactions of the same users at the same times after it."""
    pair = shop(root, 0, **how), shop(root, 1, **how)
    logs = [made.dataset.interactions for made in pair]
    assert (pair[0].parts == pair[1].parts).all() and pair[0].dataset.catalog.ids == pair[1].dataset.catalog.ids
    assert 0.05 < (logs[0].item != logs[1].item).mean() < 0.3, "the held-out interactions must differ"
    return pair


def assert_blind(pair: Pair, arrays: Arrays) -> None:
    """The arrays of both are equal to the last bit; says which are not."""
    first, second = (dict(arrays(made)) for made in pair)
    assert first and first.keys() == second.keys()
    differing = [name for name in first if not same(first[name], second[name])]
    assert not differing, f"the future reaches {', '.join(differing)}"


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Same type, shape and bytes."""
    a, b = np.asarray(a), np.asarray(b)
    return (
        a.dtype == b.dtype
        and a.shape == b.shape
        and np.ascontiguousarray(a).tobytes() == np.ascontiguousarray(b).tobytes()
    )


def texts(values) -> np.ndarray:
    """Strings as an array of their checksums, uint8 [n, 32]."""
    return np.array([list(hashlib.sha256(value.encode()).digest()) for value in values], np.uint8)


def evidence(made: Experiment) -> dict[str, np.ndarray]:
    """Both views: all tables that interactions go into."""
    found = {}
    for part in ("train", "test"):
        view = made.view(part)
        stores = {
            "text": {"idf": view.text.idf, "words": view.text.words, "vocabulary": texts(view.text.vocabulary)},
            "image": {"embedding": view.image.embedding, "tags": view.image.tag_ids},
            "graph": {name: getattr(view.graph, name) for name in ("embedding", "has", "neighbors", "popularity")},
            "bm25": {"scores": view.bm25.scores([["red", "apple", CANARY], ["hand"]])},
            "items": {"in_training": view.in_training},
        }
        found |= {f"{part} {store} {name}": array for store, own in stores.items() for name, array in own.items()}
    return found


def episodes(made: Experiment, part: str = "train") -> dict[str, np.ndarray]:
    """A part's episodes, all that is in them."""
    found = {}
    for protocol in ("ooma", "lomo", "full_catalog"):
        members = made.episodes(part, protocol)
        cases = [e.case for e in members]
        found |= {
            f"{protocol} {name}": np.stack([getattr(c, name) for c in cases]) for name in ("pool", "scores", "ranks")
        }
        found[f"{protocol} history"] = np.concatenate([c.history for c in cases])
        found[f"{protocol} judged"] = np.array([[e.user, e.target, e.recalled, e.inserted] for e in members])
        found[f"{protocol} names"] = texts(e.episode_id + e.family for e in members)
    return found


def training(made: Experiment) -> dict[str, np.ndarray]:
    """All that fits anything: targets, rank distributions, pools, prompts and answers, fitted scorers, the expert's
    demonstrations as the tokens that SFT learns from, the sides that PPO draws from."""
    env, fit = made.environment("train", "ooma"), made.fit_episodes("ooma")
    notes: list = []
    scorer = evidence_linear.fit(env, fit, routers.rule_router)
    played = play(routers.rule_router(lambda heard: notes.append(heard) or scorer(heard)), env, fit, batch=1)
    trainer = Trainer(made, SimpleNamespace(chat=Chat(load_tokenizer(L0_TINY)), similar=lambda: None))
    shown = trainer.demonstrations(interactive=False)
    sides = {side: [e for found in trainer.split(side).values() for e in found] for side in (True, False)}
    return {
        "targets": made.sampled("train").rows,
        **{f"ranks {family}": made.distribution(family) for family in made.families("ooma") + made.families("lomo")},
        **episodes(made),
        "prompts": texts(prompt(env, e) for e in fit),
        "answers": texts(turn.observation for t in played for turn in t.turns),
        "rewards": np.array([sum(t.rewards) for t in played]),
        "Evidence-linear": np.stack([t.scores for t in played]),
        "Rank-only": controls.rank_only(fit)(fit),
        "SFT tokens": np.concatenate([s.tokens for s in shown]),
        "SFT mask": np.concatenate([s.action for s in shown]),
        **{f"PPO side {side}": texts(e.episode_id for e in found) for side, found in sides.items()},
    }


def prompt(env: Environment, episode: Episode) -> str:
    """What an agent reads first."""
    return "\n".join(message.content for message in env.reset(episode)[1])
