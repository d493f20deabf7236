"""Prepared models in the trainers and under the tools that users bring."""

import copy

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from tests.finetuning.tiny import make_tokenizer
from tests.quantization.models import make_model, tokens
from transformers import TrainingArguments
from trl import SFTConfig, SFTTrainer

from ketune.finetuning.zeroth_order import ZerothOrderTrainer
from ketune.quantization import QuantizeConfig, quantize_
from ketune.quantization.roste import RosteConfig, prepare_roste_
from ketune.quantization.sums import quantize_sums_
from ketune.quantization.zeroqat import ZeroQATConfig, prepare_zeroqat_, zeroth_order


def roste(name="llama"):
    model, x = make_model(name), tokens(2, 12)
    prepare_roste_(model, RosteConfig("w4a8kv8"), [{"input_ids": x, "attention_mask": torch.ones_like(x)}])
    return model


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("adapter", [None, LoraConfig(r=4, target_modules=["q_proj", "down_proj"])])
def test_trls_trainer_trains_rotated_models_and_their_adapters(adapter, checkpointing, tmp_path):
    model = roste()
    if adapter is not None:
        model = quantize_sums_(get_peft_model(model, adapter))
    rows = Dataset.from_dict({"input_ids": tokens(16, 10).tolist()})
    config = SFTConfig(
        str(tmp_path),
        max_steps=8,
        per_device_train_batch_size=8,
        learning_rate=1e-2,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        activation_checkpointing=checkpointing,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    trainer = SFTTrainer(model, args=config, train_dataset=rows, processing_class=make_tokenizer())
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0]
    trained = trainer.accelerator.unwrap_model(trainer.model)
    x = tokens()
    trained.eval()
    before = trained(x).logits.detach()
    base = trained.merge_and_unload() if adapter is not None else trained
    converted = quantize_(base, QuantizeConfig("w4a8kv8", step="convert"))
    torch.testing.assert_close(converted(x).logits, before, atol=1e-5, rtol=0)


def test_hugging_faces_trainer_runs_zeroqat_with_its_optimiser(tmp_path):
    model, x = make_model("llama"), tokens(16, 10)
    prepare_zeroqat_(model, ZeroQATConfig("w4a8"), [x[:4]])
    rows = Dataset.from_dict({"input_ids": x.tolist(), "labels": x.tolist()})
    arguments = TrainingArguments(
        str(tmp_path), max_steps=3, per_device_train_batch_size=8, logging_steps=1, save_strategy="no",
        report_to="none", use_cpu=True,
    )  # fmt: skip
    before = copy.deepcopy(model.state_dict())
    trainer = ZerothOrderTrainer(model, arguments, train_dataset=rows, optimizers=(zeroth_order(model), None))
    trainer.train()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {name for name, p in model.named_parameters() if p.requires_grad}
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("name", ["llama", "gpt_neox"])
def test_compiled_models_compute_the_same(name):
    model, x = roste(name), tokens()
    expected = model(x, use_cache=False).logits
    compiled = torch.compile(model, backend="aot_eager")
    torch.testing.assert_close(compiled(x, use_cache=False).logits, expected, atol=1e-5, rtol=0)


def test_bfloat16_autocast_trains_what_full_precision_holds():
    model, x = roste().train(), tokens(4, 10)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(x, labels=x).loss
    loss.backward()
    weight = model.model.layers[0].mlp.down_proj.weight
    assert weight.dtype == torch.float32
    assert weight.grad.dtype == torch.float32
    assert torch.isfinite(weight.grad).all()
    assert weight.grad.abs().sum() > 0
