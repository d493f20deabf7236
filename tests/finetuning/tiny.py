"""Tiny random models and a tokenizer, built here: nothing is downloaded."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoConfig,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

SHARED_DATA = Path(__file__).parents[3] / "shared" / "data"
WORDS = "the fox ate a red apple and a green pear by the river while seven owls slept in two old oaks 0123456789 ####"
CONTEXT = 96


def make_tokenizer(*, pad: str | None = None, bos: str | None = None) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer that knows all bytes and a few merges."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    specials = ["<end>", *(token for token in (pad, bos) if token)]
    core.train_from_iterator(
        [WORDS],
        trainers.BpeTrainer(
            vocab_size=320,
            special_tokens=specials,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    if bos:
        core.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, core.token_to_id(bos))]
        )
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>", pad_token=pad, bos_token=bos)


def make_model(kind: str, seed: int = 0) -> PreTrainedModel:
    """A random model with two layers of width 32 and a context of 96 tokens."""
    sizes = {"vocab_size": 320, "bos_token_id": None, "eos_token_id": 0, "pad_token_id": None}
    # Wider weights than usual: with the usual ones a random model's attention hardly moves its output.
    sizes["initializer_range"] = 0.2
    configs: dict[str, PreTrainedConfig] = {
        "llama": LlamaConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=CONTEXT,
            **sizes,
        ),
        "gpt_neox": GPTNeoXConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=CONTEXT,
            **sizes,
        ),
        "gpt_neo": GPTNeoConfig(
            hidden_size=32,
            intermediate_size=48,
            num_layers=2,
            num_heads=4,
            attention_types=[[["global", "local"], 1]],
            window_size=CONTEXT,
            max_position_embeddings=CONTEXT,
            **sizes,
        ),
        "gpt2": GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=CONTEXT, **sizes),
    }
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(configs[kind]).eval()


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
