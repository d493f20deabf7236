"""Small models of the layouts that quantisation knows, with nothing left at a value that hides mistakes."""

import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoConfig,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedModel,
    Qwen2Config,
)

_LLAMA_LIKE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
}
CONFIGS = {
    "llama": lambda **more: LlamaConfig(**_LLAMA_LIKE, **more),
    "qwen2": lambda **more: Qwen2Config(**_LLAMA_LIKE, **more),
    "gpt_neox": lambda **more: GPTNeoXConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        vocab_size=64,
        max_position_embeddings=64,
        **more,
    ),
    "gpt_neo": lambda **more: GPTNeoConfig(
        hidden_size=32,
        intermediate_size=48,
        num_layers=2,
        num_heads=4,
        vocab_size=64,
        max_position_embeddings=64,
        attention_types=[[["global", "local"], 1]],
        window_size=4,
        **more,
    ),
    "gpt2": lambda **more: GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=64, n_positions=64, **more),
}
LAYOUTS = ("llama", "qwen2", "gpt_neox", "gpt_neo")


def make_model(name: str, **more) -> PreTrainedModel:
    """A model in evaluation mode, with random norms and biases."""
    model = AutoModelForCausalLM.from_config(CONFIGS[name](**more)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def tokens(batch: int = 2, length: int = 9) -> torch.Tensor:
    return torch.randint(0, 64, (batch, length))
