import json

import pytest
import torch
from tests.finetuning.tiny import make_model, make_tokenizer

from ketune.errors import ModelError
from ketune.finetuning import context_length, load_base
from ketune.finetuning.base import prepare_tokenizer


def test_a_folder_gives_a_model_in_float32_on_the_cpu_and_a_tokenizer_with_padding(llama_folder):
    model, tokenizer = load_base(llama_folder, device="cpu")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not model.training
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    assert model.name_or_path == str(llama_folder.resolve())
    for name, value in make_model("llama").state_dict().items():
        assert torch.equal(model.state_dict()[name], value)


def test_the_dtype_asked_for_is_taken(llama_folder):
    model, _ = load_base(llama_folder, dtype="bfloat16", device="cpu")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def test_a_padding_token_of_its_own_is_kept():
    tokenizer = make_tokenizer(pad="<pad>")
    assert prepare_tokenizer(tokenizer).pad_token == "<pad>"


def test_a_tokenizer_without_an_end_is_refused():
    tokenizer = make_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="no end-of-text token"):
        prepare_tokenizer(tokenizer)


def broken(tmp_path, what):
    if what == "empty":
        (tmp_path / "readme.md").write_text("x")
    elif what == "config only":
        make_model("llama").config.save_pretrained(tmp_path)
    elif what == "pickled":
        make_model("llama").config.save_pretrained(tmp_path)
        (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    elif what == "adapter":
        (tmp_path / "adapter_config.json").write_text("{}")
    elif what == "no tokenizer":
        make_model("llama").save_pretrained(tmp_path)
    elif what == "bad weights":
        make_model("llama").config.save_pretrained(tmp_path)
        make_tokenizer().save_pretrained(tmp_path)
        (tmp_path / "model.safetensors").write_bytes(b"nonsense")
    elif what == "unknown type":
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "no_such_model"}))
        (tmp_path / "model.safetensors").write_bytes(b"nonsense")
        make_tokenizer().save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("empty", "no config.json"),
        ("config only", "a config.json but no weights"),
        ("pickled", "pickled weights only"),
        ("adapter", "holds an adapter, not a base model"),
        ("no tokenizer", "its tokenizer cannot be loaded"),
        ("bad weights", "cannot be loaded as a causal language model"),
        ("unknown type", "cannot be loaded"),
    ],
)
def test_a_folder_that_is_no_model_is_told_in_one_line(tmp_path, what, words):
    with pytest.raises(ModelError, match=words) as caught:
        load_base(broken(tmp_path, what), device="cpu")
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("./nowhere",), "./nowhere: no such folder"),
        (("builtin:bas",), "builtin:base"),
        (("x", "float64"), "dtype='float64'"),
        (("x", "auto", "tpu"), "device='tpu'"),
    ],
)
def test_bad_arguments_are_named(arguments, words, llama_folder):
    arguments = (str(llama_folder), *arguments[1:]) if arguments[0] == "x" else arguments
    with pytest.raises(ModelError, match=words):
        load_base(*arguments)


def test_the_context_is_read_from_the_configuration(any_model):
    assert context_length(any_model) == 96


def test_the_bundled_model_loads_under_its_portable_name():
    from ketune.assets import base_model_path

    if not (base_model_path() / "model.safetensors").is_file():
        pytest.skip("the bundled model has not been exported yet")
    model, tokenizer = load_base("builtin:base", device="cpu")
    assert model.name_or_path == "builtin:base"
    assert tokenizer.eos_token_id is not None
