"""What every baseline owes: planted structure found, masks obeyed, the same figures however it is asked."""

import functools

import jax
import numpy as np
import planted
import pytest
from flax import nnx

from mma_jax.baselines import fit
from mma_jax.baselines.recommender import LOOP, Model
from mma_jax.baselines.registry import BASELINES
from mma_jax.types import FAMILIES, MODALITIES

every = pytest.mark.parametrize("name", BASELINES)
FULL = FAMILIES["full"]


def settings(name, epochs=20):
    config = BASELINES[name].get_config()
    config.batch, config.lr, config.epochs, config.validate_every, config.patience = 128, 1e-2, epochs, epochs, epochs
    return config


def train(name, directory, epochs=20, seed=0):
    config = settings(name, epochs)
    made = BASELINES[name].make(config, planted.corpus())
    return fit.fit(made, config, seed, directory, lambda scorer: 0.0, name)[0]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return functools.cache(lambda name: train(name, tmp_path_factory.mktemp("baseline")))


def auc(scores):
    """Share of pairs in which the first column wins, ties half."""
    first, others = scores[:, :1], scores[:, 1:]
    return ((first > others) + 0.5 * (first == others)).mean()


def speaks(name, mask):
    """Whether a baseline has evidence to rank by."""
    needs = BASELINES[name].needs
    return mask[MODALITIES.index(needs)] if needs else True


@every
@pytest.mark.parametrize("family", FAMILIES)
def test_planted_structure_is_found_or_nothing_is_said(trained, name, family):
    scores = trained(name)(*planted.questions(planted.corpus(), FAMILIES[family]))
    assert np.isfinite(scores).all()
    if speaks(name, FAMILIES[family]):
        assert auc(scores) > 0.8
    else:
        assert (scores == scores[:, :1]).all()


@every
def test_a_user_without_training_interactions_has_a_history(trained, name):
    query, items = planted.questions(planted.corpus(), FULL)
    stranger = query._replace(user=np.full_like(query.user, -1))
    assert auc(trained(name)(stranger, items)) > 0.8


@every
def test_a_batch_equals_its_rows(trained, name):
    query, items = planted.questions(planted.corpus(), FULL, range(6))
    together = trained(name)(query, items)
    for row in range(6):
        alone, own = planted.questions(planted.corpus(), FULL, [row])
        own = items[row : row + 1]
        np.testing.assert_allclose(trained(name)(alone, own), together[row : row + 1], rtol=1e-4, atol=1e-5)


@every
@pytest.mark.parametrize("hidden", MODALITIES)
def test_what_is_hidden_changes_nothing(trained, name, hidden):
    """The same parameters, other evidence of a hidden modality: the same scores, bit for bit."""
    learned, scorers = trained(name)._model[1], []
    for corpus in (planted.corpus(), planted.without(planted.corpus(), hidden)):
        graph, _, given = fit.split(BASELINES[name].make(settings(name), corpus), 0)
        scorers.append((corpus, fit.Scorer(graph, learned, given)))
    for family in (family for family, mask in FAMILIES.items() if not mask[MODALITIES.index(hidden)]):
        found = [scorer(*planted.questions(corpus, FAMILIES[family])) for corpus, scorer in scorers]
        np.testing.assert_array_equal(*found, err_msg=family)


@every
def test_the_order_of_candidates_changes_nothing(trained, name):
    query, items = planted.questions(planted.corpus(), FULL, range(8))
    order = np.random.default_rng(0).permutation(items.shape[1])
    np.testing.assert_allclose(
        trained(name)(query, items[:, order]), trained(name)(query, items)[:, order], rtol=1e-5, atol=1e-6
    )


@every
def test_one_seed_gives_one_model_and_a_cut_run_goes_on(name, tmp_path):
    whole = train(name, tmp_path / "whole", epochs=3)
    train(name, tmp_path / "cut", epochs=1)  # its checkpoint is what a kill after epoch 1 leaves
    cut = train(name, tmp_path / "cut", epochs=3)
    other = train(name, tmp_path / "other", epochs=3, seed=1)
    question = planted.questions(planted.corpus(), FULL)
    np.testing.assert_array_equal(whole(*question), cut(*question))
    assert not np.array_equal(whole(*question), other(*question))


@every
def test_settings_have_what_the_loop_reads(name):
    config = BASELINES[name].get_config()
    assert set(LOOP) <= set(config)


@every
def test_everything_a_model_holds_is_declared(name):
    _, learned, _ = fit.split(BASELINES[name].make(settings(name), planted.corpus()), 0)  # raises if it is not
    assert jax.tree.leaves(nnx.filter_state(learned, nnx.Param))


def test_an_entry_that_does_not_score_is_refused():
    class Half(Model):
        def loss(self, batch, key):
            return 0.0

        def encode(self):
            return ()

    with pytest.raises(TypeError, match=r"abstract method '?score"):
        Half()
