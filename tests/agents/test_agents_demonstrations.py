"""The scripted expert's episodes as ids, and the three teachers of its scores (DESIGN §5.10)."""

import dataclasses
import json
import types

import doubles
import numpy as np
import pytest

from mma_jax.agents import demonstrations, overlap, routers
from mma_jax.agents.demonstrations import demonstrate, matched, stretch, teacher
from mma_jax.agents.language_model import play
from mma_jax.agents.rollout import play as play_policy
from mma_jax.envs.environment import Environment, Options
from mma_jax.models.tokenizer import Chat
from mma_jax.types import FAMILIES, InputError

TOKENIZER = doubles.CharTokenizer()
CHAT = Chat(TOKENIZER)


def settings(scores="router", levels=10, l2=0.1, first_stage=0.0):
    return types.SimpleNamespace(scores=scores, levels=levels, l2=l2, first_stage=first_stage)


def environment(**options):
    return Environment(doubles.evidence(), Options(**{"context": 8192, **options}), CHAT.count)


def by_users(episodes):
    """The same, each of another user."""
    return [dataclasses.replace(episode, user=n) for n, episode in enumerate(episodes)]


def turns(sequence):
    return [
        TOKENIZER.show(sequence.tokens[sequence.turn == n]).removesuffix("<end>") for n in range(len(sequence.rewards))
    ]


def heard(env, episode):
    """What is known after every tool has been asked once."""
    notes = []
    policy = routers.rule_router(lambda heard: notes.append(heard) or heard.first_stage)
    play_policy(policy, env, [episode], batch=1)
    return notes[0]


@pytest.mark.parametrize("summaries", ["surviving", "none"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_demonstration_is_what_a_player_would_have_lived_through(family, summaries):
    """Replaying the expert's texts through the language-model player gives the very same sequence."""
    env, episode = environment(summaries=summaries), doubles.episode(family=family)
    [(_, shown)] = demonstrate(env, [episode], CHAT, teacher(env, [], settings()))
    texts = iter(turns(shown))
    sampler = doubles.ScriptedSampler(lambda seen: next(texts))
    [lived] = play(sampler, None, CHAT, env, [episode], batch=1, key=(0, 0), temperature=0.0, max_new=400, context=8000)
    for field in ("tokens", "action", "turn", "starts", "rewards"):
        np.testing.assert_array_equal(getattr(shown, field), getattr(lived.sequence, field), err_msg=field)
    assert (shown.logprobs == 0).all()
    assert (shown.episode, shown.family) == (episode.episode_id, family)
    assert lived.trajectory.stop_reason == "scored"


def test_every_tool_is_shown_alike_and_by_every_family():
    """Seven families of four episodes each: text answers in four of them, the graph in two, images in one."""
    env, asked = environment(), []
    families = [by_users([doubles.episode(family=family)] * 4) for family in FAMILIES]

    def shown():
        for one in demonstrate(env, demonstrations.in_turn(families), CHAT, teacher(env, [], settings())):
            asked.append(one.tool)
            yield one

    every = list(shown())
    assert [asked.count(t) for t in ("Analyze_Text", "Retrieve_Graph", "Analyze_Image")] == [16, 8, 4]
    asked.clear()
    balanced = demonstrations.balance(shown(), 9)
    tool_of = {one.sequence.family: one.tool for one in every}
    assert sorted(tool_of[one.family] for one in balanced) == sorted(3 * [*{*tool_of.values()}])
    by_tool = [[one.family for one in balanced if tool_of[one.family] == tool] for tool in sorted({*tool_of.values()})]
    assert [len(set(found)) for found in by_tool] == [1, 3, 2]  # image, text, graph
    assert len(asked) < len(every)  # enough is enough


def test_families_in_turn_begin_with_different_users():
    families = [by_users([doubles.episode(family=family)] * 6) for family in ("full", "no_text", "text_only")]
    order = demonstrations.in_turn([*families[:2], families[2][:3]])
    assert [episode.family for episode in order[:6]] == ["full", "no_text", "text_only"] * 2
    assert [episode.user for episode in order[:6]] == [0, 2, 2, 1, 3, 0]
    assert len(order) == 15 and [episode.family for episode in order[9:]] == ["full", "no_text"] * 3


def test_expert_switches_after_null_and_stops_at_an_answer():
    env = environment(summaries="none")
    [(_, shown)] = demonstrate(env, [doubles.episode(family="image_only")], CHAT, teacher(env, [], settings()))
    tools = [json.loads(text.splitlines()[-1])["tool"] for text in turns(shown)]
    assert tools == ["Analyze_Text", "Retrieve_Graph", "Analyze_Image", "Score_Candidates"]
    assert [text.splitlines()[0] for text in turns(shown)] == [
        "Analyze_Text.",
        "Null: Retrieve_Graph.",
        "Null: Analyze_Image.",
        "Analyze_Image: Score_Candidates.",
    ]
    np.testing.assert_allclose(shown.rewards[:3], -0.02)
    peeking = environment()
    [(_, shown)] = demonstrate(peeking, [doubles.episode(family="image_only")], CHAT, teacher(peeking, [], settings()))
    assert len(shown.rewards) == 2


def test_score_maps_are_single_digits_in_listing_order():
    env = environment()
    [(_, shown)] = demonstrate(env, [doubles.episode(family="text_only")], CHAT, teacher(env, [], settings()))
    line = turns(shown)[-1].splitlines()[-1]
    notes = heard(env, doubles.episode(family="text_only"))
    levels = stretch(overlap.lexical(notes), 10)
    expected = ",".join(f'"{handle}":{level}' for handle, level in zip("1234", levels, strict=True))
    assert line == '{"tool":"Score_Candidates","args":{"scores":{' + expected + "}}}"
    assert levels.max() == 9 and levels.min() == 0


def test_a_partial_map_keeps_the_best():
    env, episode = environment(), doubles.episode()
    rating = np.array([3, 7, 0, 7])
    policy = demonstrations.expert(lambda notes: rating, limit=3)
    [trajectory] = play_policy(policy, env, [episode], batch=1)
    np.testing.assert_array_equal(trajectory.scores, [3, 7, np.nan, 7])


def test_nothing_heard_is_rated_alike():
    env = Environment(doubles.evidence(), Options(turns=1, context=8192))
    episodes = [doubles.episode(family="text_only")]
    for source in demonstrations.SOURCES[:2]:
        [trajectory] = play_policy(
            demonstrations.expert(teacher(env, episodes, settings(source)), 4), env, episodes, batch=1
        )
        assert trajectory.scores.tolist() == [0, 0, 0, 0]
        assert trajectory.turns[0].text.startswith("Null: Score_Candidates")


def test_hindsight_knows_the_target_in_demonstrations_alone():
    env, episode = environment(), doubles.episode(family="text_only", target=3)
    hindsight, router = (teacher(env, [], settings(source)) for source in ("hindsight", "router"))
    notes = heard(env, episode)
    np.testing.assert_array_equal(hindsight(notes), router(notes))
    shown = hindsight.of(episode)(notes)
    assert shown[0] == 9 > router(notes)[0]
    np.testing.assert_array_equal(shown[1:], router(notes)[1:])
    elsewhere = doubles.episode(family="text_only", target=7)  # not in the pool
    np.testing.assert_array_equal(hindsight.of(elsewhere)(notes), router(notes))


def planted(n=60):
    """Targets share the category-like word of the history, whatever the title says and the first stage thinks."""
    rng = np.random.default_rng(0)
    episodes = []
    for _ in range(n):
        pool = rng.permutation([1, *rng.choice([2, 3, 5, 6, 7], 3, replace=False)])
        scores = rng.permutation([1.0, 0.7, 0.4, 0.0])
        episodes.append(doubles.episode(family="text_only", pool=tuple(pool), history=(0,), target=1, scores=scores))
    return episodes


def test_train_targets_learns_what_leads_to_targets():
    """History: red nail polish. The target, blue nail polish, is the only other candidate with its words."""
    env, train = environment(), planted()
    fitted = teacher(env, train, settings("train_targets"))
    for episode in train[:5]:
        rated = fitted(heard(env, episode))
        assert rated.argmax() == episode.target_position
        assert rated.dtype.kind == "i" and rated.min() >= 0 and rated.max() <= 9


def test_train_targets_leaves_the_first_stage_to_the_fusion():
    """Targets that the first stage puts first, evidence or not: the evidence's part of the utility is next to none."""
    env = environment()
    train = [
        doubles.episode(family="text_only", target=(3, 1, 4, 6)[n % 4], scores=np.roll([1.0, 0.6, 0.3, 0], n % 4))
        for n in range(80)
    ]
    fitted = teacher(env, train, settings("train_targets", l2=1e-3))
    notes = [heard(env, episode) for episode in train[:4]]
    rated = [fitted(n) for n in notes]
    for other in rated[1:]:  # the same evidence under another first stage is rated alike
        np.testing.assert_array_equal(other, rated[0])


def test_scores_may_keep_a_part_of_the_first_stage():
    """Targets have the history's words, or else a high first-stage score."""
    env, rng = environment(), np.random.default_rng(2)
    train = planted() + [
        doubles.episode(family="text_only", pool=(2, 3, 6, 7), history=(0,), target=(2, 3, 6, 7)[n], scores=scores)
        for n in rng.integers(0, 4, 60)
        for scores in [np.roll([1.0, 0.3, 0.1, 0.0], n)]
    ]
    plain, mixed = (teacher(env, train, settings("train_targets", first_stage=part)) for part in (0.0, 1.0))
    notes = [heard(env, episode) for episode in train[60:]]
    ratings = {tuple(n.first_stage): (plain(n), mixed(n)) for n in notes}
    assert len(ratings) == 4 and len({tuple(rated) for rated, _ in ratings.values()}) == 1
    for first, (_, rated) in ratings.items():
        others = [theirs for theirs, (_, _) in ratings.items() if theirs != first]
        best = int(np.argmax(first))
        assert all(rated[best] > ratings[other][1][best] for other in others)


def test_evidence_that_leads_nowhere_is_not_scored():
    """Targets that neither words nor first stage tell: every score would only disturb the first stage."""
    env, rng = environment(), np.random.default_rng(1)
    train = []
    for _ in range(200):
        pool = rng.choice([1, 2, 3, 5, 6, 7], 4, replace=False)
        target = int(rng.choice(pool))
        train.append(
            doubles.episode(family="text_only", pool=tuple(pool), history=(0,), target=target, scores=[1, 0.6, 0.3, 0])
        )
    config = settings("train_targets", l2=10.0)
    assert (teacher(env, by_users(train), config)(heard(env, train[0])) == 0).all()
    assert teacher(env, by_users(planted()), config)(heard(env, planted()[0])).any()


def test_what_a_user_took_is_not_tested_on_what_it_was_learned_from(monkeypatch):
    """Families share users and targets; each has an odd number of episodes here."""
    env, fits, fitted = environment(), [], demonstrations._fitted
    train = [dataclasses.replace(e, family=family) for family in ("text_only", "full") for e in by_users(planted(7))]

    def fit(heard, train, config):
        fits.append({episode.user for episode in train})
        return fitted(heard, train, config)

    monkeypatch.setattr(demonstrations, "_fitted", fit)
    teacher(env, train, settings("train_targets"))
    assert sorted(map(sorted, fits)) == [[0, 1, 2, 3, 4, 5, 6], [0, 2, 4, 6], [1, 3, 5]]


def test_levels_mean_the_same_in_every_pool():
    """Without the best candidate the others keep their level, which a scale per pool would not let them."""
    env, train = environment(), planted()
    fitted = teacher(env, train, settings("train_targets"))
    with_best = heard(env, doubles.episode(family="text_only", pool=(3, 1, 2, 6), history=(0,)))
    without = heard(env, doubles.episode(family="text_only", pool=(3, 7, 2, 6), history=(0,)))
    np.testing.assert_array_equal(fitted(with_best)[[0, 2, 3]], fitted(without)[[0, 2, 3]])
    assert fitted(without).max() < 9


def test_similar_words_match():
    def similar(word, other):
        return 1.0 if word == other else 0.5 if {word, other} == {"nail", "lip"} else 0.0

    profile = {"nail": 3, "red": 1}
    own = [["nail", "red"], ["lip", "balm"], [], ["lip", "nail"]]
    np.testing.assert_allclose(matched(profile, own, similar), [[0.75, 0.25], [0.375, 0.0], [0.0, 0.0], [0.75, 0.0]])
    assert matched({}, own, similar).shape == (4, 0)


def test_similarity_reaches_the_ratings():
    """No candidate shares a word with the history; the likeness of two words alone finds the target."""
    env = environment()
    pools = [(3, 2, 6, 7), (2, 3, 7, 6), (7, 6, 3, 2), (6, 7, 2, 3)] * 8
    train = [
        doubles.episode(family="text_only", pool=pool, history=(0,), target=2, scores=[1, 0.6, 0.3, 0])
        for pool in pools
    ]

    def similar(word, other):
        return 1.0 if word == other or {word, other} == {"nail", "lip"} else 0.0

    blind, seeing = (teacher(env, train, settings("train_targets"), s) for s in (None, similar))
    notes = heard(env, train[0])
    assert seeing(notes).argmax() == 1
    assert (np.delete(seeing(notes), 1) < seeing(notes)[1]).all()
    assert len(set(blind(notes)[[0, 1]])) == 1  # "hair dryer" and "lip balm" are alike to it


def test_unknown_source_is_refused():
    with pytest.raises(InputError, match=r"config\.sft\.scores is 'guess': known are router"):
        teacher(environment(), [], settings("guess"))
    with pytest.raises(InputError, match="no training target"):
        teacher(environment(), [], settings("train_targets"))


@pytest.mark.parametrize(
    ("scores", "expected"),
    [([0.0, 1.0, 0.5], [0, 9, 4]), ([2.0, 2.0, 2.0], [0, 0, 0]), ([-3.0, -1.0, -1.2], [0, 9, 8])],
)
def test_stretch_by_hand(scores, expected):
    np.testing.assert_array_equal(stretch(np.array(scores), 10), expected)


def test_features_by_hand():
    """Tags: candidate 2 (blue nail polish) shows gloss, bottle, small, cap with the history's red nail polish."""
    notes = heard(environment(), doubles.episode(family="image_only", history=(0,)))
    found = demonstrations.features(notes, demonstrations._equal).toarray()
    has, counts = np.split(found[:, 9:], 2, axis=1)
    np.testing.assert_array_equal(has.sum(axis=1), [len(tags) for tags in notes.got("image")["items"].values()])
    np.testing.assert_allclose(counts.sum(axis=1)[[1, 3]], [4 * np.log(2), 0])
    assert ((counts > 0) <= (has > 0)).all()
    assert found[:, 6:9].sum() == 0
    silent = dataclasses.replace(notes, answers={})
    assert demonstrations.features(silent, demonstrations._equal)[:, 2:].nnz == 0
