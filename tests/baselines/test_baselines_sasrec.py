"""SASRec: what a step may see, where it stands, and both losses, against torch and against plain sums."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import planted
import pytest
import torch
from flax import nnx

from mma_jax.baselines import fit, sasrec
from mma_jax.baselines.batches import Sequences, best_fit, sequences
from mma_jax.baselines.corpus import ALL, Corpus, Query, embed, padded
from mma_jax.baselines.recommender import Given, Kept
from mma_jax.types import InputError

LENGTH = 6


def settings(**changes):
    config = sasrec.get_config()
    config.update(dict(dim=8, length=LENGTH, dropout=0.0, batch=8) | changes)
    return config


@pytest.fixture(scope="module")
def model():
    """Of random weights large enough that everything counts."""
    made = nnx.jit(lambda: sasrec.SASRec(settings(), planted.corpus(), nnx.Rngs(0)))()
    rng = np.random.default_rng(0)
    drawn = jax.tree.map(lambda x: x + 0.3 * rng.normal(size=x.shape).astype(np.float32), nnx.state(made, nnx.Param))
    nnx.update(made, drawn)
    return made


@pytest.fixture(scope="module")
def scores(model):
    """Of histories, for candidates or for the whole catalog."""
    scorer = fit.Scorer(*nnx.split(model, (nnx.Param, Kept), Given))
    return lambda history, items=None: scorer(ask(history), items)


def uneven(seed=0, users=40, n_items=30, most=12) -> Corpus:
    """Users of 0 to `most` items."""
    rng = np.random.default_rng(seed)
    taken = [rng.permutation(n_items)[:count] for count in rng.integers(most + 1, size=users)]
    owners = np.repeat(np.arange(users, dtype=np.int32), [len(items) for items in taken])
    before = np.concatenate([np.arange(len(items), dtype=np.int32) for items in taken])
    return Corpus(users, n_items, owners, np.concatenate(taken).astype(np.int32), before, {}, {}, (ALL,))


def epoch(corpus, seed=0) -> list[Sequences]:
    return list(sequences(corpus, np.random.default_rng(seed), size=8, length=LENGTH))


def whole(corpus, negatives=1) -> Sequences:
    """An epoch in one batch, without the rows that fill it."""
    (batch,) = sequences(corpus, np.random.default_rng(0), 1000, LENGTH, negatives)
    _, first = np.unique(np.concatenate([batch.owners, batch.items], axis=1), axis=0, return_index=True)
    return Sequences(*(array[first] for array in batch))


def ask(history) -> Query:
    history = np.asarray(history, np.int32)
    return Query(np.full(len(history), -1, np.int32), history, {}, np.ones((len(history), 3), bool))


def test_a_later_item_changes_no_earlier_state(model):
    items = np.random.default_rng(1).integers(planted.ITEMS, size=(3, LENGTH))
    other = items.copy()
    other[:, 3] = (items[:, 3] + 1) % planted.ITEMS
    one, two = np.split(states(model, np.concatenate([items, other]), np.arange(LENGTH), np.zeros((6, LENGTH))), 2)
    np.testing.assert_array_equal(one[:, :3], two[:, :3])
    assert (np.abs(one - two)[:, 3:].max(axis=-1) > 1e-4).all()


def states(model, items, places, owners) -> np.ndarray:
    """float32 [R, L, D], without dropout."""

    @jax.jit
    def run(items, places, owners):
        return model.states(embed(model.items[...], items), places, sasrec.visible(owners), None)

    return np.asarray(run(items, places, owners))


@pytest.mark.parametrize(
    "history",
    [
        [-1, -1, -1, -1, -1, -1, 7, 3, 9],  # longer than the model is
        [7, -1, 3, -1, -1, -1, -1, 9, -1],  # gaps: items that are unknown
    ],
)
def test_padding_and_gaps_change_nothing(scores, history):
    np.testing.assert_allclose(scores([history]), scores([[7, 3, 9]]), rtol=1e-4, atol=1e-5)


def test_of_a_long_history_the_last_items_count(scores):
    long = np.random.default_rng(2).permutation(planted.ITEMS)[None, :9]
    np.testing.assert_allclose(scores(long), scores(long[:, -LENGTH:]), rtol=1e-4, atol=1e-5)


def test_nothing_known_scores_zero_everywhere(scores):
    assert not scores([[-1, -1, -1]]).any()


def test_the_whole_catalog_is_all_candidates(scores):
    history, known = [[4, 2, 8]], planted.corpus().degree > 0
    listed = scores(history, np.arange(planted.ITEMS, dtype=np.int32)[None])
    np.testing.assert_allclose(scores(history)[:, known], listed[:, known], rtol=1e-4, atol=1e-5)


def torch_layer(layer: sasrec.Layer, dim: int, heads: int) -> torch.nn.TransformerEncoderLayer:
    """The same weights in torch's own layer."""

    def tensor(parameter, *order):
        array = np.asarray(parameter[...])
        return torch.from_numpy((array.transpose(order) if order else array).copy())

    made = torch.nn.TransformerEncoderLayer(
        dim, heads, 4 * dim, 0.0, lambda x: torch.nn.functional.gelu(x, approximate="tanh"), 1e-6, batch_first=True
    )
    # Ours holds query, key and value of a head together, torch's those of all heads.
    split = (heads, 3, dim // heads)
    kernel, bias = np.asarray(layer.inward.kernel[...]), np.asarray(layer.inward.bias[...])
    state = {
        "self_attn.in_proj_weight": torch.from_numpy(
            kernel.reshape(dim, *split).transpose(2, 1, 3, 0).reshape(3 * dim, dim)
        ),
        "self_attn.in_proj_bias": torch.from_numpy(bias.reshape(split).transpose(1, 0, 2).flatten()),
    }
    for name, linear in (("self_attn.out_proj", layer.outward), ("linear1", layer.up), ("linear2", layer.down)):
        state |= {f"{name}.weight": tensor(linear.kernel, 1, 0), f"{name}.bias": tensor(linear.bias)}
    for name, norm in zip(("norm1", "norm2"), layer.norms, strict=True):
        state |= {f"{name}.weight": tensor(norm.scale), f"{name}.bias": tensor(norm.bias)}
    made.load_state_dict(state)
    return made.eval()


def test_scores_are_those_of_torch_layers(model, scores):
    history = np.random.default_rng(3).integers(planted.ITEMS, size=(4, LENGTH))
    items, places = (torch.tensor(np.asarray(table[...])) for table in (model.items, model.places))
    x = items[torch.from_numpy(history)] + places
    scale, bias = (torch.tensor(np.asarray(part[...])) for part in (model.norm.scale, model.norm.bias))
    x = torch.nn.functional.layer_norm(x, (8,), scale, bias, 1e-6)
    later = torch.nn.Transformer.generate_square_subsequent_mask(LENGTH)
    with torch.no_grad():
        for layer in model.layers:
            x = torch_layer(layer, 8, 2)(x, src_mask=later)
    expected = (x[:, -1] @ items.T).numpy()
    np.testing.assert_allclose(scores(history), expected, rtol=1e-4, atol=1e-5)


def test_every_step_has_its_next_item_once():
    corpus = uneven()
    taken = {user: corpus.items[corpus.users == user].tolist() for user in range(corpus.n_users)}
    expected = sorted(
        (user, items[place], items[place + 1], LENGTH - 1 - (len(items) - 2 - place))
        for user, items in taken.items()
        for place in range(max(0, len(items) - 1 - LENGTH), len(items) - 1)
    )
    batch = whole(corpus)
    there = batch.owners >= 0
    assert (there == (batch.items >= 0)).all()
    assert (there == (batch.following >= 0)).all()
    steps = (batch.owners, batch.items, batch.following, batch.places)
    found = sorted(zip(*(array[there].tolist() for array in steps), strict=True))
    assert found == expected
    for owners, items, following in zip(batch.owners, batch.items, batch.following, strict=True):
        inside = (owners[1:] == owners[:-1]) & (owners[1:] >= 0)  # a user's steps stand together, in order
        assert (items[1:] == following[:-1])[inside].all()


def test_negatives_are_not_the_users_own():
    corpus = uneven()
    batch = whole(corpus, negatives=3)
    there = batch.owners >= 0
    assert batch.others.shape == (*batch.items.shape, 3)
    assert (batch.others[~there] == -1).all()
    for user, others in zip(batch.owners[there], batch.others[there], strict=True):
        assert not np.isin(others, corpus.items[corpus.users == user]).any()
        assert (others >= 0).all()


def test_batches_have_one_shape_in_all_epochs_and_follow_the_seed():
    corpus = uneven()
    shapes = {jax.tree.map(np.shape, batch) for seed in range(5) for batch in epoch(corpus, seed)}
    assert len(shapes) == 1
    jax.tree.map(np.testing.assert_array_equal, epoch(corpus, 1), epoch(corpus, 1))
    assert not np.array_equal(epoch(corpus, 1)[0].items, epoch(corpus, 2)[0].items)


def test_without_an_order_the_corpus_has_one():
    timeless = dataclasses.replace(uneven(), before=np.full_like(uneven().before, -1))
    jax.tree.map(np.testing.assert_array_equal, epoch(uneven()), epoch(timeless))


def test_best_fit_fills_rows_and_crosses_none():
    sizes = np.random.default_rng(0).integers(1, 11, size=500)
    begins = best_fit(sizes, 10)
    assert (begins // 10 == (begins + sizes - 1) // 10).all()
    taken = np.concatenate([np.arange(begin, begin + size) for begin, size in zip(begins, sizes, strict=True)])
    assert len(np.unique(taken)) == sizes.sum()
    assert sizes.sum() > 0.9 * 10 * (begins.max() // 10 + 1)


def apart(batch: Sequences) -> Sequences:
    """The same steps, each user in a row of its own, with -1 in front."""
    parts = []
    for user in np.unique(batch.owners[batch.owners >= 0]):
        mine = batch.owners == user
        front = LENGTH - mine.sum()
        rows = Sequences(*(np.full((LENGTH, *array.shape[2:]), -1, np.int32) for array in batch))
        for row, array in zip(rows, batch, strict=True):
            row[front:] = array[mine]
        rows.places[:front] = 0
        parts.append(rows)
    return Sequences(*map(np.stack, zip(*parts, strict=True)))


@pytest.mark.parametrize("loss", sasrec.LOSSES)
def test_packed_rows_cost_what_rows_apart_cost(model, loss):
    corpus = uneven(n_items=planted.ITEMS)
    batch = whole(corpus)
    together, alone = (loss_of(model, loss, given) for given in (batch, apart(batch)))
    np.testing.assert_allclose(together, alone, rtol=1e-5)


def loss_of(model, loss, batch) -> float:
    model.softmax = loss == "ce"
    return float(jax.jit(lambda batch: model.loss(batch, jax.random.key(0)))(batch))


def test_bce_is_equation_7(model):
    batch = whole(uneven(n_items=planted.ITEMS))
    found = states(model, batch.items, batch.places, batch.owners).astype(np.float64)
    table, total, count = np.asarray(model.items[...], np.float64), 0.0, 0
    for row, step in zip(*np.nonzero(batch.owners >= 0), strict=True):
        logits = table[[batch.following[row, step], batch.others[row, step, 0]]] @ found[row, step]
        own, other = 1 / (1 + np.exp(-logits))
        total, count = total - np.log(own) - np.log(1 - other), count + 1
    np.testing.assert_allclose(loss_of(model, "bce", batch), total / count, rtol=1e-5)


@pytest.mark.parametrize("chunk", [1, 100, 2**22])
def test_softmax_in_chunks_has_the_value_and_gradients_of_the_whole(monkeypatch, chunk):
    monkeypatch.setattr(sasrec, "CHUNK", chunk)
    rng = np.random.default_rng(0)
    x, table = (jnp.asarray(rng.normal(size=(rows, 4)), jnp.float32) for rows in (23, 11))
    targets = rng.integers(-1, 11, size=23)

    def whole(x, table):
        logs = jax.nn.log_softmax(x @ table.T)[jnp.arange(23), targets]
        return -jnp.where(targets >= 0, logs, 0.0).sum() / (targets >= 0).sum()

    found = jax.value_and_grad(lambda *both: 3 * sasrec.softmax_loss(both[0], targets, both[1]), (0, 1))(x, table)
    expected = jax.value_and_grad(lambda *both: 3 * whole(*both), (0, 1))(x, table)
    jax.tree.map(lambda one, two: np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6), found, expected)
    assert np.isfinite(sasrec.softmax_loss(1e4 * x, targets, table))


def test_dropout_drops_its_share_and_keeps_the_mean():
    x = jnp.ones((100, 100))
    dropped = sasrec.drop(x, 0.3, jax.random.key(0))
    assert abs(float((dropped == 0).mean()) - 0.3) < 0.02
    assert abs(float(dropped.mean()) - 1) < 0.02
    np.testing.assert_array_equal(dropped, sasrec.drop(x, 0.3, jax.random.key(0)))
    assert sasrec.drop(x, 0.3, None) is x


@pytest.mark.parametrize("loss", sasrec.LOSSES)
def test_order_is_learned(loss, tmp_path):
    """Each item is followed by the next number: only who took what, without order, would not tell."""
    n_items, count = 24, 10
    begins = np.random.default_rng(0).integers(n_items, size=150)
    items = ((begins[:, None] + np.arange(count)) % n_items).astype(np.int32)
    corpus = Corpus(
        n_users=150,
        n_items=n_items,
        users=np.repeat(np.arange(150, dtype=np.int32), count),
        items=items.ravel(),
        before=np.tile(np.arange(count, dtype=np.int32), 150),
        content={},
        has={},
        families=(ALL,),
    )
    config = settings(dim=16, length=20, loss=loss, lr=1e-2, epochs=60, batch=50)
    scorer, _ = fit.fit(sasrec.make(config, corpus), config, 0, tmp_path, None, "order")
    scores = scorer(ask(items[:, 3:]), None).copy()
    np.put_along_axis(scores, items, -np.inf, axis=1)  # nobody's own items are ever negatives
    best = scores.argmax(axis=1)
    assert (best == (items[:, -1] + 1) % n_items).mean() > 0.95


@pytest.mark.parametrize("changes", [dict(loss="mse"), dict(dim=9)])
def test_settings_that_make_no_sense_are_refused(changes):
    with pytest.raises(InputError, match="sasrec"):
        sasrec.make(settings(**changes), planted.corpus())


def test_where_no_history_is_kept_nothing_is_said(model):
    """config.data.max_history=0"""
    assert not model.last(model.encode(), padded([np.arange(3)] * 2, 0)).any()


def test_a_corpus_in_which_nothing_follows_anything_is_refused():
    given = planted.corpus()
    _, first = np.unique(given.users, return_index=True)
    once = dataclasses.replace(given, users=given.users[first], items=given.items[first], before=given.before[first])
    with pytest.raises(InputError, match="no user has two training interactions"):
        sasrec.make(settings(), once)
