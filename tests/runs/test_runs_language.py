"""The base model of an experiment and its tokenizer belong together."""

import shutil

import jax
import numpy as np
import pytest
from flax import nnx

from mma_jax.config import base
from mma_jax.models.convert import L0_TINY, save_llama
from mma_jax.models.llama import Llama, LlamaConfig
from mma_jax.models.tokenizer import load_tokenizer
from mma_jax.runs.language import Language, check, keep_float32
from mma_jax.types import InputError


@pytest.mark.parametrize("missing", [-3, 0, 1])
def test_a_tokenizer_with_more_tokens_than_the_embedding_has_rows_is_refused(missing, tmp_path):
    for name in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copy(L0_TINY / name, tmp_path)
    tokens = load_tokenizer(tmp_path).vocab_size
    save_llama(Llama(LlamaConfig(tokens - missing, 8, 1, 2, 1, 4, 8), rngs=nnx.Rngs(0)), tmp_path)
    config = base()
    config.model.path = str(tmp_path)
    if missing <= 0:
        assert Language(config).base.config.vocab_size == tokens - missing
        return
    with pytest.raises(InputError, match="not of one checkpoint") as caught:
        Language(config)
    assert str(tmp_path) in str(caught.value) and str(tokens) in str(caught.value) and "\n" not in str(caught.value)


def test_what_training_could_not_hold_is_told_before_any_work(tmp_path):
    config = base()
    check(config)
    config.model.lengths = "512,4096"
    with pytest.raises(InputError, match="ends at 4096, and an episode may have 8192"):
        check(config)
    config.model.lengths, config.sampler.slots = "", "1024"
    with pytest.raises(InputError, match=r"slots ends at 1024, and 100 candidates .* take \d+ tokens: add 8192"):
        check(config)
    config.sampler.slots, config.sampler.max_new = "8192", 150
    with pytest.raises(InputError, match=r"sampler\.max_new=150 is less than the 20\d tokens of 100 scores: raise it"):
        check(config)
    config.pool.size = 70
    check(config)
    (tmp_path / "config.json").write_text("{}")
    config.model.path = str(tmp_path)
    with pytest.raises(InputError, match=r"no tokenizer\.json"):
        check(config)


def test_float32_is_float32_on_an_accelerator_too(monkeypatch):
    """What XLA would multiply in TF32 or bfloat16 asks for float32; a CPU has nothing else."""
    x = np.ones((2, 2), np.float32)
    text = {}
    try:
        for backend in ("cpu", "gpu"):
            monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
            keep_float32()
            text[backend] = str(jax.make_jaxpr(lambda a: a @ a)(x))
    finally:
        jax.config.update("jax_default_matmul_precision", None)
    assert "HIGHEST" not in text["cpu"]
    assert "HIGHEST" in text["gpu"]
