"""Learned starts of circuits inside a language model: what trains, what stays, what is refused."""

from dataclasses import replace

import pytest
import torch
from peft import get_peft_model
from tests.finetuning.tiny import make_model, make_tokenizer

from ketune import QAAConfig
from ketune.adapters.calibration import circuits_of
from ketune.adapters.learned_starts import PLACE_LENGTH
from ketune.errors import TrainingError
from ketune.finetuning import TrainingParams, finetune
from ketune.finetuning.meta_training import MetaTraining, meta_train_starts
from ketune.vqc import FlipDecoder, InitialiserError, Learner, load_initialiser

ADAPTER = QAAConfig(target_modules=["q_proj", "v_proj"])
QUICK = MetaTraining(n_steps=3, batch_size=4, n_support=4, inner_steps=2)


def learned(task, kind="flip", settings=QUICK, adapter=ADAPTER, model=None, **options):
    return meta_train_starts(
        model or make_model("llama"), [task], adapter, kind, settings, tokenizer=make_tokenizer(), **options
    )


@pytest.mark.parametrize("kind", ["flip", "q_maml"])
@pytest.mark.parametrize("order", ["first", "second"])
def test_gradients_reach_every_weight_of_the_start_and_the_model_stays_as_it_was(task, kind, order):
    model = make_model("llama")
    model.config._attn_implementation = "eager"  # torch's fused attention has no second derivative
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trains = [p.requires_grad for p in model.parameters()]
    result = learned(task, kind, replace(QUICK, n_steps=1, order=order), model=model)
    assert isinstance(result.initialiser, FlipDecoder if kind == "flip" else Learner)
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in result.initialiser.parameters())
    assert len(result.losses) == 1
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert [p.requires_grad for p in model.parameters()] == trains


def test_the_second_order_gradient_is_another_one(task):
    grads = []
    for order in ("first", "second"):
        model = make_model("llama")
        model.config._attn_implementation = "eager"
        settings = MetaTraining(n_steps=1, batch_size=4, inner_steps=2, inner_lr=0.3, order=order)
        result = learned(task, settings=settings, model=model)
        grads.append(torch.cat([p.grad.flatten() for p in result.initialiser.parameters()]))
    assert not torch.allclose(grads[0], grads[1], rtol=1e-3)


def test_a_learned_start_is_saved_and_starts_a_training_run(task, tmp_path):
    seen = []
    result = learned(task, on_step=lambda step, loss: seen.append((step, loss)))
    assert [step for step, _ in seen] == [0, 1, 2]
    assert [loss for _, loss in seen] == result.losses
    file = tmp_path / "flip.safetensors"
    result.initialiser.save(file)
    trained = finetune(
        make_model("llama"),
        task,
        replace(ADAPTER, init_angles=str(file)),
        output_dir=tmp_path / "run",
        tokenizer=make_tokenizer(),
        params=TrainingParams(max_steps=1, learning_rate=1e-9, eval_steps=0, save_steps=0, device="cpu"),
        progress=False,
    )
    kept = load_initialiser(file)
    circuits = circuits_of(trained.model, "default")
    assert len(circuits) == 4
    plain = circuits_of(get_peft_model(make_model("llama"), replace(ADAPTER, init_angles="zeros")), "default")
    for name, features in circuits.items():
        assert features.angles.abs().max() > 0
        assert features.circuit == plain[name].circuit
    assert kept.n_task == PLACE_LENGTH


def test_the_same_seed_gives_the_same_start(task):
    first, again = (learned(task).initialiser.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_what_cannot_be_learned_is_refused(task):
    with pytest.raises(TrainingError, match="at least one task"):
        meta_train_starts(make_model("llama"), [], ADAPTER, tokenizer=make_tokenizer())
    with pytest.raises(TrainingError, match="kind='maml'"):
        learned(task, "maml")
    with pytest.raises(TrainingError, match="control='none'"):
        learned(task, adapter=QAAConfig(target_modules=["q_proj"], control="none"))
    with pytest.raises(TrainingError, match="needs its tokenizer"):
        meta_train_starts(make_model("llama"), [task], ADAPTER)
    with pytest.raises(InitialiserError, match="of one size"):
        learned(task, "q_maml", adapter=QAAConfig(target_modules=["q_proj", "down_proj"]))
    with pytest.raises(TrainingError, match="inner_steps=0"):
        MetaTraining(inner_steps=0)
