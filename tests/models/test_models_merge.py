"""Merged checkpoints: what transformers computes from them is what peft computes from base and adapter."""

import json

import numpy as np
import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model

from mma_jax.models import convert, lora
from mma_jax.models.merge import merge
from mma_jax.types import InputError

SHAPE = dict(vocab_size=53, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
TOKENS = torch.from_numpy(np.random.default_rng(0).integers(0, 53, (2, 21)))


def write_base(folder, dtype=torch.float32, shard="1GB", **shape):
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE | shape, num_key_value_heads=2)).to(dtype)
    model.save_pretrained(folder, max_shard_size=shard)
    (folder / "tokenizer_config.json").write_text('{"chat_template": "x"}')


def write_adapter(base, folder, targets=tuple(lora.TARGETS)):
    torch.manual_seed(1)
    config = LoraConfig(
        r=3, lora_alpha=12, target_modules=list(targets), init_lora_weights=False, task_type="CAUSAL_LM"
    )
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    get_peft_model(model, config).save_pretrained(folder)


def logits(model):
    with torch.no_grad():
        return model.eval()(TOKENS).logits.float().numpy()


def load(folder, dtype=torch.float32):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)


@pytest.mark.parametrize(("shard", "tied"), [("1GB", False), ("20KB", False), ("20KB", True)])
def test_transformers_reads_the_merged_folder(tmp_path, shard, tied):
    base, adapter, out = (tmp_path / name for name in ("base", "adapter", "out"))
    write_base(base, shard=shard, tie_word_embeddings=tied)
    write_adapter(base, adapter)
    merge(base, adapter, out)
    expected = logits(PeftModel.from_pretrained(load(base), adapter))
    np.testing.assert_allclose(logits(load(out)), expected, atol=1e-5)
    assert np.abs(expected - logits(load(base))).max() > 0.05
    assert {path.name for path in out.iterdir()} == {path.name for path in base.iterdir()}
    assert (len(list(out.glob("*.safetensors"))) > 1) == (shard != "1GB")
    ours = convert.load_llama(out)
    np.testing.assert_allclose(ours.logits(ours(TOKENS.numpy().astype(np.int32))), expected, atol=1e-4)


def test_a_merged_checkpoint_keeps_its_dtype(tmp_path):
    base, adapter, out = (tmp_path / name for name in ("base", "adapter", "out"))
    write_base(base, torch.bfloat16)
    write_adapter(base, adapter, ("q_proj",))
    merge(base, adapter, out)
    weights = load(out, dtype="auto").state_dict()
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
    theirs = PeftModel.from_pretrained(load(base), adapter).merge_and_unload().state_dict()
    for name, weight in theirs.items():
        np.testing.assert_allclose(
            weights[name].float().numpy(), weight.bfloat16().float().numpy(), rtol=1e-2, atol=1e-4
        )


@pytest.mark.parametrize(("shard", "stale"), [("1GB", "model.safetensors.index.json"), ("20KB", "other.safetensors")])
def test_weights_that_were_not_merged_are_left_out(tmp_path, shard, stale):
    base, adapter, out = (tmp_path / name for name in ("base", "adapter", "out"))
    write_base(base, shard=shard)
    write_adapter(base, adapter, ("q_proj",))
    kept = {path.name for path in base.iterdir()} | {"tokenizer.model"}
    for name in (stale, "consolidated.safetensors", "pytorch_model.bin", "pytorch_model.bin.index.json"):
        (base / name).write_text("{}")
    (base / "tokenizer.model").write_text("pieces")
    merge(base, adapter, out)
    assert {path.name for path in out.iterdir()} == kept


def test_what_does_not_fit_is_refused(tmp_path):
    base, small, adapter = (tmp_path / name for name in ("base", "small", "adapter"))
    write_base(base)
    write_adapter(base, adapter)
    with pytest.raises(InputError, match="is the base itself"):
        merge(base, adapter, base)
    write_base(small, intermediate_size=40)
    with pytest.raises(InputError, match=r"\(32, 40\) in the base, \(32, 3\) x \(3, 48\) in the adapter"):
        merge(small, adapter, tmp_path / "out")
    write_base(small, num_hidden_layers=1)
    with pytest.raises(InputError, match=r"has no model\.layers\.1\..*another model"):
        merge(small, adapter, tmp_path / "out")
    assert not (tmp_path / "out" / "config.json").exists()  # nobody takes it for a checkpoint
    settings = adapter / "adapter_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"use_dora": True}))
    with pytest.raises(InputError, match="only plain LoRA"):
        merge(base, adapter, tmp_path / "out")
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"use_dora": False, "r": 6}))
    with pytest.raises(InputError, match="says that r is 6"):
        merge(base, adapter, tmp_path / "out")
    (base / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json: cannot read"):
        merge(base, adapter, tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()
