"""LightGCN beside its equations, node by node in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import planted
import pytest
from flax import nnx

from mma_jax.baselines import fit, lightgcn
from mma_jax.baselines.batches import Choices
from mma_jax.baselines.corpus import ask

LAYERS = 3


@pytest.fixture(scope="module")
def corpus():
    return planted.corpus()


@pytest.fixture(scope="module")
def first(corpus):
    """Layer 0: float64 [U, 5], [I, 5]."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(corpus.n_users, 5)), rng.normal(size=(corpus.n_items, 5))


def neighbors(corpus):
    """The items of each user, the users of each item."""
    of_user, of_item = [[] for _ in range(corpus.n_users)], [[] for _ in range(corpus.n_items)]
    for user, item in zip(corpus.users, corpus.items, strict=True):
        of_user[user].append(item)
        of_item[item].append(user)
    return of_user, of_item


def every_layer(corpus, users, items, count):
    """Eq. 3, node by node: a list of (users, items)."""
    of_user, of_item = neighbors(corpus)
    found = [(users, items)]
    for _ in range(count):
        users, items = found[-1]
        above = np.zeros_like(users), np.zeros_like(items)
        for user, near in enumerate(of_user):
            for item in near:
                above[0][user] += items[item] / np.sqrt(len(near) * len(of_item[item]))
                above[1][item] += users[user] / np.sqrt(len(near) * len(of_item[item]))
        found.append(above)
    return found


def mean(tables):
    return np.mean(tables, axis=0)


def model_of(corpus, first, reg=0.0):
    config = lightgcn.get_config()
    config.dim, config.layers, config.reg = 5, LAYERS, reg
    model = lightgcn.make(config, corpus).module(nnx.Rngs(0))
    model.users[...], model.items[...] = (jnp.asarray(table, jnp.float32) for table in first)
    return model


def test_vectors_are_the_mean_of_all_layers(corpus, first):
    found = model_of(corpus, first).encode()
    users, items = zip(*every_layer(corpus, *first, LAYERS), strict=True)
    np.testing.assert_allclose(found.users, mean(users), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.items, mean(items), rtol=1e-4, atol=1e-6)
    assert not neighbors(corpus)[0][-1]  # the last user is alone: a share of its own vector
    np.testing.assert_allclose(found.users[-1], first[0][-1] / (LAYERS + 1), rtol=1e-5)


def test_the_gradient_is_that_of_a_dense_product(corpus, first):
    users, items = (jnp.asarray(table, jnp.float32) for table in first)
    counts = np.bincount(corpus.users, minlength=corpus.n_users), corpus.degree
    half = np.zeros((corpus.n_users, corpus.n_items), np.float32)
    half[corpus.users, corpus.items] = 1 / np.sqrt(counts[0][corpus.users] * counts[1][corpus.items])

    def dense(users, items):
        total = now = (users, items)
        for _ in range(LAYERS):
            now = half @ now[1], half.T @ now[0]
            total = total[0] + now[0], total[1] + now[1]
        return total[0] / (LAYERS + 1), total[1] / (LAYERS + 1)

    def value(propagate):
        return lambda users, items: sum(jnp.sin(3 * table).sum() for table in propagate(users, items))

    sides = lightgcn.graph(corpus)
    found = jax.jit(jax.grad(value(lambda *tables: lightgcn.propagate(LAYERS, sides, *tables)), (0, 1)))(users, items)
    wanted = jax.grad(value(dense), (0, 1))(users, items)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_means_over_neighbours_are_theirs_node_by_node(corpus):
    """Of two tables at once."""
    rng, taken = np.random.default_rng(1), lightgcn.graph(corpus)
    means, sizes = (lightgcn.mean_of_items, lightgcn.mean_of_users), (corpus.n_items, corpus.n_users)
    for near, mean_of, size in zip(neighbors(corpus), means, sizes, strict=True):
        values = rng.normal(size=(2, size, 3))
        wanted = [values[:, some].mean(axis=1) if some else np.zeros((2, 3)) for some in near]
        found = mean_of(taken, jnp.asarray(values, jnp.float32))
        np.testing.assert_allclose(found, np.stack(wanted, axis=1), rtol=1e-4, atol=1e-6)


def test_a_new_user_is_a_node_without_a_vector_of_its_own(corpus, first):
    """Edges in one direction alone: the items' layers stay as they were."""
    history = np.array([3, 20, 21, 77], np.int32)
    _, items = zip(*every_layer(corpus, *first, LAYERS), strict=True)
    degree = np.array([len(near) for near in neighbors(corpus)[1]])
    own = [np.zeros(5)]
    own += [sum(items[k][i] / np.sqrt(len(history) * degree[i]) for i in history) for k in range(LAYERS)]
    wanted = mean(items) @ mean(own)

    scorer = fit.Scorer(*nnx.split(model_of(corpus, first), (nnx.Param,), ...))
    query = ask(
        corpus, np.array([corpus.n_users - 1]), np.r_[-1, history][None].astype(np.int32), np.ones((1, 3), bool)
    )
    assert query.user[0] == -1
    np.testing.assert_allclose(scorer(query, None)[0], wanted, rtol=1e-4, atol=1e-6)
    some = np.array([[5, 99, 0]], np.int32)
    np.testing.assert_allclose(scorer(query, some)[0], wanted[some[0]], rtol=1e-4, atol=1e-6)


def test_the_loss_is_eq_15_with_the_batch_s_layer_0(corpus, first):
    rows = np.array([0, 9, 700])
    chosen, other = corpus.items[rows], np.array([50, 1, 2])
    query = ask(corpus, corpus.users[rows], np.full((3, 1), -1, np.int32), np.ones((3, 3), bool))
    batch = Choices(query, np.stack([chosen, other], axis=1).astype(np.int32))
    users, items = map(mean, zip(*every_layer(corpus, *first, LAYERS), strict=True))
    wanted = []
    for user, i, j in zip(corpus.users[rows], chosen, other, strict=True):
        margin = users[user] @ (items[i] - items[j])
        size = sum(np.square(table[row]).sum() for table, row in ((first[0], user), (first[1], i), (first[1], j)))
        wanted.append(np.log1p(np.exp(-margin)) + 0.3 / 2 * size)
    found = model_of(corpus, first, reg=0.3).loss(batch, jax.random.key(0))
    assert float(found) == pytest.approx(np.mean(wanted), rel=1e-4)


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_it_lowers_for_every_platform(corpus, first, platform):
    sides, tables = lightgcn.graph(corpus), [jnp.asarray(table, jnp.float32) for table in first]

    def value(*tables):
        return sum(table.sum() for table in lightgcn.propagate(LAYERS, sides, *tables))

    assert jax.jit(jax.grad(value)).trace(*tables).lower(lowering_platforms=(platform,)).as_text()
