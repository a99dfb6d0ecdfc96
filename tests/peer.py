"""Llamas as transformers makes them, with random weights, for tests that compare ours."""

from __future__ import annotations

import torch
import transformers

BASE = dict(
    vocab_size=53,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=512,
    rms_norm_eps=1e-5,
    rope_parameters={"rope_type": "default", "rope_theta": 5e5},
)
SCALED = {
    "rope_type": "llama3",
    "rope_theta": 1e3,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
SHAPES = {
    "multi_head": dict(num_key_value_heads=4),
    "grouped": dict(num_key_value_heads=1, num_hidden_layers=3),
    "tied": dict(tie_word_embeddings=True, rms_norm_eps=1e-2),
    "scaled": dict(head_dim=16, rope_parameters=SCALED),
    "wide_heads": dict(head_dim=12, num_attention_heads=4, hidden_size=24),
}


def reference(**shape) -> transformers.LlamaForCausalLM:
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**BASE | shape)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))  # far from uniform attention, norms other than one
    return model
