"""A language model small enough that a whole cell takes a second."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast


def build_model() -> LlamaForCausalLM:
    """Two layers of width 32 with random weights, the same at each call; its vocabulary is the 256 bytes and an end."""
    config = LlamaConfig(
        vocab_size=257,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=None,
        eos_token_id=256,
        pad_token_id=256,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval()


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, and an end-of-text token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(
        models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)} | {"<end>": 256}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>")


@pytest.fixture
def make_tiny_model():
    return build_model


@pytest.fixture
def tiny_model():
    return build_model()


@pytest.fixture
def tiny_tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """The tiny model as a folder that `--model` takes."""
    folder = tmp_path_factory.mktemp("tiny-model")
    build_model().save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


def write_data(folder: Path) -> None:
    """A task of short rows in three files, as `--data` takes it."""
    folder.mkdir(exist_ok=True)
    for split, count in (("train", 64), ("validation", 12), ("test", 12)):
        offset = {"train": 0, "validation": 1000, "test": 2000}[split]
        rows = [{"prompt": f"n {offset + i}:", "completion": f" {(offset + i) % 7}"} for i in range(count)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny-data")
    write_data(folder)
    return folder
