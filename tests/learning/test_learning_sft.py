import functools

import jax
import jax.numpy as jnp
import learning_fixture as fixture
import numpy as np
import pytest
from flax import nnx

from mma_jax.learning import sft
from mma_jax.learning.checkpoint import Checkpoints
from mma_jax.learning.panel import Panel
from mma_jax.learning.sequences import pad
from mma_jax.models.heads import ValueParam
from mma_jax.types import InputError

BUCKETS = (32,)
MAKE_STEP = sft.make_step


@functools.cache
def compiled(graphdef, steps):
    return MAKE_STEP(graphdef, fixture.sft_config(steps=steps))


@pytest.fixture(autouse=True)
def compiled_once(monkeypatch):
    """What a step depends on, but for the number of steps, is the same in all tests here."""
    monkeypatch.setattr(sft, "make_step", lambda graphdef, config, placement=None: compiled(graphdef, config.steps))


def copy(tree):
    return jax.tree.map(jnp.copy, tree)


def test_loss_is_the_nll_of_action_tokens_alone():
    graphdef, params, frozen = fixture.actor_critic(trained=0.2)
    config = fixture.sft_config()
    batch = pad(fixture.random_sequences(4), BUCKETS, fixture.TURNS)
    model = nnx.merge(graphdef, params, frozen).model
    log_p = np.asarray(jax.nn.log_softmax(model.logits(model(batch.tokens))))
    slow = [-log_p[n, t - 1, batch.tokens[n, t]] for n, t in zip(*np.nonzero(batch.action), strict=True)]
    _, metrics = sft.make_step(graphdef, config)(sft.init(params, config), frozen, batch)
    assert float(metrics["loss"]) == pytest.approx(float(np.mean(slow)), abs=1e-5)


def test_what_tools_answer_is_not_learned():
    """Observation tokens are inputs: those behind the last action change neither loss nor gradient."""
    graphdef, params, frozen = fixture.actor_critic(trained=0.2)
    config = fixture.sft_config()
    step, norms = sft.make_step(graphdef, config), []
    for answer in ([5, 6], [7, 8]):
        batch = pad([fixture.build([1, 2, 3], [([4, 9], answer)], [0])], BUCKETS, fixture.TURNS, rows=4)
        norms.append(jax.device_get(step(sft.init(copy(params), config), frozen, batch)[1]))
    assert norms[0] == norms[1] and norms[0]["grad_norm"] > 0


def test_a_mean_over_turns_gives_every_turn_the_same_weight():
    sequences = fixture.random_sequences(4)
    batch = pad(sequences, BUCKETS, fixture.TURNS, rows=5)
    x = np.where(batch.action, np.random.default_rng(0).normal(size=batch.tokens.shape), 0.0)
    slow = [x[n][batch.turn[n] == t].mean() for n, s in enumerate(sequences) for t in range(len(s.starts))]
    assert float(sft.mean(x, batch, "turn")) == pytest.approx(np.mean(slow), abs=1e-6)
    assert float(sft.mean(x, batch, "token")) == pytest.approx(x[batch.action].mean(), abs=1e-6)


def test_an_unknown_mean_is_refused():
    with pytest.raises(InputError, match=r"sft\.mean.*token, turn"):
        sft.init(fixture.actor_critic()[1], fixture.sft_config(mean="episode"))


def run(tmp_path, sequences, config, actor=None, keep=Checkpoints):
    graphdef, params, frozen = actor or fixture.actor_critic()
    panel = Panel(tmp_path / "sft", fixture.limits())
    checkpoints = keep(tmp_path / "checkpoints", 2)
    state = sft.init(params, config)
    state = sft.train(state, frozen, graphdef, sequences, config, BUCKETS, checkpoints, panel, 0)
    return state, (tmp_path / "sft/panel.jsonl").read_bytes()


def test_it_learns_and_leaves_the_value_head_alone(tmp_path):
    graphdef, params, frozen = fixture.actor_critic(trained=0.1)
    sequences = fixture.random_sequences(4)
    config = fixture.sft_config(steps=80, checkpoint_every=100)
    state, _ = run(tmp_path, sequences, config, actor=(graphdef, params, frozen))
    same = jax.tree.map(np.array_equal, *(nnx.filter_state(p, ValueParam) for p in (state.params, params)))
    assert all(jax.tree.leaves(same))
    step, batch = sft.make_step(graphdef, config), pad(sequences, BUCKETS, fixture.TURNS)
    losses = [float(step(sft.init(copy(p), config), frozen, batch)[1]["loss"]) for p in (params, state.params)]
    assert losses[1] < 0.5 * losses[0]


def test_data_is_shuffled_bucketed_and_goes_on_where_it_was():
    sequences = fixture.random_sequences(40)
    lengths = sorted({16 if len(s) <= 16 else 32 for s in sequences})
    assert lengths == [16, 32]
    stream = sft.batches(sequences, fixture.BUCKETS, 4, 0)
    drawn = [next(stream) for _ in range(10)]
    rows = [tuple(row[row > 0]) for batch in drawn for row in batch.tokens]
    known = {tuple(s.tokens) for s in sequences}
    assert known.issuperset(rows)
    assert {batch.tokens.shape for batch in drawn} == {(4, 16), (4, 32)}
    assert len(set(rows)) > 30 and rows != [tuple(s.tokens) for s in sequences]
    where, later = stream.get_state(), [next(stream) for _ in range(3)]
    again = sft.batches(sequences, fixture.BUCKETS, 4, 0)
    again.set_state(where)
    for batch in later:
        np.testing.assert_array_equal(batch.tokens, next(again).tokens)
    other = next(sft.batches(sequences, fixture.BUCKETS, 4, 1))
    assert other.tokens.shape != drawn[0].tokens.shape or (other.tokens != drawn[0].tokens).any()


def test_every_sequence_comes_once_an_epoch():
    sequences = [fixture.build([n + 1, 2], [([3], [])], [0], episode=str(n)) for n in range(12)]
    stream = sft.batches(sequences, (4,), 4, 0)
    epochs = [np.concatenate([next(stream).tokens[:, 0] for _ in range(3)]) for _ in range(2)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(1, 13))] * 2
    assert epochs[0].tolist() != epochs[1].tolist()


def test_nothing_to_learn_from_is_refused():
    with pytest.raises(InputError, match="no episodes"):
        sft.batches([], fixture.BUCKETS, 4, 0)


class Broken(Checkpoints):
    """The run breaks off behind its checkpoint of step 4."""

    def save(self, step, *parts):
        if step > 4:
            raise KeyboardInterrupt
        super().save(step, *parts)


def test_rule_13_stopped_and_resumed_is_uninterrupted(tmp_path):
    sequences = fixture.random_sequences(11)
    whole, log = run(tmp_path / "whole", sequences, fixture.sft_config())
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", sequences, fixture.sft_config(), keep=Broken)
    (tmp_path / "parts/sft/panel.jsonl").open("a").write('{"iteration": 7, "loss": 9')
    parts, resumed_log = run(tmp_path / "parts", sequences, fixture.sft_config())
    assert resumed_log == log
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, whole, parts)))


def test_not_a_number_in_the_weights_stops_the_run(tmp_path):
    graphdef, params, frozen = fixture.actor_critic()
    broken = (graphdef, params, jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), frozen))
    with pytest.raises(FloatingPointError, match=r"nonfinite_3\.npz"):
        run(tmp_path, fixture.random_sequences(6), fixture.sft_config(), actor=broken)
    assert "tokens" in np.load(tmp_path / "sft/nonfinite_3.npz")
