"""Small real models that the tests of this room share."""

import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from transformers.pytorch_utils import Conv1D


class TwoLayers(nn.Module):
    """10 -> 20 -> 2 with a bias each, like PEFT's own test model."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.lin0 = nn.Linear(10, 20, dtype=dtype)
        self.lin1 = nn.Linear(20, 2, dtype=dtype)

    def forward(self, x):
        return self.lin1(torch.relu(self.lin0(x)))


class WithConv1D(nn.Module):
    """A `Conv1D`, which stores its weight as (in, out), from 6 to 9."""

    def __init__(self) -> None:
        super().__init__()
        self.c_attn = Conv1D(9, 6)

    def forward(self, x):
        return self.c_attn(x)


def tiny_llama(**overrides) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"num_key_value_heads": 1, "vocab_size": 50, "max_position_embeddings": 64}
    return LlamaForCausalLM(LlamaConfig(**{**sizes, **overrides}))


def tiny_gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=50, n_positions=32))
