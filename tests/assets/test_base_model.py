"""The bundled base model: what the rest of Ketune relies on when it loads it without a network."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from ketune.assets import base_model_path

# Written for this test, so that no model has seen it; in the manner of the novels that the model did see.
PARAGRAPH = (
    "The doctor put down his hat upon the table and looked about the room with some surprise. It was plain that "
    'nobody had slept there. "You told me that she was ill," he said at last, turning to the old woman, who still '
    'stood at the door with the candle in her hand. "And so she was, sir," answered the other; "but when I came '
    'up with her tea this morning she was gone, and her cloak was gone with her." He went to the window, which '
    "was open, and saw that the rain had beaten down the roses in the little garden, and that somebody had walked "
    "across the wet grass to the river."
)


@pytest.fixture(scope="module", autouse=True)
def no_network():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setattr("socket.socket.connect", _refuse)
        yield


def _refuse(*_):
    raise AssertionError("the bundled model must load without a network")


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(base_model_path())


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(base_model_path()).eval()


@torch.inference_mode()
def bits_per_character(model, tokenizer, text: str) -> float:
    ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False).input_ids]])
    nats = cross_entropy(model(ids).logits[0, :-1], ids[0, 1:], reduction="sum").item()
    return nats / math.log(2) / len(text)


def test_the_folder_takes_less_than_six_megabytes_and_holds_no_pickle():
    files = [path for path in base_model_path().rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 6_000_000
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".md"}


def test_weights_lie_in_float16_and_load_as_float32(model):
    with safe_open(base_model_path() / "model.safetensors", framework="pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float16}  # noqa: SIM118
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_no_weight_is_missing_or_left_over():
    _, loading = AutoModelForCausalLM.from_pretrained(base_model_path(), output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]


def test_head_and_embedding_are_one_tensor(model):
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.num_parameters() == 2_234_400


@given(st.text())
@settings(max_examples=200, deadline=None)
def test_the_tokenizer_gives_back_any_text(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.decode(ids) == text
    assert all(0 <= i < 2048 for i in ids)


@pytest.mark.parametrize(
    "text", ["  two  blanks , and 'm n't ", "tab\tand\r\nlines\n\n", "naïve Ωμέγα 漢字 🙂", "\x00\u200b"]
)
def test_the_tokenizer_keeps_blanks_line_ends_and_rare_letters(tokenizer, text):
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_special_tokens_of_tokenizer_and_model_agree(tokenizer, model):
    assert tokenizer.bos_token == tokenizer.eos_token == "<|endoftext|>"
    assert tokenizer.pad_token == "<|pad|>"
    assert len(tokenizer) == model.config.vocab_size == 2048
    assert tokenizer.model_max_length == model.config.max_position_embeddings == 256
    for config in (model.config, model.generation_config):
        assert (config.bos_token_id, config.eos_token_id) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
        assert config.pad_token_id == tokenizer.pad_token_id


def test_prompt_and_reference_meet_at_a_token_boundary(tokenizer):
    # Completion-only loss needs the tokens of the prompt to be the first tokens of prompt and completion together.
    from ketune.finetuning.synthetic import generate

    for record in generate("inns", 50, seed=11):
        prompt = tokenizer(record.prompt).input_ids
        assert tokenizer(record.prompt + record.references[0]).input_ids[: len(prompt)] == prompt


def test_an_unseen_paragraph_costs_far_less_than_under_chance_or_random_weights(model, tokenizer):
    torch.manual_seed(0)
    untrained = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base_model_path())).eval()
    uniform = len(tokenizer(PARAGRAPH).input_ids) * math.log2(2048) / len(PARAGRAPH)
    trained_bits = bits_per_character(model, tokenizer, PARAGRAPH)
    assert trained_bits < 2.2
    assert trained_bits < 0.7 * min(uniform, bits_per_character(untrained, tokenizer, PARAGRAPH))


def test_it_writes_words_and_always_the_same_when_greedy(model, tokenizer):
    ids = tokenizer("The old man looked at her, and", return_tensors="pt")
    texts = {
        tokenizer.decode(model.generate(**ids, max_new_tokens=24, do_sample=False)[0, ids.input_ids.shape[1] :])
        for _ in range(2)
    }
    assert len(texts) == 1
    text = texts.pop()
    assert len(text.split()) >= 8
    assert sum(character.isalpha() or character in " ,.;'\"-!?\n" for character in text) >= 0.95 * len(text)


def test_the_model_card_and_the_record_hold_the_measured_numbers():
    record = json.loads((base_model_path() / "training.json").read_text())
    card = (base_model_path() / "README.md").read_text()
    assert record["finished"], "an unfinished run lies in the package; finish it with tools/pretrain_base.py"
    assert len(record["bits_per_character"]) == 4
    for novel, bits in record["bits_per_character"].items():
        assert bits < 2.2
        assert f"{bits:.3f}" in card, novel
    differences = [record["excerpts_float16"][n] - bits for n, bits in record["excerpts_float32"].items()]
    assert max(map(abs, differences)) < 1e-3
    assert "license: apache-2.0" in card
