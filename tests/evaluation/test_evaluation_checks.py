"""Settings that cannot be are refused before any work, whoever would stumble over them later."""

import math

import pytest

from mma_jax.config import base
from mma_jax.evaluation.checks import CHOICES, RANGES, check_settings, value_of
from mma_jax.types import InputError


def refused(key, value, *words):
    config = base()
    config.update_from_flattened_dict({key: value})
    with pytest.raises(InputError) as told:
        check_settings(config)
    for word in words or (key,):
        assert word in str(told.value)


def test_the_defaults_are_fine():
    check_settings(base())


@pytest.mark.parametrize("key", RANGES)
def test_numbers_out_of_range(key):
    least, most = RANGES[key]
    kind = type(value_of(base(), key))
    refused(key, kind(math.ceil(least) - 1))
    if most < math.inf:
        refused(key, kind(most + 1))


@pytest.mark.parametrize("key", CHOICES)
def test_unknown_names(key):
    refused(key, "of-nothing", key, "of-nothing", CHOICES[key][0])


@pytest.mark.parametrize(
    "key, value, word",
    [
        ("seeds", "0,-1", "seeds"),
        ("seeds", "1.5", "seeds"),
        ("eval.language_protocols", "ooma,omma", "omma"),
        ("ppo.ratio", "word", "token"),
        ("ppo.prompts", 0, "ppo.prompts"),
        ("ppo.temperature", math.nan, "ppo.temperature"),
        ("baselines.bpr.epochs", 0, "baselines.bpr.epochs"),
    ],
)
def test_what_would_fail_late(key, value, word):
    refused(key, value, word)
