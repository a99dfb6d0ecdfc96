import warnings

import doubles
import pytest
from gymnasium.utils.env_checker import check_env

from mma_jax.envs.environment import Environment, Options
from mma_jax.envs.gym import AnyText, GymEnvironment

SCORE = '{"tool":"Score_Candidates","args":{"scores":{"2":1,"1":0}}}'


def make(**options):
    episodes = [doubles.episode(target) for target in (1, 3, 4, 6)]
    return GymEnvironment(Environment(doubles.evidence(), Options(**options)), episodes)


def test_gymnasium_accepts_it():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # The one remark left is about having no spec, which only registered environments have.
        warnings.filterwarnings("ignore", message=".*spec.*")
        check_env(make(), skip_render_check=True)


def test_scored_terminates_and_the_turn_limit_truncates():
    env = make(turns=2)
    observation, info = env.reset(seed=3, options={"episode": 0})
    assert "Candidates: handle" in observation and info["episode_id"] == doubles.FORBIDDEN
    assert env.step(SCORE)[1:4] == (1.0, True, False)
    env.reset(options={"episode": 1})
    assert env.step("?")[1:4] == (-0.2, False, False)
    assert env.step("?")[1:4] == (-0.2, False, True)


def test_one_seed_draws_one_sequence():
    def draw(env):
        return [env.reset(seed=5 if k == 0 else None) and env._state.episode.target for k in range(20)]

    first = draw(make())
    assert first == draw(make()) and len(set(first)) > 1


@pytest.mark.parametrize("value", ["", "žluťoučký\n中文"])
def test_space_holds_any_text(value):
    space = AnyText(20)
    assert value in space and "x" * 21 not in space and 3 not in space
    assert all(space.sample() in AnyText(64) for _ in range(50))
