"""A small transformers Llama whose dimensions are all different."""

import torch
import transformers
from torch import nn


def tiny_llama(*, bias: bool = False) -> transformers.LlamaForCausalLM:
    """With `bias`, attention's projections have random ones; the mlp's have none."""
    config = transformers.LlamaConfig(
        vocab_size=97,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=4,
        attention_bias=bias,
    )
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = transformers.LlamaForCausalLM(config).eval()
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                nn.init.normal_(parameter, std=0.1)
    return model
