import math

import pytest
import torch
from peft import LoraConfig, PeftModel, PrefixTuningConfig
from safetensors.torch import load_file
from tests.finetuning.tiny import make_model, make_tokenizer
from transformers import AutoModelForCausalLM

from ketune import QAAConfig, QTHAConfig, QuantumPeftConfig, SoraConfig
from ketune.errors import ModelError, TrainingError
from ketune.finetuning import TrainingParams, evaluate_loss, finetune, load_task

FAST = TrainingParams(
    max_steps=12, batch_size=8, learning_rate=3e-2, logging_steps=3, eval_steps=6, save_steps=0, device="cpu"
)
LORA = LoraConfig(r=4, target_modules=["q_proj", "v_proj"])


def train(model, task, tmp_path, adapter=LORA, params=FAST, tokenizer=None, **options):
    tokenizer = tokenizer or make_tokenizer()
    return finetune(
        model, task, adapter, output_dir=tmp_path, tokenizer=tokenizer, params=params, progress=False, **options
    )


@pytest.mark.parametrize(
    "adapter",
    [
        LORA,
        PrefixTuningConfig(num_virtual_tokens=4),
        QAAConfig(target_modules=["q_proj", "v_proj"]),
        QTHAConfig(target_modules=["q_proj", "v_proj"]),
        SoraConfig(r=4, target_modules=["q_proj", "v_proj"]),
        None,
    ],
    ids=lambda adapter: "full" if adapter is None else str(adapter.peft_type.value),
)
def test_training_lowers_the_loss_and_what_is_saved_gives_the_same_loss(llama, llama_folder, task, tmp_path, adapter):
    before = {name: value.clone() for name, value in llama.state_dict().items()}
    start = evaluate_loss(llama, make_tokenizer(), task.validation)["loss"]
    result = train(llama, task, tmp_path, adapter)
    end = evaluate_loss(result.model, result.tokenizer, task.validation)["loss"]
    assert end < start - 0.005
    assert result.history[-1]["eval_loss"] == pytest.approx(end, rel=1e-6)
    assert not result.model.training
    if adapter is None:
        again = AutoModelForCausalLM.from_pretrained(result.adapter_dir)
        assert (result.n_trainable, result.n_total) == (sum(p.numel() for p in llama.parameters()),) * 2
    else:
        base = result.model.get_base_model().state_dict()
        for name, value in before.items():
            kept = next(base[key] for key in (name, name.replace(".weight", ".base_layer.weight")) if key in base)
            assert torch.equal(kept, value), name
        again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(llama_folder), result.adapter_dir)
        assert result.n_trainable < result.n_total
    assert evaluate_loss(again, result.tokenizer, task.validation)["loss"] == pytest.approx(end, abs=1e-6)


def test_history_counts_tokens_without_padding_and_time_without_evaluation(llama, task, tmp_path):
    params = FAST.replace(epochs=2, max_steps=1)
    result = train(llama, task, tmp_path, params=params)
    tokenizer = result.tokenizer
    lengths = [
        len(tokenizer(row["prompt"] + row["completion"])["input_ids"]) + 1 for row in task.train
    ]  # prompts end with a line break here, so joining them changes no token
    assert result.tokens_seen == 2 * sum(lengths)
    assert result.history[-1]["tokens"] == result.tokens_seen
    steps = [record["step"] for record in result.history]
    assert steps == sorted(set(steps))
    assert steps[-1] == 2 * math.ceil(len(task.train) / 8)
    for key in ("tokens", "seconds"):
        values = [record[key] for record in result.history]
        assert values == sorted(values)
    assert all({"loss", "learning_rate"} <= set(r) for r in result.history if r["step"] % 3 == 0)
    assert 0 < result.step_seconds_median < result.train_seconds


def test_the_seed_alone_decides_the_result(task, tmp_path):
    runs = [
        train(make_model("llama"), task, tmp_path / str(i), seed=seed, params=FAST.replace(max_steps=4))
        for i, seed in enumerate((1, 1, 2))
    ]
    weights = [load_file(run.adapter_dir / "adapter_model.safetensors") for run in runs]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not all(torch.equal(weights[0][name], weights[2][name]) for name in weights[0])
    assert runs[0].history[-1]["loss"] == runs[1].history[-1]["loss"]


def test_accumulated_batches_give_the_gradient_of_one_large_batch(task, tmp_path):
    large = train(make_model("llama"), task, tmp_path / "a", params=FAST.replace(max_steps=4, batch_size=8))
    small = train(
        make_model("llama"),
        task,
        tmp_path / "b",
        params=FAST.replace(max_steps=4, batch_size=2, gradient_accumulation=4),
    )
    assert small.history[-1]["loss"] == pytest.approx(large.history[-1]["loss"], rel=1e-4)
    assert small.tokens_seen == large.tokens_seen


def test_gradient_checkpointing_changes_nothing_but_memory(task, tmp_path):
    plain = train(make_model("llama"), task, tmp_path / "a", params=FAST.replace(max_steps=3))
    saving = train(
        make_model("llama"), task, tmp_path / "b", params=FAST.replace(max_steps=3, gradient_checkpointing=True)
    )
    assert saving.history[-1]["loss"] == pytest.approx(plain.history[-1]["loss"], rel=1e-5)
    assert not saving.model.get_base_model().is_activation_checkpointing


def test_prefix_tuning_with_gradient_checkpointing_is_refused(llama, task, tmp_path):
    with pytest.raises(TrainingError, match="PREFIX_TUNING keeps its prefix in the key-value cache"):
        train(
            llama, task, tmp_path, PrefixTuningConfig(num_virtual_tokens=4), FAST.replace(gradient_checkpointing=True)
        )


class Hooked(LoraConfig):
    """A configuration with the hooks of our adapters, which notes what it is given."""

    calls: list = []
    needs_calibration = True

    def calibrate(self, model, batches, adapter_name):
        self.calls.append(("calibrate", [tuple(batch["input_ids"].shape) for batch in batches], adapter_name))
        with torch.no_grad():
            assert torch.isfinite(model(**batches[0]).loss)

    def wrap_optimizer(self, optimizer, model, adapter_name, total_steps):
        self.calls.append(("wrap", len(optimizer.param_groups), adapter_name, total_steps))
        optimizer.register_step_post_hook(lambda *args: self.calls.append(("step",)))
        return optimizer


def test_adapters_are_shown_data_and_may_wrap_the_optimiser(llama, task, tmp_path):
    Hooked.calls.clear()
    train(
        llama,
        task,
        tmp_path,
        Hooked(r=2, target_modules=["q_proj"]),
        FAST.replace(max_steps=3, calibration_rows=16),
    )
    (calibrate, wrap, *steps) = Hooked.calls
    assert calibrate[0] == "calibrate"
    assert [shape[0] for shape in calibrate[1]] == [8, 8]
    assert wrap == ("wrap", 2, "default", 3)
    assert steps == [("step",)] * 3


def test_an_adapter_in_the_model_is_trained_further(llama, task, tmp_path):
    first = train(llama, task, tmp_path / "a")
    loss = first.history[-1]["eval_loss"]
    loaded = PeftModel.from_pretrained(make_model("llama"), first.adapter_dir)
    assert not any(p.requires_grad for p in loaded.parameters())
    second = train(loaded, task, tmp_path / "b", adapter=None)
    assert second.history[-1]["eval_loss"] < loss
    assert second.n_trainable == first.n_trainable
    with pytest.raises(TrainingError, match="already has an adapter"):
        train(loaded, task, tmp_path / "c", adapter=LORA)


def test_the_model_comes_back_without_the_trainer_s_forward(task, tmp_path):
    model = make_model("llama")
    result = train(model, task, tmp_path, params=FAST.replace(max_steps=2, dtype="bfloat16"))
    assert "forward" not in model.__dict__
    assert "forward" not in result.model.__dict__
    ids = torch.tensor([[1, 2, 3]])
    assert result.model(input_ids=ids).logits.dtype == torch.float32


def test_bfloat16_trains_on_the_cpu_where_asked_for(llama_folder, task, tmp_path):
    result = train(str(llama_folder), task, tmp_path, params=FAST.replace(dtype="bfloat16"))
    dtypes = {p.dtype for p in result.model.parameters() if not p.requires_grad}
    assert dtypes == {torch.bfloat16}
    assert {p.dtype for p in result.model.parameters() if p.requires_grad} == {torch.float32}
    assert result.history[-1]["eval_loss"] < result.history[0]["loss"]


def test_a_loss_that_is_no_number_ends_the_run_and_is_said(llama, task, tmp_path):
    params = FAST.replace(learning_rate=1e30, lr_scheduler="constant", warmup_ratio=0, logging_steps=1, max_steps=30)
    result = train(llama, task, tmp_path, None, params.replace(grad_norm_clip=0))
    assert result.diverged
    assert result.history[-1]["step"] < 30
    assert any("not a finite number at step" in note for note in result.notes)


def test_cuts_are_reported(llama, tmp_path, task):
    result = train(llama, task, tmp_path, params=FAST.replace(max_length=16, max_steps=1))
    assert any("prompts cut from the left to fit 16 tokens" in note for note in result.notes)
    with pytest.raises(TrainingError, match="no train row fits into 4 tokens"):
        train(make_model("llama"), task, tmp_path / "b", params=FAST.replace(max_length=4))
    longer = train(make_model("llama"), task, tmp_path / "c", params=FAST.replace(max_length=500, max_steps=1))
    assert any("500 lowered to the 96 tokens" in note for note in longer.notes)


def test_progress_is_reported_and_nothing_is_printed(llama, task, tmp_path, capfd):
    seen = []
    finetune(
        llama,
        task,
        LORA,
        output_dir=tmp_path,
        tokenizer=make_tokenizer(),
        params=FAST,
        progress=lambda *values: seen.append(values),
    )
    assert capfd.readouterr() == ("", "")
    assert [values[0] for values in seen][-1] == 12
    assert {values[1] for values in seen} == {12}
    assert seen[0][2] is None
    loss, tokens_per_second, eval_loss = seen[-1][2:]
    assert loss > 0
    assert tokens_per_second > 0
    assert eval_loss > 0


def test_target_modules_that_match_nothing_are_answered_with_near_misses(llama, task, tmp_path):
    with pytest.raises(ModelError, match=r"did you mean 'q_proj'") as caught:
        train(llama, task, tmp_path, LoraConfig(target_modules=["q_prj"]))
    assert "\n" not in str(caught.value)


def test_a_model_without_a_name_needs_a_tokenizer(llama, task, tmp_path):
    with pytest.raises(ModelError, match="pass tokenizer="):
        finetune(llama, task, LORA, output_dir=tmp_path)


def test_real_model_and_data_learn_in_a_few_steps(shared_data, tmp_path):
    task = load_task(shared_data / "e2e-nlg", limit={"train": 64, "validation": 8, "test": 8})
    params = FAST.replace(max_steps=8, eval_steps=0, batch_size=4)
    model = shared_data / "model-llama-stories-260k"
    result = finetune(model, task, LORA, output_dir=tmp_path, params=params, progress=False)
    assert result.history[-1]["eval_loss"] < result.history[0]["loss"]


def test_an_experiment_logger_that_is_not_there_is_named(llama, task, tmp_path):
    with pytest.raises(TrainingError, match=r"report_to='no_such_logger': not installed.*'none'"):
        train(llama, task, tmp_path, params=FAST.replace(report_to="no_such_logger"))


def test_an_adapter_on_the_output_head_is_refused_in_one_line(llama, task, tmp_path):
    with pytest.raises(TrainingError, match="lm_head") as caught:
        train(llama, task, tmp_path, LoraConfig(target_modules=["lm_head"]))
    assert "\n" not in str(caught.value)


def test_adapters_that_rebuild_their_start_begin_differently_with_each_seed(task, tmp_path):
    adapter, once = QuantumPeftConfig(target_modules=["q_proj"], rank=2), FAST.replace(max_steps=1, eval_steps=0)
    starts = []
    for seed in (0, 1):
        result = train(make_model("llama"), task, tmp_path / str(seed), adapter, once, seed=seed)
        assert result.model.peft_config["default"].seed == seed
        starts.append(next(b for name, b in result.model.named_buffers() if name.endswith("start")))
    assert not torch.equal(*starts)
