import json
import shutil

import pytest
import torch
from peft import LoraConfig, PeftModel, PrefixTuningConfig
from tests.finetuning.tiny import make_model, make_tokenizer
from transformers import AutoModelForCausalLM

from ketune import QAAConfig, QuantaConfig
from ketune.errors import ModelError, TrainingError
from ketune.finetuning import TrainingParams, evaluate_loss, finetune
from ketune.finetuning.quantizing import QuantizedTraining
from ketune.finetuning.trained import load_trained
from ketune.quantization import CodedLinear, QuantizationError
from ketune.quantization.size import size_of

Q = {"target_modules": ["q_proj", "v_proj"]}
FAST = TrainingParams(
    max_steps=12, batch_size=8, learning_rate=1e-2, logging_steps=3, eval_steps=6, save_steps=0, device="cpu"
)


def train(model, task, tmp_path, adapter, quantization, params=FAST, **options):
    return finetune(
        model,
        task,
        adapter,
        output_dir=tmp_path,
        tokenizer=make_tokenizer(),
        params=params,
        progress=False,
        quantization=QuantizedTraining.parse(quantization, n_calibration=16),
        **options,
    )


def coded(model):
    return [module for module in model.modules() if isinstance(module, CodedLinear)]


@pytest.mark.parametrize("quantization", ["roste:w4a8kv8", "rotated:w4a8", "ste:w3a16"])
@pytest.mark.parametrize("adapter", [None, LoraConfig(r=4, **Q), QuantaConfig(**Q)], ids=["full", "lora", "quanta"])
def test_what_was_trained_through_quantisers_is_saved_as_codes_that_give_the_same(
    llama, task, tmp_path, adapter, quantization
):
    params = FAST if adapter is not None else FAST.replace(learning_rate=1e-3)
    result = train(llama, task, tmp_path, adapter, quantization, params)
    assert result.history[-1]["loss"] < result.history[0]["loss"]
    # What was validated in training is the model with fake quantisers; what is left has codes, and agrees.
    loss = evaluate_loss(result.model, result.tokenizer, task.validation)["loss"]
    assert result.history[-1]["eval_loss"] == pytest.approx(loss, abs=2e-3 if adapter else 1e-6)
    assert not isinstance(result.model, PeftModel)
    assert coded(result.model)
    assert any(quantization.split(":")[1] in note for note in result.notes)
    loaded, tokenizer = load_trained(tmp_path)
    assert evaluate_loss(loaded, tokenizer, task.validation)["loss"] == pytest.approx(loss, abs=1e-6)
    assert size_of(loaded) == size_of(result.model)


@pytest.mark.parametrize("adapter", [None, LoraConfig(r=4, **Q)], ids=["full", "lora"])
def test_zeroqat_trains_without_gradients_and_ends_as_codes(llama, task, tmp_path, adapter):
    params = FAST.replace(learning_rate=3e-2, max_steps=40, logging_steps=1, eval_steps=0)
    result = train(llama, task, tmp_path, adapter, "zeroqat:w4a8", params)
    loss = evaluate_loss(result.model, result.tokenizer, task.validation)["loss"]
    assert result.history[-1]["eval_loss"] == pytest.approx(loss, abs=2e-3 if adapter else 1e-6)
    assert coded(result.model)
    assert any("weights train" in note for note in result.notes)
    linear = sum(m.in_features * m.out_features for m in coded(result.model))
    assert result.n_trainable == (linear if adapter is None else 2 * 4 * (64 + 48))
    first, last = (sum(r["loss"] for r in part) / 10 for part in (result.history[:10], result.history[-10:]))
    assert last < first


@pytest.mark.parametrize(
    ("adapter", "quantization"),
    [
        (QAAConfig(**Q), "roste:w4a8"),
        (PrefixTuningConfig(num_virtual_tokens=4), "ste:w4a8kv8"),
        (LoraConfig(r=4, **Q), "prequant:w4a16"),
    ],
    ids=["qaa", "prefix", "prequant"],
)
def test_what_cannot_be_part_of_the_weights_stands_beside_codes(llama, task, tmp_path, adapter, quantization):
    result = train(llama, task, tmp_path / "run", adapter, quantization)
    assert isinstance(result.model, PeftModel)
    assert coded(result.model)
    loss = evaluate_loss(result.model, result.tokenizer, task.validation)["loss"]
    assert result.history[-1]["eval_loss"] == pytest.approx(loss, abs=1e-6)
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "base")
    untouched = [module.codes for module in coded(base)]
    assert all(torch.equal(a.codes, b) for a, b in zip(coded(result.model), untouched, strict=True))
    again = PeftModel.from_pretrained(base, tmp_path / "run" / "adapter")
    assert evaluate_loss(again, result.tokenizer, task.validation)["loss"] == pytest.approx(loss, abs=1e-6)
    shutil.move(tmp_path / "run", tmp_path / "moved")  # the base is found beside its adapter
    moved, _ = load_trained(tmp_path / "moved")
    assert evaluate_loss(moved, result.tokenizer, task.validation)["loss"] == pytest.approx(loss, abs=1e-6)


def test_a_killed_run_goes_on_where_it_was(task, tmp_path, llama_folder):
    params = FAST.replace(save_steps=6)
    whole = train(str(llama_folder), task, tmp_path / "whole", None, "roste:w4a8kv8", params)
    assert whole.history[-1]["step"] == 12
    half = tmp_path / "half"
    shutil.copytree(tmp_path / "whole", half)
    shutil.rmtree(half / "checkpoints" / "checkpoint-12")
    shutil.rmtree(half / "adapter")
    again = train(str(llama_folder), task, half, None, "roste:w4a8kv8", params)
    assert any("went on from the checkpoint at step 6" in note for note in again.notes)
    assert again.history[-1]["loss"] == pytest.approx(whole.history[-1]["loss"], rel=1e-5)
    with pytest.raises(TrainingError, match="w4a8kv8"):
        train(str(llama_folder), task, half, None, "roste:w4a4", params)


def test_a_refused_run_leaves_the_base_of_the_one_that_stands(task, tmp_path, llama_folder):
    params = FAST.replace(save_steps=6)
    train(str(llama_folder), task, tmp_path, LoraConfig(**Q), "prequant:w4a16", params)
    before = (tmp_path / "base" / "model.safetensors").read_bytes()
    with pytest.raises(TrainingError, match="other settings"):
        train(str(llama_folder), task, tmp_path, LoraConfig(**Q), "prequant:w2a16", params)
    assert (tmp_path / "base" / "model.safetensors").read_bytes() == before
    with pytest.raises(TrainingError, match="quantised already"):
        train(str(tmp_path / "base"), task, tmp_path / "again", None, "roste:w4a8", params)


def test_the_same_seed_gives_the_same_codes(task, tmp_path):
    codes = []
    for name in ("one", "two"):
        torch.manual_seed(0)
        result = train(make_model("llama"), task, tmp_path / name, None, "roste:w4a8kv8")
        codes.append([module.codes for module in coded(result.model)])
    assert all(torch.equal(a, b) for a, b in zip(*codes, strict=True))


def test_what_cannot_be_done_is_said(llama, task, tmp_path):
    with pytest.raises(TrainingError, match="roste, rotated, ste"):
        QuantizedTraining("rosté")
    with pytest.raises(QuantizationError, match="w4a4kv4"):
        QuantizedTraining("roste", "4")
    with pytest.raises(TrainingError, match="leave bits out"):
        QuantizedTraining("nf4", "w4a16")
    with pytest.raises(TrainingError, match="choose an adapter"):
        train(llama, task, tmp_path, None, "prequant:w4a16")
    adapted = train(llama, task, tmp_path / "plain", LoraConfig(**Q), "none").model
    with pytest.raises(TrainingError, match="already has an adapter"):
        train(adapted, task, tmp_path / "again", None, "roste")


def test_spellings_are_read_and_written_back():
    assert QuantizedTraining.parse("none") is None
    assert str(QuantizedTraining.parse("roste")) == "roste:w4a4kv4"
    assert str(QuantizedTraining.parse("NF4")) == "nf4"
    assert str(QuantizedTraining.parse("ste:w2a16g32")) == "ste:w2a16g32"


def test_without_bitsandbytes_its_ways_are_refused_before_anything_is_loaded(monkeypatch, llama_folder, task, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    with pytest.raises(ModelError, match=r"ketune\[quantization\]"):
        train(str(llama_folder), task, tmp_path, LoraConfig(**Q), "nf4")


@pytest.mark.slow  # bitsandbytes comes with `make test-slow`
@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_adapters_train_beside_what_bitsandbytes_loads(task, tmp_path, quantization):
    pytest.importorskip("bitsandbytes")
    base = "builtin:base"
    params = FAST.replace(max_steps=6, learning_rate=2e-2, eval_steps=3)
    result = finetune(
        base,
        task,
        LoraConfig(r=4, task_type="CAUSAL_LM", **Q),
        output_dir=tmp_path,
        params=params,
        progress=False,
        quantization=QuantizedTraining(quantization),
    )
    assert result.history[-1]["loss"] < result.history[0]["loss"]
    assert {p.dtype for p in result.model.parameters() if p.requires_grad} == {torch.float32}  # TRL would take bfloat16
    assert json.loads((result.adapter_dir / "quantization.json").read_text()) == {"method": quantization}
    loss = evaluate_loss(result.model, result.tokenizer, task.validation)["loss"]
    loaded, tokenizer = load_trained(tmp_path)
    assert {type(module).__name__ for module in loaded.modules()} & {"Linear4bit", "Linear8bitLt"}
    assert evaluate_loss(loaded, tokenizer, task.validation)["loss"] == pytest.approx(loss, abs=1e-3)
    assert size_of(loaded).bits_per_weight < 20
