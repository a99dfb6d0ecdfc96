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
        ("baselines.lightgcn.layers", 0, "baselines.lightgcn.layers=0: give a number at least 1"),
        ("baselines.gre_mc.propagations", 0, "baselines.gre_mc.propagations"),
        ("baselines.sasrec.heads", 0, "baselines.sasrec.heads"),
        ("baselines.sasrec.dropout", 1.0, "baselines.sasrec.dropout=1.0: give a number between 0 and 0.99"),
        ("baselines.lrmm.negatives", 0, "baselines.lrmm.negatives"),
        ("baselines.lrmm.drop", 1.5, "baselines.lrmm.drop=1.5: give a number between 0 and 0.99"),
        ("baselines.macl.contrast", 0, "baselines.macl.contrast"),
        ("baselines.macl.temperature", 0.0, "baselines.macl.temperature=0.0: give a number at least 0.001"),
        ("baselines.gre_mc.codes", 0, "baselines.gre_mc.codes"),
        ("baselines.completion.history", -3, "baselines.completion.history"),
        ("baselines.sasrec.loss", "foo", "unknown 'foo' in config.baselines.sasrec.loss: known are bce, ce"),
    ],
)
def test_what_would_fail_late(key, value, word):
    refused(key, value, word)


def test_empty_histories_cannot_be_exchanged():
    config = base()
    config.data.max_history, config.protocols = 0, "ooma,stress_stale"
    check_settings(config)
    config.protocols = "ooma,stress_wrong"
    with pytest.raises(InputError, match=r"max_history=0 .* stress_wrong has no other user's to show"):
        check_settings(config)
