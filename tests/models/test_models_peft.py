"""Our adapters in `peft`, and peft's in ours: the same logits on a checkpoint that transformers wrote."""

import json
import math

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import nnx
from peft import LoraConfig, PeftModel, get_peft_model

from mma_jax.models import convert, lora, peft
from mma_jax.types import InputError

SHAPE = dict(vocab_size=53, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
TOKENS = np.random.default_rng(0).integers(0, 53, (2, 21)).astype(np.int32)
ALL = tuple(lora.TARGETS)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SHAPE, num_key_value_heads=2)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def ours(base, targets, rank=3, alpha=12.0, trained=0.0):
    model = convert.load_llama(base)
    lora.add_lora(model, rank, alpha, targets, nnx.Rngs(1))
    rng = np.random.default_rng(2)
    for _, _, adapter in lora.adapters(model):
        adapter.b.set_value(jnp.asarray(trained * rng.standard_normal(adapter.b.shape), jnp.float32))
    return model


def our_logits(model):
    return np.asarray(model.logits(model(TOKENS)))


def their_logits(model):
    with torch.no_grad():
        return model.eval()(torch.from_numpy(TOKENS).long()).logits.numpy()


@pytest.mark.parametrize("targets", [("q_proj", "v_proj"), ALL])
def test_peft_reads_what_we_write(base, targets, tmp_path):
    model = ours(base, targets, trained=0.3)
    peft.save_peft(model, tmp_path, str(base))
    theirs = PeftModel.from_pretrained(transformers.AutoModelForCausalLM.from_pretrained(base), tmp_path)
    plain = our_logits(convert.load_llama(base))
    np.testing.assert_allclose(our_logits(model), their_logits(theirs), atol=1e-4)
    assert np.abs(our_logits(model) - plain).max() > 0.05


def test_we_read_what_peft_writes(base, tmp_path):
    config = LoraConfig(r=3, lora_alpha=12, target_modules=list(ALL), init_lora_weights=False, task_type="CAUSAL_LM")
    theirs = get_peft_model(transformers.AutoModelForCausalLM.from_pretrained(base), config)
    theirs.save_pretrained(tmp_path)
    settings = peft.read_settings(tmp_path)
    model = ours(base, settings["target_modules"], settings["r"], settings["lora_alpha"])
    peft.load_peft(model, tmp_path)
    np.testing.assert_allclose(our_logits(model), their_logits(theirs), atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_dora": True}, "use_dora is True; only plain LoRA"),
        ({"target_modules": ["embed_tokens"]}, "target_modules is .'embed_tokens'.; known: q_proj"),
        ({"r": 0}, "r is 0"),
        ({"lora_alpha": math.nan}, "lora_alpha nan: .* a finite number"),
        ({"r": 6, "lora_alpha": 24}, r"layers.0.self_attn.q_proj is \(32, 3\) x \(3, 32\), .* says that r is 6"),
        ({"target_modules": [["q_proj"]]}, "target_modules is"),
        ({"rank_pattern": {"q_proj": 8}}, "rank_pattern is .*; only plain LoRA"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is .*; only plain LoRA"),
        ({"lora_alpha": 24}, r"alpha / rank of model.* are \(32, 3, 3, 32, 8.0\), not \(32, 3, 3, 32, 4.0\)"),
    ],
)
def test_other_adapters_are_refused(base, tmp_path, change, message):
    model = ours(base, ("q_proj",))
    peft.save_peft(model, tmp_path)
    path = tmp_path / peft.SETTINGS
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=message):
        peft.load_peft(model, tmp_path)


def test_an_adapter_of_another_place_or_shape_is_refused(base, tmp_path):
    peft.save_peft(ours(base, ("q_proj",)), tmp_path)
    with pytest.raises(InputError, match="tensors are missing"):
        peft.load_peft(ours(base, ("q_proj", "v_proj")), tmp_path)
    with pytest.raises(InputError, match=r"are \(32, 3, 3, 32, 4.0\), not \(32, 2, 2, 32, 4.0\)"):
        peft.load_peft(ours(base, ("q_proj",), rank=2, alpha=8.0), tmp_path)
    with pytest.raises(ValueError, match="no adapters"):
        peft.save_peft(convert.load_llama(base), tmp_path)
