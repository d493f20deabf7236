"""Activations that become loadable while an adapter trains."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tests.finetuning.tiny import make_model, make_tokenizer

from ketune import QAAConfig
from ketune.adapters.loadability import LoadabilityPenalty, layer_loadability
from ketune.errors import TrainingError
from ketune.finetuning import TrainingParams, finetune
from ketune.finetuning.params import ParamsError

FAST = TrainingParams(
    max_steps=10, batch_size=8, learning_rate=3e-2, logging_steps=1, eval_steps=0, save_steps=0, device="cpu"
)
QAA = {"target_modules": ["q_proj", "v_proj", "o_proj", "down_proj"], "init_angles": "zeros"}


def batch():
    return {"input_ids": torch.randint(5, 40, (2, 12), generator=torch.Generator().manual_seed(0))}


def trained(task, folder, adapter=None, **changes):
    return finetune(
        make_model("llama"),
        task,
        adapter or QAAConfig(**QAA),
        output_dir=folder,
        tokenizer=make_tokenizer(),
        params=FAST.replace(**changes),
        progress=False,
    )


def mean_entanglement(model, rows=None):
    found = layer_loadability(model, [rows or batch()])
    return sum(float(each.entanglement.mean()) / each.entropies.shape[-1] for each in found.values()) / len(found)


def test_the_term_is_the_mean_of_what_each_layer_shows():
    model = get_peft_model(make_model("llama"), QAAConfig(**QAA)).eval()
    penalty = LoadabilityPenalty(model)
    with penalty.watching():
        model(**batch())
    assert float(penalty.value().detach()) == pytest.approx(mean_entanglement(model), abs=1e-5)
    for layer in layer_loadability(model, [batch()]).values():
        assert bool((layer.product >= layer.lower - 1e-9).all())
        assert bool((layer.product <= layer.upper + 1e-9).all())


def test_a_weight_on_it_lowers_the_entanglement_that_training_ends_with(task, tmp_path):
    plain = trained(task, tmp_path / "plain")
    loadable = trained(task, tmp_path / "loadable", loadability=20.0)
    text = "".join(p + c for p, c in zip(task.train["prompt"][:8], task.train["completion"][:8]))
    rows = {"input_ids": torch.tensor([make_tokenizer()(text)["input_ids"]])}
    start = get_peft_model(make_model("llama"), QAAConfig(**QAA))
    ends = [mean_entanglement(model, rows) for model in (start, plain.model, loadable.model)]
    assert ends[2] < min(ends[:2]) - 0.02
    first = [next(entry["loss"] for entry in run.history if "loss" in entry) for run in (plain, loadable)]
    assert first[1] - first[0] == pytest.approx(20 * ends[0], rel=0.2)


def test_micro_batches_add_up_to_the_same_term(task, tmp_path):
    runs = [
        trained(task, tmp_path / str(passes), loadability=5.0, batch_size=8 // passes, gradient_accumulation=passes)
        for passes in (1, 2)
    ]
    losses = [[entry["loss"] for entry in run.history if "loss" in entry] for run in runs]
    assert losses[1][0] == pytest.approx(losses[0][0], rel=0.02)


def test_checkpointing_changes_nothing(task, tmp_path):
    runs = [trained(task, tmp_path / str(on), loadability=5.0, gradient_checkpointing=on) for on in (False, True)]
    losses = [[entry["loss"] for entry in run.history if "loss" in entry] for run in runs]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_it_is_refused_where_nothing_is_embedded(task, tmp_path):
    lora = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"])
    with pytest.raises(TrainingError, match="no circuit that embeds activations"):
        trained(task, tmp_path / "lora", lora, loadability=1.0)
    with pytest.raises(ParamsError, match="loadability"):
        TrainingParams(loadability=-1.0)
    penalty = LoadabilityPenalty(get_peft_model(make_model("llama"), QAAConfig(**QAA)))
    with pytest.raises(RuntimeError, match="watching"):
        penalty.value()
