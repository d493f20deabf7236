"""Superpositional gradient descent inside our trainer and inside TRL's."""

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from tests.finetuning.tiny import make_model, make_tokenizer
from trl import SFTConfig, SFTTrainer

from ketune import QAAConfig
from ketune.finetuning import TrainingParams, finetune
from ketune.finetuning.params import ParamsError
from ketune.finetuning.quiet import quiet_transformers
from ketune.optim import SuperpositionalAdamW

FAST = TrainingParams(
    max_steps=8, batch_size=8, learning_rate=3e-2, logging_steps=1, eval_steps=0, save_steps=0, device="cpu"
)


def losses(task, folder, **changes):
    adapter = QAAConfig(target_modules=["q_proj", "v_proj"], init_angles="zeros")
    result = finetune(
        make_model("llama"),
        task,
        adapter,
        output_dir=folder,
        tokenizer=make_tokenizer(),
        params=FAST.replace(**changes),
        progress=False,
    )
    return [entry["loss"] for entry in result.history if "loss" in entry]


def test_the_settings_name_it_and_without_strength_it_trains_as_adamw(task, tmp_path):
    adamw = losses(task, tmp_path / "a", weight_decay=0.01)
    none = {"strength": 0.0, "scope": "all"}
    off = losses(task, tmp_path / "b", optimizer="superpositional", optimizer_options=none, weight_decay=0.01)
    strong = {"strength": 20.0, "scope": "all"}
    on = losses(task, tmp_path / "c", optimizer="superpositional", optimizer_options=strong, weight_decay=0.01)
    assert off == adamw
    assert on[0] == adamw[0]
    assert on != adamw


def test_options_without_the_optimiser_or_unknown_ones_are_refused():
    with pytest.raises(ParamsError, match="for optimizer='superpositional' only"):
        TrainingParams(optimizer_options={"strength": 0.1})
    with pytest.raises(ParamsError, match="perturbation"):
        TrainingParams(optimizer="superpositional", optimizer_options={"lambda": 0.1})


def test_it_drops_into_trl(tmp_path):
    model = make_model("llama")
    config = SFTConfig(
        output_dir=str(tmp_path),
        max_steps=3,
        per_device_train_batch_size=2,
        report_to="none",
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
        bf16=False,
        max_length=None,
        activation_checkpointing=False,
    )
    rows = Dataset.from_dict({"text": ["the fox ate a red apple", "two old oaks by the river"] * 4})
    with quiet_transformers():
        trainer = SFTTrainer(
            model=model,
            args=config,
            train_dataset=rows,
            processing_class=make_tokenizer(),
            peft_config=LoraConfig(r=2, target_modules=["q_proj"]),
            optimizer_cls_and_kwargs=(SuperpositionalAdamW, {"lr": 1e-2, "strength": 0.5}),
        )
        trainer.train()
    inner = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
    assert isinstance(inner, SuperpositionalAdamW)
    assert inner.param_groups[0]["n_steps"] == 3
    moved = [p for name, p in trainer.model.named_parameters() if "lora_B" in name]
    assert all(torch.any(p != 0) for p in moved)
