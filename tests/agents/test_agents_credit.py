"""What single scores were worth, against changing them one by one."""

import dataclasses
import types

import numpy as np
import pytest

from mma_jax.agents import credit
from mma_jax.agents.language_model import Played
from mma_jax.envs.rewards import terminal_reward
from mma_jax.learning.sequences import Sequence
from mma_jax.models.convert import L0_TINY
from mma_jax.models.tokenizer import load_tokenizer
from mma_jax.types import Trajectory, Turn

ALPHA = 0.5


def brute_force(first, scores, target):
    """Every score of every sample replaced by each sibling's, one at a time."""
    worth = np.full(scores.shape, np.nan)
    scored = [k for k, row in enumerate(scores) if np.isfinite(row).any()]
    for k in scored:
        for c in range(scores.shape[1]):
            others = []
            for j in scored:
                if j != k:
                    changed = scores[k].copy()
                    changed[c] = scores[j, c]
                    others.append(terminal_reward(first, changed, target, ALPHA))
            if others:
                worth[k, c] = terminal_reward(first, scores[k], target, ALPHA) - np.mean(others)
    return worth


@pytest.mark.parametrize("silent", [(), (1,), (0, 2, 3)])
@pytest.mark.parametrize("target", [3, -1])
def test_counterfactual_is_what_changing_each_score_would_have_earned(silent, target):
    rng = np.random.default_rng(len(silent))
    first, scores = rng.random(7), rng.integers(0, 10, (4, 7)).astype(float)
    scores[2, 5] = np.nan  # left out
    scores[list(silent)] = np.nan
    found = credit.counterfactual(first, scores, target, ALPHA)
    np.testing.assert_allclose(found, brute_force(first, scores, target), atol=1e-12)
    assert target < 0 or len(silent) > 1 or np.nanmax(np.abs(found)) > 0


def test_the_score_that_made_the_difference_gets_the_credit():
    first = np.array([0.9, 0.5, 0.1])
    scores = np.array([[5.0, 9.0, 0.0], [5.0, 0.0, 0.0]])  # the target is the second
    worth = credit.counterfactual(first, scores, 1, ALPHA)
    assert worth[0, 1] > 0 > worth[1, 1] and worth[0, 0] == worth[0, 2] == 0


class Letters:
    """Tokens are characters, but for some pieces."""

    pieces = ('":7,"', "12")

    def encode(self, text):
        ids = []
        while text:
            piece = next((p for p in self.pieces if text.startswith(p)), text[0])
            ids.append(1000 + self.pieces.index(piece) if piece in self.pieces else ord(piece))
            text = text[len(piece) :]
        return ids

    def decode(self, ids):
        return "".join(self.pieces[i - 1000] if i >= 1000 else chr(i) for i in ids)


def played(text, scores, episode, forced=()):
    ids = Letters().encode(text)
    action = np.array([False, False] + [n not in forced for n in range(len(ids))])
    turn = np.where(action, 0, -1).astype(np.int32)
    sequence = Sequence(
        np.array([1, 2, *ids], np.int32),
        action,
        turn,
        np.array([np.argmax(action) - 1]),
        np.zeros(1, np.float32),
        np.zeros(len(turn), np.float32),
        "e",
        "full",
    )
    told = Turn(text, "Score_Candidates", {}, "Scored.", 0.0, "", False, tuple(ids), np.nan)
    return Played(Trajectory(episode, (), (told,), "scored", np.array(scores, float)), sequence)


def test_tokens_that_wrote_a_score_get_its_worth():
    case = types.SimpleNamespace(scores=np.array([0.2, 0.3, 0.1]))
    episode = types.SimpleNamespace(episode_id="e", target_position=0, case=case)
    maps = ({"1": 7, "2": 12, "3": 0}, {"1": 0, "2": 4.5, "3": 9})
    texts = ['so. {"scores":{' + ",".join(f'"{h}":{n}' for h, n in m.items()) + "}}" for m in maps]
    both = [played(text, list(m.values()), episode) for text, m in zip(texts, maps, strict=True)]
    found = credit.by_candidate(both, ALPHA, Letters())
    worth = credit.counterfactual(case.scores, np.array([[7, 12, 0], [0, 4.5, 9]]), 0, ALPHA)
    for n, sequence in enumerate(found):
        says = [Letters().decode([token]) for token in sequence.tokens[2:]]
        owned = [(piece, value) for piece, value in zip(says, sequence.credit[2:], strict=True) if value == value]
        numbers = [['":7,"', "12", "0"], ["0", "4", ".", "5", "9"]][n]
        assert [piece for piece, _ in owned] == numbers
        owners = [[0, 1, 2], [0, 1, 1, 1, 2]][n]
        np.testing.assert_allclose([value for _, value in owned], worth[n][owners], rtol=1e-6)


def test_a_token_that_the_grammar_forced_gets_none_and_an_only_map_neither():
    case = types.SimpleNamespace(scores=np.array([0.2, 0.3]))
    episode = types.SimpleNamespace(episode_id="e", target_position=0, case=case)
    text, other = '{"scores":{"1":5,"2":3}}', '{"scores":{"1":4,"2":6}}'
    at = text.index("5")
    first, second = (
        played(text, [5, 3], episode, forced=(at,)),
        played(other, [4, 6], episode),
    )
    found = credit.by_candidate([first, second], ALPHA, Letters())
    assert np.isfinite(found[0].credit).sum() == 1 and np.isfinite(found[1].credit).sum() == 2
    alone = credit.by_candidate([first, played("nothing", [np.nan, np.nan], episode)], ALPHA, Letters())
    assert all(np.isnan(sequence.credit).all() for sequence in alone)


@pytest.mark.parametrize("target", [3, -1])
def test_alternatives_are_the_rewards_of_maps_with_one_score_changed(target):
    rng = np.random.default_rng(5)
    first, scores = rng.random(6), rng.integers(0, 4, 6).astype(float)
    scores[1] = np.nan
    found = credit.alternatives(first, scores, target, ALPHA, 4)
    for c in range(6):
        for level in range(4):
            changed = scores.copy()
            changed[c] = level
            assert found[c, level] == pytest.approx(terminal_reward(first, changed, target, ALPHA), abs=1e-12)
    assert target < 0 or np.ptp(found[3]) > 0


def test_levels_of_a_score_are_known_where_every_one_is_a_token():
    """Plain digits have twins; the piece '":7,"' has none for the other levels here, and "12" is not a level."""
    case = types.SimpleNamespace(scores=np.array([0.2, 0.3, 0.1]))
    episode = types.SimpleNamespace(episode_id="e", target_position=0, case=case)
    one = played('{"scores":{"1":7,"2":12,"3":3}}', [7, 12, 3], episode)
    (found,) = credit.by_level([one], ALPHA, Letters(), 10)
    (place,) = np.flatnonzero(found.choices[:, 0] >= 0)
    assert [chr(token) for token in found.choices[place]] == list("0123456789") and found.tokens[place] == ord("3")
    expected = credit.alternatives(case.scores, np.array([7.0, 12, 3]), 0, ALPHA, 10)[2]
    np.testing.assert_allclose(found.worth[place], expected, rtol=1e-6)
    assert np.isnan(np.delete(found.worth, place, axis=0)).all()


def test_a_map_that_was_not_accepted_has_no_levels():
    """Its score tokens keep the turn's penalty, where equal worths of all levels would excuse them."""
    case = types.SimpleNamespace(scores=np.array([0.2, 0.3]))
    episode = types.SimpleNamespace(episode_id="e", target_position=0, case=case)
    good, bad = (played('{"scores":{"1":5,"2":3}}', scores, episode) for scores in ([5, 3], [np.nan, np.nan]))
    kept, refused = credit.by_level([good, bad], ALPHA, Letters(), 10)
    assert (kept.choices[:, 0] >= 0).sum() == 2
    assert (refused.choices == -1).all() and np.isnan(refused.worth).all()
    assert np.isnan(refused.credit).all()  # every token has the turn's


def test_what_an_accepted_map_has_beside_its_scores_earns_nothing():
    """Its call before keeps the turn's advantage, and so do tokens that nobody wrote."""
    case = types.SimpleNamespace(scores=np.array([0.2, 0.3]))
    episode = types.SimpleNamespace(episode_id="e", target_position=0, case=case)
    text = 'call {"scores":{"1":5,"2":3}}'
    one = played(text, [5, 3], episode, forced=(5,))
    call = np.arange(len(one.sequence)) < 2 + len("call ")
    turn = np.where(one.sequence.action & ~call, 1, one.sequence.turn).astype(np.int32)
    starts, rewards = np.array([1, int(np.argmax(turn == 1)) - 1]), np.zeros(2, np.float32)
    two = dataclasses.replace(one.sequence, turn=turn, starts=starts, rewards=rewards)
    (found,) = credit.by_level([dataclasses.replace(one, sequence=two)], ALPHA, Letters(), 10)
    assert (found.credit[turn == 1] == 0).all() and np.isnan(found.credit[turn != 1]).all()
    assert (found.choices[:, 0] >= 0).sum() == 2


def test_every_score_of_l0_tiny_has_its_levels():
    tokenizer = load_tokenizer(L0_TINY)
    said = [tokenizer.decode([token]) for token in tokenizer.encode('{"scores":{"1":7,"2":0,"3":9}}}')]
    scores = [piece for piece in said if ":" in piece and any(map(str.isdigit, piece))]
    assert scores == ['":7,"', '":0,"', '":9}']
    for piece in scores:
        twins = credit._twins(tokenizer, 10, tokenizer.encode(piece)[0])
        assert [tokenizer.decode([twin]) for twin in twins] == [f"{piece[:2]}{n}{piece[3:]}" for n in range(10)]
