"""The truth behind the generated world, and the ideal observer who reasons about it.

A scientific instrument: items have discrete latent attributes, each shown by some modalities only; a user
has one preferred value per attribute and chooses items by a logit rule. Because everything is discrete, all
preference vectors can be enumerated, and with them the exact answer to "how well could anybody rank this pool
from this evidence?", the Bayes NDCG that every method of the benchmark is held against.

Letters in shapes: I items, A attributes, P preference vectors, C signature classes, Q queries, B pool size.
Values are bits (base-2) where the name says bits, nats (natural logarithm) otherwise.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import numpy as np
from scipy import optimize, sparse

from mma_jax.types import MODALITIES, InputError, Mask

MAX_PREFERENCES = 20_000
POPULARITY_TIERS = (-1.34, -0.45, 0.45, 1.34)
"""Log-popularity of four equally frequent tiers of items, of unit variance."""
CERTAIN = 50.0
"""Exponents beyond this count as certainty: exp(-50) is 2e-22."""
STREAMS = ("catalog", "users", "text", "images", "copurchases")
"""Independent random streams of one seed: more users, say, leave the catalog as it was."""


@dataclasses.dataclass(frozen=True)
class Attribute:
    """A latent attribute of items: `weight` is the utility (nats) of showing the value the user prefers."""

    name: str
    weight: float
    reveals: tuple[str, ...]  # the modalities that show it; several of them make it redundant
    values: int = 4


@dataclasses.dataclass(frozen=True)
class WorldConfig:
    """The knobs. Every default of the generated world lives here."""

    n_items: int = 600
    n_users: int = 3000
    attributes: tuple[Attribute, ...] = (
        Attribute("theme", 2.0, ("text",)),
        Attribute("style", 0.5, ("text",)),
        Attribute("color", 2.0, ("image",)),
        Attribute("shape", 0.9, ("image",)),
        Attribute("circle", 1.8, ("behavior",)),
        Attribute("audience", 1.0, ("text", "behavior")),
    )
    noise: tuple[float, float, float] = (0.05, 0.05, 0.05)  # P(shown value is wrong), in the order of MODALITIES
    synonyms: int = 4  # words per value of an attribute that text shows
    fillers: int = 3  # meaningless words per description
    loudness: int = 3  # how often the title repeats the text attribute that matters least
    popularity: float = 0.4  # standard deviation of the log-popularity of items
    history: tuple[int, int] = (10, 30)  # interactions per user, both ends included
    copurchases: int = 10  # sampled item pairs per item
    affinity: float = 2.5  # log-odds of a pair per behavior attribute its items share
    images: bool = True
    permuted: bool = False  # negative control: every user's items go through a permutation of their own
    seed: int = 0

    def __post_init__(self) -> None:
        _check(self)

    def shown_by(self, modality: str) -> tuple[int, ...]:
        """Indices of the attributes that a modality shows."""
        if modality == "image" and not self.images:
            return ()
        return tuple(index for index, attribute in enumerate(self.attributes) if modality in attribute.reveals)


def _check(config: WorldConfig) -> None:
    """Refuse a world that cannot be generated or enumerated."""
    problems = []
    names = [attribute.name for attribute in config.attributes]
    if not names or len(set(names)) < len(names):
        problems.append("attributes need distinct names and at least one of them")
    for attribute in config.attributes:
        if not attribute.reveals or set(attribute.reveals) - set(MODALITIES):
            problems.append(f"attribute {attribute.name!r} must be revealed by some of {', '.join(MODALITIES)}")
        if attribute.values < 2:
            problems.append(f"attribute {attribute.name!r} needs at least 2 values")
    if np.prod([attribute.values for attribute in config.attributes]) > MAX_PREFERENCES:
        problems.append(f"more than {MAX_PREFERENCES} preference vectors to enumerate; use fewer attributes or values")
    if len(config.noise) != len(MODALITIES) or not all(0 <= noise <= 1 for noise in config.noise):
        problems.append("noise must be three probabilities, for text, image and behavior")
    whole = [isinstance(length, int) for length in config.history]
    if whole != [True, True] or not 2 <= config.history[0] <= config.history[1] <= config.n_items:
        problems.append(f"history {config.history} must satisfy 2 <= shortest <= longest <= n_items")
    if min(config.n_users, config.synonyms, config.loudness) < 1 or min(config.fillers, config.copurchases) < 0:
        problems.append("n_users, synonyms, loudness must be >= 1 and fillers, copurchases >= 0")
    if problems:
        raise InputError(f"generated world: {problems[0]}")


DEFAULT = WorldConfig()


def without_information(config: WorldConfig, modality: str) -> WorldConfig:
    """The same world with a modality that tells nothing about preferences (a negative control).

    Attributes only this modality shows get weight 0; shared ones are left to the others. Popularity, which
    behavior shows, goes with behavior.
    """
    attributes = []
    for attribute in config.attributes:
        others = tuple(other for other in attribute.reveals if other != modality)
        if others:
            attributes.append(dataclasses.replace(attribute, reveals=others))
        else:
            attributes.append(dataclasses.replace(attribute, weight=0.0))
    popularity = 0.0 if modality == "behavior" else config.popularity
    return dataclasses.replace(config, attributes=tuple(attributes), popularity=popularity)


PRESETS: dict[str, WorldConfig] = {
    "default": DEFAULT,
    "empty_text": without_information(DEFAULT, "text"),
    "empty_image": without_information(DEFAULT, "image"),
    "empty_behavior": without_information(DEFAULT, "behavior"),
    "permuted": dataclasses.replace(DEFAULT, permuted=True),
}
"""The default world and its negative controls."""


def stream(config: WorldConfig, name: str, *path: int) -> np.random.Generator:
    """The random generator of one part of the world (`path`: of one item in it)."""
    return np.random.default_rng([config.seed, STREAMS.index(name), *path])


class World:
    """A drawn catalog: what its items are, what each modality shows of them, and how users choose.

    Attributes:
      latents: int64 [I, A], the true values; each value equally frequent, attributes independent.
      shown: modality -> int64 [I, A_m], the values as that modality shows them, noise included, with columns in
        the order of `config.shown_by(modality)`. A row is the item's signature in that modality.
      popularity: float64 [I], additive in utility (nats), one of a few tiers; behavior shows it.
    """

    def __init__(self, config: WorldConfig):
        self.config = config
        rng = stream(config, "catalog")
        sizes = [attribute.values for attribute in config.attributes]
        self.latents = np.stack([rng.permutation(np.arange(config.n_items) % size) for size in sizes], axis=1)
        self.popularity = _tiers(config)[rng.permutation(np.arange(config.n_items) % len(POPULARITY_TIERS))]
        self.shown = {
            modality: _distort(rng, self.latents, sizes, config.shown_by(modality), noise)
            for modality, noise in zip(MODALITIES, config.noise, strict=True)
        }
        self._observers: dict[Mask, Observer] = {}

    def draw_preferences(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """int64 [n, A]: one preferred value per attribute, uniformly."""
        sizes = [attribute.values for attribute in self.config.attributes]
        return rng.integers(sizes, size=(n, len(sizes)))

    def log_choice(self, preferences: np.ndarray) -> np.ndarray:
        """log P(item | p) of a first choice, float64 [n, I], for preference vectors [n, A].

        A logit rule: P(item | p) is proportional to exp(sum of weights where item and p agree + popularity).
        """
        utility = np.tile(self.popularity, (len(preferences), 1))
        for column, attribute in enumerate(self.config.attributes):
            utility += attribute.weight * (preferences[:, None, column] == self.latents[None, :, column])
        return utility - _logsumexp(utility)

    def draw_choices(self, preferences: np.ndarray, length: int, rng: np.random.Generator) -> np.ndarray:
        """int32 [n, length] distinct items in the order chosen, for preference vectors [n, A].

        Sequential choice without replacement, drawn at once: the descending order of log-probability plus
        Gumbel noise is distributed exactly so (Plackett-Luce).
        """
        chosen = np.empty((len(preferences), length), np.int32)
        for start in range(0, len(preferences), 4096):  # bounds memory, and leaves the random stream as it is
            part = slice(start, start + 4096)
            log_choice = self.log_choice(preferences[part])
            keys = log_choice + rng.gumbel(size=log_choice.shape)
            chosen[part] = np.argsort(-keys, axis=1)[:, :length]
        return chosen

    def observer(self, evidence: Mask) -> Observer:
        """The ideal observer who sees the signatures that this evidence shows, and nothing else of items."""
        if evidence not in self._observers:
            self._observers[evidence] = Observer(self, evidence)
        return self._observers[evidence]

    def predictive(
        self,
        pools: np.ndarray,
        histories: Sequence[np.ndarray],
        evidence: Mask,
        pool_prior: np.ndarray | None = None,
    ) -> np.ndarray:
        """`Observer.predictive` for this evidence."""
        return self.observer(evidence).predictive(pools, histories, pool_prior)

    def bits(self) -> dict[str, dict[str, float]]:
        """Bits each modality's signature carries about each latent: {modality: {attribute: bits}}.

        The mutual information of a symmetric channel with V inputs, equally frequent, and error probability e:
        log2 V - h(e) - e log2(V - 1), h the binary entropy (Cover & Thomas, Elements of Information Theory, 7.2).
        """
        attributes = self.config.attributes
        return {
            modality: {attributes[a].name: _channel_bits(attributes[a].values, noise) for a in columns}
            for modality, noise in zip(MODALITIES, self.config.noise, strict=True)
            for columns in [self.config.shown_by(modality)]
        }


class Observer:
    """The ideal observer: Bayes over all preference vectors, from the signatures it sees.

    It knows the law of the world (weights, noise, priors) and sees the signature of every item in its evidence.
    It does not know the catalog by heart: which hidden values the items of some signature happen to have is as
    uncertain to it as the law leaves it, so a modality without information gives exactly chance.

    Choosing without replacement is a race of clocks (Efraimidis & Spirakis 2006): item i rings after an
    exponential time of rate a_i = exp(utility_i), and the history is what has rung by the time t of its last
    ring. Given t the clocks are independent: an item with signature s has rung with probability
    1 - E[exp(-a t) | s, p], and of those that have not, the next is one in proportion to E[a | not rung, s, p].
    One approximation is made: t is where the law expects as many rings as the history is long. The order within
    a history is not used. tests/data/test_data_world.py compares with exact enumeration and checks calibration.

    Attributes:
      columns: indices of the V attributes that the evidence shows.
      preferences: int64 [P, V], all preference vectors over these, equally probable a priori. Preferences for
        the other attributes stay uniform.
      class_of: int64 [I], items with the same number look the same.
    """

    def __init__(self, world: World, evidence: Mask):
        attributes = world.config.attributes
        seen = [name for name, survives in zip(MODALITIES, evidence, strict=True) if survives]
        self.columns = sorted({column for name in seen for column in world.config.shown_by(name)})
        self.preferences = _product([np.arange(attributes[column].values) for column in self.columns])
        popularity = world.popularity if "behavior" in seen else np.zeros(len(world.popularity))  # behavior shows it
        tiers, tier = np.unique(popularity, return_inverse=True)
        signature = np.concatenate([tier[:, None], *(world.shown[name] for name in seen)], axis=1)
        _, examples, class_of = np.unique(signature, axis=0, return_index=True, return_inverse=True)
        self.class_of = class_of.reshape(-1)
        self._sizes = np.bincount(self.class_of)
        self._nobody: dict[int, np.ndarray] = {}

        self._config = world.config

        beliefs = [_belief(world, column, seen)[examples] for column in range(len(attributes))]
        self._case, cases = self._cases(beliefs, tier[examples], tiers)
        agree, utility = _agreements(world.config)
        chance = np.where(agree, cases[:, None, :-1], 1 - cases[:, None, :-1]).prod(-1)
        hidden = np.zeros(1) if "behavior" in seen else _tiers(world.config)
        self._probability = chance[:, :, None]  # [K, 2^A, 1] of every way to agree
        self._rates = np.exp(utility[:, None] + cases[:, None, -1:] + hidden)  # [K, 2^A, hidden tiers]

    def _cases(self, beliefs: list[np.ndarray], tier: np.ndarray, tiers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What a class of items can mean to a preference vector, numbered: (case [C, P], cases [K, A + 1]).

        Prospects depend on p only through P(latent = preferred value) per attribute, which takes few distinct
        values. A case is one combination of these and of a popularity, so tables need a row per case only.
        """
        case, chances = np.zeros((len(tier), len(self.preferences)), np.int64), []
        for column, belief in enumerate(beliefs):
            chance, index = np.unique(belief.round(12), return_inverse=True)
            index = index.reshape(belief.shape)
            if column in self.columns:
                index = index[:, self.preferences[:, self.columns.index(column)]]  # [C, P]
            else:
                index = index[:, :1]  # the same for every value
            case = case * len(chance) + index
            chances.append(chance)
        return case * len(tiers) + tier[:, None], _product([*chances, tiers])

    def predictive(
        self, pools: np.ndarray, histories: Sequence[np.ndarray], pool_prior: np.ndarray | None = None
    ) -> np.ndarray:
        """P(target = c | signatures, pool rule) for the items c of each pool, float64 [Q, B], rows sum to 1.

        Args:
          pools: int [Q, B] items, none of them in the history.
          histories: Q arrays of items, the user's earlier ones.
          pool_prior: float64 [Q, B], what the pool rule itself says: proportional to P(this pool | target = c).
            None where all c are alike: random negatives, or a first stage's top B.
        """
        scores = np.empty(pools.shape)
        for rows, length in _by_length(histories):
            posterior = np.exp(self._log_posterior([histories[row] for row in rows], length))
            _, rate = self._prospects(length)
            classes, place = np.unique(self.class_of[pools[rows]], return_inverse=True)
            of_class = posterior @ rate[self._case[classes]].T  # [rows, classes in these pools]
            scores[rows] = np.take_along_axis(of_class, place.reshape(len(rows), -1), axis=1)
        if pool_prior is not None:
            scores = scores * pool_prior
        return scores / scores.sum(1, keepdims=True)

    def _log_posterior(self, histories: Sequence[np.ndarray], length: int) -> np.ndarray:
        """log P(p | signatures of the history), float64 [Q, P], for histories of one length: every item is in or out,
        independently given p."""
        log_posterior = np.tile(self._log_nobody(length), (len(histories), 1))
        if length:
            unchosen, _ = self._prospects(length)
            classes, place = np.unique(self.class_of[np.concatenate(histories)], return_inverse=True)
            rows = np.repeat(np.arange(len(histories)), length)
            counts = sparse.coo_array((np.ones(len(rows)), (rows, place)), (len(histories), len(classes))).tocsr()
            log_posterior += counts @ np.log(1 / unchosen - 1)[self._case[classes]]
        return log_posterior - _logsumexp(log_posterior)

    def _log_nobody(self, length: int) -> np.ndarray:
        """log P(none of all items is chosen | p), float64 [P], kept because it is the whole catalog's."""
        if length not in self._nobody:
            unchosen, _ = self._prospects(length)
            self._nobody[length] = self._sizes @ np.log(unchosen)[self._case]
        return self._nobody[length]

    def _prospects(self, length: int) -> tuple[np.ndarray, np.ndarray]:
        """After `length` choices, per case [K]: P(not among them), and the rate of being next if not."""
        time = _ring_time(self._config, length)
        silent = self._probability * np.exp(-np.minimum(self._rates * time, CERTAIN))
        unchosen = silent.mean(-1).sum(1)
        return unchosen, (silent * self._rates).mean(-1).sum(1) / unchosen


def expected_ndcg(probability: np.ndarray, k: int = 10) -> np.ndarray:
    """Expected NDCG@k, float64 [...], of ranking each pool by P(target = c) [..., B]; no other order earns more.

    With one relevant item, NDCG@k is 1 / log2(1 + rank) within the first k ranks and 0 below.
    """
    ranked = -np.sort(-probability, axis=-1)[..., :k]
    return ranked @ (1 / np.log2(np.arange(ranked.shape[-1]) + 2))


def recovered_bits(labels: np.ndarray, recovered: np.ndarray) -> float:
    """Mutual information in bits between two labelings [n] of the same items, bias-corrected.

    The plug-in estimate less its first-order bias (r - 1)(c - 1) / (2 n ln 2) for an r-by-c table
    (Miller 1955). It may come out slightly negative where there is no information.
    """
    rows, row = np.unique(labels, return_inverse=True)
    columns, column = np.unique(recovered, return_inverse=True)
    table = np.zeros((len(rows), len(columns)))
    np.add.at(table, (row, column), 1 / len(labels))
    independent = table.sum(1, keepdims=True) * table.sum(0, keepdims=True)
    filled = table > 0
    plug_in = np.sum(table[filled] * np.log2(table[filled] / independent[filled]))
    return float(plug_in - (len(rows) - 1) * (len(columns) - 1) / (2 * len(labels) * np.log(2)))


def _agreements(config: WorldConfig) -> tuple[np.ndarray, np.ndarray]:
    """All ways an item can agree with a preference: bool [2^A, A], and their utilities [2^A]."""
    agree = _product([np.array([False, True])] * len(config.attributes))
    return agree, agree @ np.array([attribute.weight for attribute in config.attributes])


def _tiers(config: WorldConfig) -> np.ndarray:
    return config.popularity * np.array(POPULARITY_TIERS)


@functools.lru_cache(maxsize=1024)
def _ring_time(config: WorldConfig, length: int) -> float:
    """When the law expects `length` of the items to have been chosen (see Observer)."""
    agree, utility = _agreements(config)
    values = np.array([attribute.values for attribute in config.attributes])
    probability = np.where(agree, 1 / values, 1 - 1 / values).prod(1)
    rates = np.exp(utility[:, None] + _tiers(config))

    def surplus(time: float) -> float:
        return config.n_items * float(probability @ (1 - np.exp(-rates * time)).mean(1)) - length

    return optimize.brentq(surplus, 0.0, CERTAIN / rates.min()) if length else 0.0


def _belief(world: World, column: int, seen: Sequence[str]) -> np.ndarray:
    """P(latent = v | what the seen modalities show of this attribute), float64 [I, V]."""
    config = world.config
    values = config.attributes[column].values
    belief = np.full((config.n_items, values), 1 / values)
    for modality, noise in zip(MODALITIES, config.noise, strict=True):
        if modality in seen and column in config.shown_by(modality):
            shown = world.shown[modality][:, config.shown_by(modality).index(column)]
            belief *= np.where(shown[:, None] == np.arange(values), 1 - noise, noise / (values - 1))
    return belief / belief.sum(1, keepdims=True)


def _by_length(histories: Sequence[np.ndarray]) -> Iterator[tuple[np.ndarray, int]]:
    """Rows of the histories that share a length, and that length."""
    lengths = np.array([len(history) for history in histories], np.int64)
    for length in np.unique(lengths):
        yield np.flatnonzero(lengths == length), int(length)


def _product(axes: Sequence[np.ndarray]) -> np.ndarray:
    """Rows of the Cartesian product, [prod of lengths, len(axes)], the last axis fastest."""
    grids = np.meshgrid(*axes, indexing="ij")
    return np.stack([grid.reshape(-1) for grid in grids], axis=1) if axes else np.zeros((1, 0), np.int64)


def _distort(
    rng: np.random.Generator, latents: np.ndarray, sizes: list[int], columns: tuple[int, ...], noise: float
) -> np.ndarray:
    """The latents of some columns, each entry replaced by another value, at random, with probability `noise`."""
    values, size = latents[:, columns], np.array([sizes[column] for column in columns], np.int64)
    shift = rng.integers(1, np.broadcast_to(size, values.shape)) if columns else np.zeros_like(values)
    wrong = rng.random(values.shape) < noise
    return np.where(wrong, (values + shift) % size, values)


def _channel_bits(values: int, noise: float) -> float:
    outcomes = np.array([1 - noise] + [noise / (values - 1)] * (values - 1))
    entropy = -np.sum(outcomes[outcomes > 0] * np.log2(outcomes[outcomes > 0]))
    return float(np.log2(values) - entropy)


def _logsumexp(x: np.ndarray) -> np.ndarray:
    """log of the sum of exp over the last axis, kept as an axis of length 1."""
    top = x.max(-1, keepdims=True)
    return top + np.log(np.exp(x - top).sum(-1, keepdims=True))
