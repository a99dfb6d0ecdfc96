import jax
import jax.numpy as jnp
import learning_fixture as fixture
import numpy as np
import pytest

from mma_jax.learning import losses, ppo, sequences
from mma_jax.learning.objective import expected_surrogate

RNG = np.random.default_rng(0)
T = 0.2


def heads(batch=3, length=12, width=6, vocabulary=9):
    table = RNG.normal(size=(width, vocabulary)).astype(np.float32)
    hidden = RNG.normal(size=(batch, length, width)).astype(np.float32)
    tokens = RNG.integers(0, vocabulary, (batch, length)).astype(np.int32)
    action = RNG.random((batch, length)) < 0.4
    action[:, 0] = False
    action[2:] = False
    return table, hidden, tokens, action


def slow_logprobs(table, hidden, tokens, action):
    """Double loop in float64."""
    logprobs, entropy = np.zeros(tokens.shape), np.zeros(tokens.shape)
    for b, t in zip(*np.nonzero(action), strict=True):
        logits = hidden[b, t - 1].astype(float) @ table.astype(float) / T
        p = np.exp(logits - logits.max())
        p /= p.sum()
        logprobs[b, t], entropy[b, t] = np.log(p[tokens[b, t]]), -(p * np.log(np.maximum(p, 1e-300))).sum()
    return logprobs, entropy


@pytest.mark.parametrize("at_a_time", [3, 15, 512])
def test_token_logprobs_equal_the_whole_softmax(monkeypatch, at_a_time):
    monkeypatch.setattr(losses, "_AT_A_TIME", at_a_time)
    table, hidden, tokens, action = heads()
    found = losses.token_logprobs(lambda h: h @ table, hidden, tokens, action, T)
    for fast, slow in zip(found, slow_logprobs(table, hidden, tokens, action), strict=True):
        np.testing.assert_allclose(fast, slow, atol=2e-5)
        assert not np.asarray(fast)[~action].any()


def test_token_logprobs_of_other_tokens_are_those_of_having_sampled_them(monkeypatch):
    monkeypatch.setattr(losses, "_AT_A_TIME", 6)
    table, hidden, tokens, action = heads()
    choices = RNG.integers(-1, 9, (*tokens.shape, 4)).astype(np.int32)
    *plain, others = losses.token_logprobs(lambda h: h @ table, hidden, tokens, action, T, choices=choices)
    for a, b in zip(plain, losses.token_logprobs(lambda h: h @ table, hidden, tokens, action, T), strict=True):
        np.testing.assert_array_equal(a, b)
    for n in range(4):
        slow, _ = slow_logprobs(table, hidden, np.maximum(choices[..., n], 0), action)
        np.testing.assert_allclose(others[..., n], slow, atol=2e-5)


def test_token_logprobs_gradient_equals_the_whole_softmaxs(monkeypatch):
    monkeypatch.setattr(losses, "_AT_A_TIME", 6)
    table, hidden, tokens, action = heads()
    weights = RNG.normal(size=(2, *tokens.shape)).astype(np.float32)

    def chunked(table, hidden):
        found = losses.token_logprobs(lambda h: h @ table, hidden, tokens, action, T)
        return sum((w * f).sum() for w, f in zip(weights, found, strict=True))

    def whole(table, hidden):
        log_p = jax.nn.log_softmax(hidden[:, :-1] @ table / T)
        chosen = jnp.take_along_axis(log_p, tokens[:, 1:, None], 2)[..., 0]
        entropy = -(jnp.exp(log_p) * log_p).sum(-1)
        return sum((w[:, 1:] * action[:, 1:] * f).sum() for w, f in zip(weights, (chosen, entropy), strict=True))

    fast, slow = (jax.jit(jax.grad(f, argnums=(0, 1)))(table, hidden) for f in (chunked, whole))
    for a, b in zip(fast, slow, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4)
        assert np.abs(a).max() > 0.1


def test_rule_14_a_grammar_s_mask_is_applied_again(monkeypatch):
    """DESIGN §6.14, against a double loop over the tokens that each rule allows, and against its gradient."""
    monkeypatch.setattr(losses, "_AT_A_TIME", 6)
    table, hidden, tokens, action = heads()
    masks = np.array([[True] * 9, [True, False] * 4 + [True], [False] * 8 + [True]])
    rules = RNG.integers(0, 3, tokens.shape).astype(np.int32)
    tokens = np.array([[RNG.choice(np.flatnonzero(masks[rule])) for rule in row] for row in rules], np.int32)
    weights = RNG.normal(size=(2, *tokens.shape)).astype(np.float32)

    def chunked(table):
        found = losses.token_logprobs(
            lambda h: h @ table, hidden, tokens, action, T, rules, jnp.asarray(masks).__getitem__
        )
        return sum((w * f).sum() for w, f in zip(weights, found, strict=True)), found

    def slow(table):
        found = jnp.zeros((2, *tokens.shape))
        for b, t in zip(*np.nonzero(action), strict=True):
            ids = np.flatnonzero(masks[rules[b, t]])
            log_p = jax.nn.log_softmax((hidden[b, t - 1] @ table / T)[ids])
            chosen, entropy = log_p[list(ids).index(tokens[b, t])], -(jnp.exp(log_p) * log_p).sum()
            found = found.at[:, b, t].set(jnp.stack([chosen, entropy]))
        return (weights * found).sum(), found

    gradient, fast = jax.grad(chunked, has_aux=True)(table)
    expected, found = jax.grad(slow, has_aux=True)(table)
    np.testing.assert_allclose(gradient, expected, atol=2e-4)
    assert np.abs(gradient).max() > 0.1
    np.testing.assert_allclose(np.stack(fast), found, atol=2e-5)
    alone = action & (rules == 2)
    assert alone.any() and not np.asarray(fast[0])[alone].any() and not np.asarray(fast[1])[alone].any()


def test_all_logits_never_exist():
    """Neither B x T x V nor a head's weights for each chunk are among the compiled program's shapes, either way."""
    batch, length, width, vocabulary = 8, 256, 4, 1009
    table = np.zeros((width, vocabulary), np.float32)

    def loss(table, hidden, tokens, action):
        return losses.token_logprobs(lambda h: h @ table, hidden, tokens, action, T)[0].sum()

    shapes = ((batch, length, width), (batch, length), (batch, length))
    inputs = [jax.ShapeDtypeStruct(s, d) for s, d in zip(shapes, (jnp.float32, jnp.int32, bool), strict=True)]
    text = jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(table, *inputs).as_text()
    assert f"8x64x{vocabulary}xf32" in text
    assert f"x256x{vocabulary}xf32" not in text and f"4x8x64x{vocabulary}xf32" not in text
    assert f"4x{width}x{vocabulary}xf32" not in text


def slow_ppo(new, old, reference, entropy, values, batch, goal, counts, config):
    """Eq. 6 turn by turn, token by token."""
    policy, kl, spread, value, clipped = 0.0, 0.0, 0.0, 0.0, []
    for n in range(len(batch.tokens)):
        for m in np.flatnonzero(batch.turn_mask[n]):
            advantage = float(goal.advantages[n, m])
            value += 0.5 * (values[n, m] - goal.returns[n, m]) ** 2
            places = np.flatnonzero(batch.turn[n] == m)
            deltas = [float(new[n, t] - old[n, t]) for t in places]
            ratios = {"token": deltas, "turn": [sum(deltas)], "turn_mean": [sum(deltas) / len(deltas)]}[config.ratio]
            worths = [advantage] * len(ratios)
            if config.ratio == "token":
                worths = [advantage if np.isnan(c) else float(c) for c in goal.credit[n, places]]
            for rho, advantage in zip(np.exp(ratios), worths, strict=True):
                low, high = 1 - config.clip, 1 + config.clip
                clipped.append(not low <= rho <= high)
                policy -= min(rho * advantage, min(max(rho, low), high) * advantage)
            for t in places:
                d = float(reference[n, t] - new[n, t])
                kl += np.exp(d) - 1 - d
                spread += float(entropy[n, t])
    policy /= counts["tokens" if config.ratio == "token" else "turns"]
    kl, spread, value = kl / counts["tokens"], spread / counts["tokens"], value / counts["turns"]
    return policy + value + config.kl * kl - config.entropy * spread, np.mean(clipped)


def figures_of(batch, noise=0.3):
    """Log-probabilities under three policies, entropies, values and goals that look like a minibatch's."""
    shape, turns = batch.tokens.shape, batch.turn_mask.shape
    old = np.where(batch.action, -RNG.random(shape) * 2, 0).astype(np.float32)
    new, reference = (np.where(batch.action, old + noise * RNG.normal(size=shape), 0).astype(np.float32) for _ in "ab")
    entropy = np.where(batch.action, RNG.random(shape), 0).astype(np.float32)
    values, advantages, goals = (RNG.normal(size=turns).astype(np.float32) * batch.turn_mask for _ in range(3))
    own = RNG.random(shape) < 0.3  # tokens with a credit of their own
    credit = np.where(batch.action & own, RNG.normal(size=shape), np.nan).astype(np.float32)
    targets = ppo.Targets(advantages, goals, goals, credit)
    return new, entropy, values, ppo.Old(old, reference, entropy, values), targets


def objective(*inputs):
    """ppo.objective, compiled: (loss, figures) of inputs whose last is the config."""
    return jax.jit(lambda *arrays: ppo.objective(*arrays, inputs[-1]))(*inputs[:-1])


def counts_of(batch):
    return {"tokens": float(batch.action.sum()), "turns": float(batch.turn_mask.sum())}


@pytest.mark.parametrize("ratio", losses.RATIOS)
def test_ppo_loss_equals_its_slow_twin(ratio):
    config = fixture.ppo_config(ratio=ratio, kl=0.3, entropy=0.1)
    batch = sequences.pad(fixture.random_sequences(9), fixture.BUCKETS, fixture.TURNS, rows=10)
    new, entropy, values, old, goal = figures_of(batch)
    loss, figures = objective(new, entropy, values, batch, old, goal, counts_of(batch), config)
    slow, clipped = slow_ppo(new, old.logprobs, old.reference, entropy, values, batch, goal, counts_of(batch), config)
    assert float(loss) == pytest.approx(slow, abs=1e-5)
    assert float(figures["clipped"].sum() / figures["clippable"].sum()) == pytest.approx(clipped, abs=1e-6)
    assert 0 < clipped < 1


def test_clip_fractions_fall_into_the_bin_of_their_turns_length():
    """Three turns of 16, 17 and 300 tokens; only the second has moved, by more than the clip on each token."""
    turns = [([1] * 16, [2]), ([1] * 17, [2]), ([1] * 300, [])]
    batch = sequences.pad([fixture.build([1, 2], turns, [0, 0, 0])], (400,), 3)
    zeros, by_turn = np.zeros(batch.tokens.shape, np.float32), np.zeros((1, 3), np.float32)
    old, goal = ppo.Old(zeros, zeros, zeros, by_turn), ppo.Targets(by_turn, by_turn, by_turn, zeros * np.nan)
    new = np.where(batch.turn == 1, 0.3, 0).astype(np.float32)
    for ratio, units in (("token", [16, 17, 0, 300]), ("turn", [1, 1, 0, 1]), ("turn_mean", [1, 1, 0, 1])):
        config = fixture.ppo_config(ratio=ratio)
        _, figures = objective(new, zeros, by_turn, batch, old, goal, counts_of(batch), config)
        assert figures["clippable"].tolist() == units
        assert figures["clipped"].tolist() == [0, units[1], 0, 0]


def test_turn_ratio_is_a_product_and_turn_mean_its_root():
    new, turn = np.array([0.0, 0.1, 0.3, 0.0, -0.2]), np.array([-1, 0, 0, -1, 1])
    find = lambda kind: losses.log_ratios(new, np.zeros(5), turn, 3, kind)  # noqa: E731
    np.testing.assert_allclose(find("token"), new, rtol=1e-6)
    np.testing.assert_allclose(find("turn"), [0.4, -0.2, 0], rtol=1e-6)
    np.testing.assert_allclose(find("turn_mean"), [0.2, -0.2, 0], rtol=1e-6)


def test_a_ratio_beyond_floats_leaves_a_finite_gradient():
    def loss(new):
        ratio = jnp.exp(losses.log_ratios(new, np.zeros(3), np.zeros(3, int), 1, "turn"))
        return losses.surrogate(ratio, np.ones(1), 0.2).sum()

    assert np.isfinite(jax.grad(loss)(np.full(3, 100.0, np.float32))).all()


def test_k3_estimates_the_divergence_without_bias_and_is_never_negative():
    p, q = np.array([0.2, 0.5, 0.3]), np.array([0.4, 0.4, 0.2])
    each = losses.k3(np.log(p), np.log(q))
    assert float(p @ np.asarray(each)) == pytest.approx(float((p * np.log(p / q)).sum()), abs=1e-6)
    assert (np.asarray(each) >= 0).all() and float(losses.k3(-1.3, -1.3)) == 0


# DESIGN §6.5: what must not change a loss


def shares(batch, rows, inputs, config, counts, width=None):
    new, entropy, values, old, goal = inputs
    width = width or batch.tokens.shape[1]
    parts = [ppo.crop(x, rows, width) for x in (new, entropy, values, batch, old, goal)]
    return float(objective(*parts, counts, config)[0])


@pytest.mark.parametrize("ratio", losses.RATIOS)
def test_rule_5_loss_is_invariant_to_micro_batch_split_and_padding(ratio):
    config = fixture.ppo_config(ratio=ratio, kl=0.3, entropy=0.1)
    batch = sequences.pad(fixture.random_sequences(6), (64,), fixture.TURNS, rows=7)
    inputs, counts = figures_of(batch), counts_of(batch)
    whole = shares(batch, np.arange(6), inputs, config, counts)
    lengths = batch.action.shape[1] - np.argmax(batch.action[:, ::-1], axis=1)
    split = sum(
        shares(batch, np.array(rows), inputs, config, counts, int(lengths[rows].max()))
        for rows in ([0], [1, 2, 3, 4, 5])
    )
    padded = shares(batch, np.array([0, 1, 2, 3, 4, 5, 6, 6]), inputs, config, counts)
    assert split == pytest.approx(whole, abs=1e-6)
    assert padded == pytest.approx(whole, abs=1e-6)


@pytest.mark.parametrize("ratio", losses.RATIOS)
def test_rule_5_loss_is_invariant_to_observation_length(ratio):
    """The same turns with the same log-probabilities, between observations of other lengths."""
    config = fixture.ppo_config(ratio=ratio, kl=0.3, entropy=0.1)

    def loss(observation):
        rng = np.random.default_rng(3)
        turns = [([1] * 4, [2] * observation), ([1] * 7, [2] * 2 * observation)]
        batch = sequences.pad([fixture.build([1, 2], turns, [0, 1])], (64,), 3)
        new, old, reference, entropy, credit = np.zeros((5, 1, 64), np.float32)
        for array in (new, old, reference, entropy, credit):
            array[batch.action] = rng.normal(size=11) * 0.2
        values, advantages, goals = rng.normal(size=(3, 1, 3)).astype(np.float32)
        old, goal = ppo.Old(old, reference, entropy, values), ppo.Targets(advantages, goals, goals, credit)
        return float(objective(new, entropy, values, batch, old, goal, counts_of(batch), config)[0])

    assert loss(0) == pytest.approx(loss(9), abs=1e-6)


def test_rule_7_a_turns_end_token_counts_like_any_sampled_one():
    """Dropping the end token from the mask changes the loss by exactly its own log-probability."""
    table, hidden, tokens, _ = heads(batch=1)
    finished = np.zeros((1, 12), bool)
    finished[0, 4:8] = True
    truncated = finished.copy()
    truncated[0, 7] = False
    with_end, without = (
        losses.token_logprobs(lambda h: h @ table, hidden, tokens, mask, 1.0)[0] for mask in (finished, truncated)
    )
    logits = hidden[0, 6] @ table
    end = logits[tokens[0, 7]] - np.log(np.exp(logits).sum())
    assert float(with_end.sum() - without.sum()) == pytest.approx(end, abs=1e-5)
    np.testing.assert_allclose(with_end[0, :7], without[0, :7], atol=1e-6)


def test_expected_surrogate_is_the_mean_over_what_could_have_been_sampled():
    """Against the surrogate of every level, weighed by hand; a level outside the clip is clipped alone."""
    old, new = (np.log(RNG.dirichlet(np.ones(4))) for _ in range(2))
    worth = RNG.normal(size=4)
    p = np.exp(old)
    advantages = worth - (p * worth).sum()
    by_hand = sum(
        p[n] * min(r * advantages[n], np.clip(r, 0.8, 1.2) * advantages[n]) for n, r in enumerate(np.exp(new - old))
    )
    assert float(expected_surrogate(new, old, worth, 0.2)) == pytest.approx(by_hand, abs=1e-6)


def test_expected_surrogate_climbs_the_expected_reward():
    """At the old policy its gradient is that of sum_l pi(l) R(l), whether or not levels are all that can be said."""
    logits, worth = RNG.normal(size=6).astype(np.float32), np.array([0.3, 0.9, 0.1, 0.5], np.float32)

    def policy(x):
        return jax.nn.log_softmax(x)[:4]

    def expected(x):  # of the levels, given that a level is said
        p = jnp.exp(policy(x))
        return (p * worth).sum() / p.sum()

    old = policy(logits)
    found = jax.grad(lambda x: expected_surrogate(policy(x), old, worth, 0.2))(logits)
    np.testing.assert_allclose(found, jax.grad(expected)(logits) * jnp.exp(old).sum(), atol=1e-6)
    unknown = np.full(4, np.nan, np.float32)
    still = jax.grad(lambda x: expected_surrogate(policy(x), old, unknown, 0.2))(logits)
    assert not np.asarray(still).any()
