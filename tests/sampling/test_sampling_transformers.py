"""Greedy completions equal those of transformers token for token, from checkpoints that it wrote."""

import numpy as np
import pytest
import torch
import transformers
from flax import nnx
from peer import SCALED, reference

from mma_jax.models.convert import load_llama
from mma_jax.sampling.sampler import Sampler

STOP, NEW, LENGTHS = 0, 40, (3, 17, 30)
SHAPES = {
    # name: shape, dtype in the file, bytes of a shard
    "a head for each": (dict(num_key_value_heads=4), torch.float32, "1GB"),
    "two to a head, tied, bfloat16": (dict(tie_word_embeddings=True), torch.bfloat16, "1GB"),
    "four to a head, Llama 3.1's positions, shards": (
        dict(num_key_value_heads=1, rope_parameters=SCALED),
        torch.float32,
        "20KB",
    ),
    "heads wider than the model, tied, Llama 3.1's positions, bfloat16 in shards": (
        dict(head_dim=12, hidden_size=24, tie_word_embeddings=True, rope_parameters=SCALED),
        torch.bfloat16,
        "10KB",
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_greedy_completions_equal_those_of_transformers(name, tmp_path):
    shape, dtype, shard = SHAPES[name]
    peer = reference(**shape, bos_token_id=None, eos_token_id=STOP, pad_token_id=STOP).to(dtype)
    with torch.no_grad():
        for parameter in peer.model.layers.parameters():
            parameter.mul_(2)  # or a tied head repeats what it reads
    peer.save_pretrained(tmp_path, max_shard_size=shard)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shard != "1GB")
    peer = transformers.LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    rng = np.random.default_rng(0)
    prompts = [rng.integers(1, peer.config.vocab_size, length).tolist() for length in LENGTHS]
    model = load_llama(tmp_path)
    session = Sampler(model, (STOP,), (80,), (16,)).open(nnx.state(model), rows=len(prompts), slots=80)
    session.extend(range(len(prompts)), prompts)
    found = session.sample(range(len(prompts)), np.zeros((len(prompts), 2), np.uint32), NEW, 0.0)
    for prompt, completion in zip(prompts, found, strict=True):
        expected = peer.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=NEW)[0, len(prompt) :]
        assert completion.tokens == expected.tolist()
        assert np.isnan(completion.value)  # a plain Llama has none
    assert len({token for completion in found for token in completion.tokens}) > 10  # or equality would say little
