import dataclasses
import functools
import json
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import learning_fixture as fixture
import numpy as np
import pytest
from flax import nnx

from mma_jax.learning import ppo
from mma_jax.learning.checkpoint import Checkpoints
from mma_jax.learning.panel import Panel
from mma_jax.learning.sequences import pad, siblings
from mma_jax.learning.state import copy
from mma_jax.models.heads import ValueParam
from mma_jax.models.llama import empty_caches
from mma_jax.types import InputError

BUCKETS = (16,)
KEY = jax.random.key(7)
T = fixture.ppo_config().temperature
MAKE = ppo.make_update
STUCK = Path(tempfile.mkdtemp())  # where an update that cannot go on leaves its batch


@functools.cache
def compiled(graphdef, settings):
    config = fixture.ppo_config(**dict(settings))
    return MAKE(graphdef, config, BUCKETS, fixture.TURNS, STUCK)


def updater(graphdef, **settings):
    return compiled(graphdef, tuple(sorted(settings.items())))


def hit(ids):
    """The toy bandit: 1 for a turn that starts with token 5, and small change for its second."""
    return float(ids[0] == 5) + 0.1 * float(ids[1] == 6)


PROMPTS = [[1, 2, 7], [1, 3, 7], [1, 4, 7], [1, 5, 8]]


def played(actor, iteration=0, samples=2):
    return fixture.play(actor, PROMPTS, jax.random.fold_in(KEY, iteration), T, hit, samples=samples)


def figures_of(actor, sequences, value_only=False, rng=0, **settings):
    """(state after one update, its figures)"""
    graphdef, params, frozen = actor
    state = copy(ppo.init(params, fixture.ppo_config(**settings)))
    update = updater(graphdef, **settings)
    return update(state, frozen, copy(params), sequences, np.random.default_rng(rng), value_only)


def test_a_token_s_own_advantage_replaces_its_turn_s():
    """Every token's credit set to the turn's advantage is the update without credit; another credit is another one."""
    actor = fixture.actor_critic()
    sequences = played(actor)
    batch = pad(sequences, BUCKETS, fixture.TURNS)
    values = np.zeros(batch.rewards.shape, np.float32)
    goal = ppo.targets(batch, values, siblings(sequences), gamma=1.0, lam=0.95, baseline="siblings", whiten=False)
    turns = np.asarray(goal.advantages)

    def credited(scale):
        return [
            dataclasses.replace(s, credit=np.where(s.action, scale * turns[n][np.maximum(s.turn, 0)], np.nan))
            for n, s in enumerate(sequences)
        ]

    settings = dict(baseline="siblings", whiten=False, credit="candidate")
    # the value head starts at zero, so its values are the zeros above
    results = [figures_of(actor, given, **settings)[0].params for given in (sequences, credited(1.0), credited(-1.0))]
    plain, same, other = (jax.tree.leaves(params) for params in results)
    assert all(np.allclose(a, b, atol=1e-6) for a, b in zip(plain, same, strict=True))
    assert not all(np.allclose(a, b, atol=1e-4) for a, b in zip(plain, other, strict=True))


def test_recomputing_blocks_changes_no_update():
    """Adapters are differentiated and the base is not, as in training."""
    actor = fixture.actor_critic(trained=0.3)
    plain, spare = (figures_of(actor, played(actor), remat=remat)[0].params for remat in (False, True))
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(spare), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_credit_keeps_the_scale_of_whitened_turns():
    sequences = [
        dataclasses.replace(s, credit=np.where(s.action, 0.5, np.nan).astype(np.float32))
        for s in played(fixture.actor_critic())
    ]
    batch = pad(sequences, BUCKETS, fixture.TURNS)
    values, group = np.zeros(batch.rewards.shape, np.float32), siblings(sequences)
    raw, white = (
        ppo.targets(batch, values, group, gamma=1.0, lam=0.95, baseline="value", whiten=whiten)
        for whiten in (False, True)
    )
    spread = np.asarray(raw.advantages)[batch.turn_mask].std()
    np.testing.assert_allclose(np.asarray(white.credit)[batch.action], 0.5 / spread, rtol=1e-4)
    assert np.isnan(np.asarray(white.credit)[~batch.action]).all()


@pytest.mark.parametrize(
    "change",
    [
        {"credit": "candidate", "samples": 1},
        {"credit": "candidate", "ratio": "turn"},
        {"credit": "level", "ratio": "turn_mean"},
    ],
)
def test_credit_of_scores_needs_ratios_of_tokens_and_that_of_candidates_siblings(change):
    with pytest.raises(InputError, match=r"ppo\.credit"):
        ppo.check(fixture.ppo_config(**change))


def with_levels(sequences, rewards):
    """Every sampled token's place could have held tokens 1 .. len(rewards), at these rewards."""
    levels = len(rewards)
    return [
        dataclasses.replace(
            s,
            choices=np.where(s.action[:, None], np.arange(1, levels + 1), -1).astype(np.int32),
            worth=np.where(s.action[:, None], rewards, np.nan).astype(np.float32),
        )
        for s in sequences
    ]


def test_the_worth_of_levels_replaces_the_turn_s_advantage():
    """Levels of equal worth change nothing, whatever was sampled; else the better ones become more likely."""
    actor = graphdef, params, frozen = fixture.actor_critic(trained=0.3)
    sequences = played(actor)
    settings = dict(credit="level", whiten=False)
    flat, steep = (
        figures_of(actor, with_levels(sequences, rewards), **settings)
        for rewards in (np.full(31, 0.4), np.arange(31) == 8)
    )
    assert flat[1]["grad_norm"] < 1e-5 * steep[1]["grad_norm"]
    measure, _ = ppo.make_passes(graphdef, fixture.ppo_config(**settings))

    def likely(params, token):
        batch = pad(with_levels(sequences, np.arange(31) == token - 1), BUCKETS, fixture.TURNS)
        packed = ppo.share(batch.tokens, np.full(len(sequences), 16), siblings(sequences), 4, BUCKETS)
        logprobs = np.asarray(measure(params, frozen, batch, packed)[3])[..., token - 1]
        return logprobs[batch.action].mean()

    assert likely(steep[0].params, 9) > likely(params, 9) + 0.01


def test_the_worth_of_levels_does_not_care_how_rows_are_computed_together():
    actor = fixture.actor_critic(trained=0.3)
    sequences = with_levels(played(actor), np.linspace(0, 1, 7))
    states = [figures_of(actor, sequences, credit="level", micro_batch=size)[0] for size in (2, 8)]
    for a, b in zip(*(jax.tree.leaves(state.params) for state in states), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.parametrize(
    "settings", [{}, {"ratio": "turn", "kl": 0.1, "entropy": 0.01, "baseline": "siblings"}, {"credit": "level"}]
)
def test_a_single_update_needs_no_pass_before_it(settings):
    """What the sampler told of V is what the trainer finds; then the update is the one with pi_old's own pass."""
    actor = graphdef, params, frozen = fixture.actor_critic(trained=0.3)
    sequences = [s for s in fixture.random_sequences(30) if len(s) <= 16][:8]
    if settings.get("credit"):
        sequences = with_levels(sequences, np.linspace(0, 1, 7))
    measure, _ = ppo.make_passes(graphdef, fixture.ppo_config())
    batch = pad(sequences, BUCKETS, fixture.TURNS)
    packed = ppo.share(batch.tokens, np.full(len(sequences), 16), siblings(sequences), 4, BUCKETS)
    found = np.asarray(measure(params, frozen, batch, packed)[2])
    told = [dataclasses.replace(s, values=found[n, : len(s.starts)]) for n, s in enumerate(sequences)]
    assert found.any()
    (state, figures), (short, same) = (figures_of(actor, given, **settings) for given in (sequences, told))
    for name in figures:
        assert same[name] == pytest.approx(figures[name], rel=1e-4, abs=1e-5), name
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(short.params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)
    wrong = [dataclasses.replace(s, values=s.values + np.arange(len(s.values))) for s in told]
    assert figures_of(actor, wrong, **settings)[1]["value"] > figures["value"] + 0.1


def test_the_divergence_is_logged_from_a_part_where_nothing_is_paid_for_it():
    """The reference sees the first of every four micro-batches of two rows; whoever pays for it compares all."""
    actor = graphdef, params, frozen = fixture.actor_critic(trained=0.3)
    sequences = played(actor, samples=4)
    reference = jax.tree.map(lambda x: 0.7 * x, copy(params))
    rng, kls = np.random.default_rng(0), []
    for weight in (0.0, 1e-6):
        state = copy(ppo.init(params, fixture.ppo_config()))
        update = updater(graphdef, micro_batch=2, kl=weight)
        kls.append(update(state, frozen, copy(reference), sequences, rng)[1]["kl"])
    part = figures_of_reference(actor, reference, sequences)
    assert kls[1] == pytest.approx(part.mean(), rel=1e-4) and kls[0] == pytest.approx(
        part[[0, 1, 8, 9]].mean(), rel=1e-4
    )
    assert kls[0] != pytest.approx(kls[1], rel=1e-2)


def figures_of_reference(actor, reference, sequences):
    """Mean k3 between the policy and the reference of each sequence, all of which have the same number of tokens."""
    graphdef, params, frozen = actor
    measure, _ = ppo.make_passes(graphdef, fixture.ppo_config())
    batch = pad(sequences, BUCKETS, fixture.TURNS)
    packed = ppo.share(batch.tokens, np.full(len(sequences), 16), np.arange(len(sequences)), len(sequences), BUCKETS)
    mine, theirs = (np.asarray(measure(p, frozen, batch, packed)[0]) for p in (params, reference))
    k3 = np.where(batch.action, np.exp(theirs - mine) - 1 - (theirs - mine), 0)
    return k3.sum(1) / batch.action.sum(1)


# DESIGN §6, by rule


def test_rule_1_same_parameters_mean_ratio_1_and_no_clipping():
    """pi_old from a pass of its own: two epochs, the first of which moves nothing."""
    actor = fixture.actor_critic(trained=0.3)
    _, figures = figures_of(actor, played(actor), epochs=2, lr=0.0)
    assert figures["ratio_mean"] == pytest.approx(1, abs=1e-4)
    assert figures["ratio_max"] == pytest.approx(1, abs=1e-4)
    assert figures["clip_fraction"] == 0 and figures["clip_fraction/to_16"] == 0


def test_rule_2_sampler_with_a_cache_and_trainer_agree():
    """Log-probabilities of tokens fed one by one through `extend`, as a sampler does, against the trainer's pass."""
    actor = graphdef, params, frozen = fixture.actor_critic(trained=0.3)
    tokens = np.stack([s.tokens for s in played(actor)])
    model = nnx.merge(graphdef, params, frozen).model

    @jax.jit
    def decode(caches, token, position):
        hidden, caches = model.extend(token[:, None], jnp.full(len(token), position), caches)
        return jax.nn.log_softmax(model.logits(hidden[:, 0]) / T), caches

    caches, before, cached = empty_caches(fixture.SHAPE, len(tokens), tokens.shape[1]), None, np.zeros(tokens.shape)
    for position in range(tokens.shape[1]):
        if before is not None:
            cached[:, position] = np.take_along_axis(np.asarray(before), tokens[:, position, None], 1)[:, 0]
        before, caches = decode(caches, tokens[:, position], position)
    sequences = [
        fixture.build(s.tokens[:3], [(s.tokens[3:5], s.tokens[5:7]), (s.tokens[7:9], s.tokens[9:11])], s.rewards)
        for s in played(actor)
    ]
    by_cache = [
        dataclasses.replace(s, logprobs=(c * s.action).astype(np.float32))
        for s, c in zip(sequences, cached, strict=True)
    ]
    _, figures = figures_of(actor, by_cache)
    assert 0 < figures["dlogp_max"] < 1e-4 and figures["dlogp_p95"] <= figures["dlogp_max"]
    wrong = [dataclasses.replace(s, logprobs=np.roll(s.logprobs, 1)) for s in by_cache]
    assert figures_of(actor, wrong)[1]["dlogp_max"] > 0.1


def test_rule_4_tokens_of_observations_change_no_advantage():
    """Advantages depend on rewards, values and turns; the rewards on action tokens sum to what the episode paid."""
    values = np.random.default_rng(0).normal(size=(2, fixture.TURNS)).astype(np.float32)
    rewards = [[-0.02, 0.0, 0.7], [0.0, 0.0]]  # a reward of zero is a reward: boundaries come from masks

    def goal(observation):
        turns = [[([4, 5], observation)] * len(r) for r in rewards]
        sequences = [fixture.build([1, 2], t, r) for t, r in zip(turns, rewards, strict=True)]
        batch = pad(sequences, (64,), fixture.TURNS)
        arrays = ppo.targets(batch, values, siblings(sequences), gamma=1.0, lam=0.9, baseline="siblings", whiten=True)
        return batch, jax.device_get(arrays)

    batch, short = goal([3])
    _, long = goal([9, 8, 7, 6])
    for a, b in zip(short, long, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(short.to_go[:, 0], [sum(r) for r in rewards], rtol=1e-6)
    assert (short.advantages[batch.turn_mask] != 0).all() and not short.advantages[~batch.turn_mask].any()


def test_rule_5_update_is_invariant_to_micro_batch_split():
    """8 rows in two micro-batches of 4, and in three of 3 of which one is filled up."""
    actor = fixture.actor_critic(trained=0.3)
    sequences = [s for s in fixture.random_sequences(30) if len(s) <= 16][:8]
    state, figures = figures_of(actor, sequences)
    other, others = figures_of(actor, sequences, micro_batch=3)
    for name in ("policy_loss", "value_loss", "grad_norm", "value_grad_norm", "kl", "entropy", "explained_variance"):
        assert others[name] == pytest.approx(figures[name], rel=1e-4, abs=1e-5), name
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(other.params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)


def train(tmp_path, actor, validate=None, collect=None, **settings):
    graphdef, params, frozen = actor
    config = fixture.ppo_config(**settings)
    panel = Panel(tmp_path / "ppo", fixture.limits())

    def play(params, iteration):
        return played((graphdef, params, frozen), iteration), {"failed_call_rate": iteration / 8}

    state = ppo.train(
        *(ppo.init(params, config), frozen, graphdef, collect or play, config, BUCKETS, fixture.TURNS),
        *(Checkpoints(tmp_path / "checkpoints", 2), panel, 0, validate),
    )
    panel.close()
    return state, [json.loads(line) for line in panel.path.read_text().splitlines()]


@pytest.fixture
def compiled_once(monkeypatch):
    """Training with the default settings compiles nothing anew."""
    monkeypatch.setattr(ppo, "make_update", lambda graphdef, config, *rest: updater(graphdef))


def test_rule_8_kl_is_0_at_first_and_the_reference_stays(tmp_path, compiled_once):
    actor = fixture.actor_critic(trained=0.3)
    before = jax.device_get(actor[1])
    state, records = train(tmp_path, actor, iterations=3)
    kl = [record["kl"] for record in records]
    assert abs(kl[0]) < 1e-6 < kl[1] < kl[2]
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, before, actor[1])))
    assert not all(jax.tree.leaves(jax.tree.map(np.array_equal, before, state.params)))


def test_rule_13_stopped_and_resumed_is_uninterrupted(tmp_path, compiled_once):
    actor = fixture.actor_critic(trained=0.1)
    whole, records = train(tmp_path / "whole", actor)
    train(tmp_path / "parts", actor, iterations=2)
    parts, resumed = train(tmp_path / "parts", actor)
    assert resumed == records and [record["iteration"] for record in records] == [1, 2, 3, 4]
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, whole, parts)))
    assert [record["failed_call_rate"] for record in records] == [0, 0.125, 0.25, 0.375]


# and beyond the rules


def test_rule_10_value_starts_at_0_and_comes_to_explain_while_a_toy_bandit_is_learned(tmp_path, compiled_once):
    """Each of two turns pays for a token that the untrained policy samples about once in ten times."""
    actor = fixture.actor_critic()
    first = np.stack([s.tokens[[3, 7]] for s in played(actor, samples=64)])
    token = np.abs(np.bincount(first.ravel(), minlength=fixture.SHAPE.vocab_size) / first.size - 0.1).argmin()

    def collect(params, iteration):
        key = jax.random.fold_in(KEY, iteration)
        pays = lambda ids: float(ids[0] == token)  # noqa: E731
        return fixture.play((actor[0], params, actor[2]), PROMPTS, key, T, pays, samples=8), {}

    _, records = train(tmp_path, actor, collect=collect, iterations=30, checkpoint_every=30)
    assert records[0]["value"] == 0 and records[0]["explained_variance"] == pytest.approx(0, abs=1e-6)
    assert np.mean([record["explained_variance"] for record in records[2:7]]) > 0.1
    rewards = [record["reward"] for record in records]
    assert np.mean(rewards[:3]) < 0.4 and np.mean(rewards[-5:]) > 1
    assert records[-1]["reward/full"] == pytest.approx(records[-1]["reward"])


def test_first_iterations_may_train_the_value_head_alone():
    actor = fixture.actor_critic(trained=0.3)
    state, _ = figures_of(actor, played(actor), value_only=True)
    before, after = (
        [jax.tree.leaves(nnx.filter_state(p, f)) for f in (nnx.Not(ValueParam), ValueParam)]
        for p in (actor[1], state.params)
    )
    assert all(np.array_equal(a, b) for a, b in zip(before[0], after[0], strict=True))
    assert all(not np.array_equal(a, b) for a, b in zip(before[1], after[1], strict=True))


def test_the_policy_s_rate_falls_over_the_second_half_of_its_updates_if_asked():
    """Four iterations of one update, the first for the value head: with warm-up over, Adam moves by the rate."""
    params, steps = fixture.actor_critic()[1], []
    config = fixture.ppo_config(value_only=1, decay=True, max_grad_norm=1e9)
    optimizer, moments = ppo._optimizer(config), ppo.init(params, config).moments
    ones = jax.tree.map(jnp.ones_like, params)
    for learn in (False, True, True, True):
        update, moments = optimizer.update(ones, moments, params, learn_policy=learn)
        moved = [jax.tree.leaves(nnx.filter_state(update, f))[0].ravel()[0] for f in (nnx.Not(ValueParam), ValueParam)]
        steps.append([-float(x) for x in moved])
    np.testing.assert_allclose(np.array(steps).T, [[0, 1e-2, 1e-2, 2e-2 / 3], [1e-2] * 4], rtol=1e-3)


def test_b2_is_of_the_policy_s_adam_alone():
    """Gradients of 1 and 3: m / sqrt(v), bias corrected, by hand; the value head's Adam keeps .999."""
    params, config = fixture.actor_critic()[1], fixture.ppo_config(b2=0.5, max_grad_norm=1e9)
    optimizer, moments = ppo._optimizer(config), ppo.init(params, config).moments
    for gradient in (1.0, 3.0):
        filled = jax.tree.map(lambda x, g=gradient: jnp.full_like(x, g), params)
        update, moments = optimizer.update(filled, moments, params, learn_policy=True)
    for part, b2 in ((nnx.Not(ValueParam), 0.5), (ValueParam, 0.999)):
        m, v = (0.9 * 0.1 + 0.1 * 3) / (1 - 0.9**2), (b2 * (1 - b2) + (1 - b2) * 9) / (1 - b2**2)
        step = jax.tree.leaves(nnx.filter_state(update, part))[0].ravel()[0]
        assert -float(step) == pytest.approx(1e-2 * m / v**0.5, rel=1e-3)


def test_value_gradient_does_not_enter_the_adapter():
    """With the same turn and reward in all, whitened advantages are rounding alone while the value loss is large; the
    head's last layer is not at its zeros, behind which no gradient would show."""
    actor = fixture.actor_critic(trained=0.3)
    one = played(actor)[0]
    _, figures = figures_of(actor, [fixture.build(one.tokens[:3], [(one.tokens[3:5], [])], [2])] * 8)
    assert figures["value_grad_norm"] > 5 and figures["grad_norm"] < 0.1


def test_more_epochs_move_the_ratio():
    actor = fixture.actor_critic(trained=0.3)
    _, figures = figures_of(actor, played(actor), ratio="turn_mean", epochs=2, minibatches=2, kl=0.1, entropy=0.01)
    assert figures["ratio_max"] > 1.001 and np.isfinite(figures["policy_loss"])


def test_figures_of_an_iteration_by_hand():
    rows = [
        fixture.build([1, 2], [([3, 4], [5]), ([6], [])], [0.5, 1.0], "a", "full", [0, 0, -1, -2, 0, -3]),
        fixture.build([1, 2], [([3], [])], [0.5], "a", "text_only", [0, 0, -1]),
        fixture.build([1, 2], [([3], [])], [9.0], "b", "full", [0, 0, -1]),
    ]
    batch = pad(rows, (8,), 2, rows=4)
    shift = np.zeros((4, 8), np.float32)
    shift[0, 5] = 0.5
    old = ppo.Old(batch.logprobs + shift, batch.logprobs + 0.1 * batch.action, batch.action * 2.0, batch.rewards * 0.5)
    goal = ppo.Targets(batch.rewards, batch.rewards, batch.rewards, batch.credit)
    figures = ppo.describe(rows, batch, old, goal)
    assert figures["reward"] == pytest.approx(11 / 3) and figures["turns"] == pytest.approx(4 / 3)
    assert figures["reward/full"] == pytest.approx(5.25) and figures["reward/text_only"] == 0.5
    assert figures["reward_std"] == pytest.approx(np.std([1.5, 0.5, 9.0]))
    assert figures["reward_std_siblings"] == pytest.approx(0.5)
    assert figures["tokens"] == pytest.approx(5 / 3) and figures["entropy"] == 2
    assert figures["dlogp_max"] == 0.5 and figures["dlogp_p95"] == pytest.approx(0.4)
    assert figures["kl"] == pytest.approx((4 * (np.exp(0.1) - 1.1) + np.exp(-0.4) - 0.6) / 5, rel=1e-5)
    assert figures["explained_variance"] == pytest.approx(0.75)


def test_micro_batches_hold_rows_of_like_length():
    lengths = np.array([3, 9, 4, 16, 8, 0])
    alone = np.arange(6)
    found = list(ppo.micro_batches(np.array([4, 0, 1, 3]), lengths, alone, 3, (4, 8, 16)))
    assert [(rows.tolist(), width) for rows, width in found] == [([3, 1, 4], 16), ([0, 5, 5], 4)]


def test_micro_batches_keep_samples_of_an_episode_together():
    lengths, group = np.array([3, 9, 4, 16, 8, 0]), np.array([0, 1, 1, 0, 2, 3])
    found = list(ppo.micro_batches(np.arange(5), lengths, group, 2, (4, 8, 16)))
    assert [(rows.tolist(), width) for rows, width in found] == [([0, 3], 16), ([1, 2], 16), ([4, 5], 8)]


@pytest.mark.parametrize(
    "setting,message",
    [
        ({"ratio": "sentence"}, "token, turn, turn_mean"),
        ({"baseline": "none"}, "value, siblings"),
        ({"temperature": 0.0}, "temperature"),
        ({"lam": 1.5}, "lam"),
        ({"micro_batch": 0}, "micro_batch"),
        ({"baseline": "siblings", "samples": 1}, "samples"),
        ({"minibatches": 9}, "minibatches"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(setting, message, tmp_path):
    graphdef, _, _ = fixture.actor_critic()
    with pytest.raises(InputError, match=message):
        ppo.make_update(graphdef, fixture.ppo_config(**setting), BUCKETS, fixture.TURNS, tmp_path)


def test_not_a_number_stops_the_run_with_the_batch():
    graphdef, params, frozen = actor = fixture.actor_critic()
    sequences = [dataclasses.replace(s, rewards=np.float32([np.nan, 0])) for s in played(actor)]
    state, reference, rng = copy(ppo.init(params, fixture.ppo_config())), copy(params), np.random.default_rng(0)
    update = updater(graphdef)
    for _ in range(2):
        state, figures = update(state, frozen, reference, sequences, rng)
    assert figures["skipped"] == 2
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, state.params, reference)))
    with pytest.raises(FloatingPointError, match=r"nonfinite_3\.npz"):
        update(state, frozen, reference, sequences, rng)
    with np.load(STUCK / "nonfinite_3.npz") as found:
        assert found["tokens"].shape == (8, 16) and np.isnan(found["rewards"]).any()
        assert {"old_logprobs", "advantages", "turn_mask"} <= set(found)
