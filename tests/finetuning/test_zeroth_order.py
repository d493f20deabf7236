"""Zeroth-order steps inside Hugging Face's Trainer and ours."""

import pytest
import torch
from tests.finetuning.tiny import make_model, make_tokenizer
from transformers import Trainer as StockTrainer
from transformers import TrainingArguments

from ketune.errors import TrainingError
from ketune.finetuning import TrainingParams, evaluate_loss
from ketune.finetuning.callbacks import Meter
from ketune.finetuning.encoding import Encoder
from ketune.finetuning.quiet import quiet_transformers
from ketune.finetuning.trainer import make_trainer
from ketune.finetuning.zeroth_order import ZerothOrderTrainer
from ketune.optim import ZerothOrder

N_STEPS = 6


def rows(count=24, length=16):
    """Rows of one length; dictionaries, as the stock Trainer takes them."""
    noise = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 320, (count, length), generator=noise)
    return [{"input_ids": row, "labels": row, "attention_mask": torch.ones_like(row)} for row in tokens]


def optimizer_of(model, **options):
    return ZerothOrder(model.parameters(), **{"lr": 1e-3, "clip": None, "seed": 3, **options})


def stock(model, optimizer, folder, schedule=None, trainer=ZerothOrderTrainer, **arguments):
    settings = {
        "max_steps": N_STEPS,
        "per_device_train_batch_size": 4,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "seed": 0,
        "lr_scheduler_type": "constant",
        **arguments,
    }
    return trainer(
        model=model,
        args=TrainingArguments(output_dir=str(folder), **settings),
        train_dataset=rows(),
        optimizers=(optimizer, schedule),
    )


def logged(trainer, key):
    return [entry[key] for entry in trainer.state.log_history if key in entry]


def assert_equal_weights(first, second, **tolerance):
    for (name, one), other in zip(first.state_dict().items(), second.state_dict().values()):
        torch.testing.assert_close(one, other, **(tolerance or {"rtol": 0, "atol": 0}), msg=name)


def test_the_stock_trainer_takes_the_steps_of_a_loop_written_by_hand(tmp_path):
    model = make_model("llama")
    trainer = stock(model, optimizer_of(model, n_probes=2), tmp_path)
    batches = list(trainer.get_train_dataloader())
    trainer.train()

    alone = make_model("llama")
    optimizer = optimizer_of(alone, n_probes=2)
    losses = [optimizer.step(lambda: alone(**batch).loss) for batch in batches[:N_STEPS]]  # noqa: B023
    assert_equal_weights(model, alone, rtol=1e-5, atol=1e-6)
    assert logged(trainer, "loss") == pytest.approx(losses, abs=1e-4)
    slopes = [abs(slope) for slope in optimizer.projected_gradients]
    assert logged(trainer, "projected_gradient")[-1] == pytest.approx(sum(slopes) / 2, rel=1e-3)
    assert not logged(trainer, "grad_norm")
    assert optimizer.n_steps == trainer.zeroth_order.n_steps == N_STEPS
    assert all(p.grad is None for p in model.parameters())


def test_a_schedule_of_the_trainer_sets_the_rate(tmp_path):
    model = make_model("llama")
    trainer = stock(model, optimizer_of(model), tmp_path, lr_scheduler_type="linear")
    trainer.train()
    assert logged(trainer, "learning_rate") == pytest.approx([1e-3 * (1 - i / N_STEPS) for i in range(N_STEPS)])


def test_dropout_is_off_in_the_step_and_on_again_after_it(tmp_path):
    models = [make_model("gpt2"), make_model("gpt2")]
    for model, rate in zip(models, (0.0, 0.5)):
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = rate
        model.train()
        stock(model, optimizer_of(model), tmp_path).train()
        assert model.transformer.h[0].training
    assert_equal_weights(*models)


def test_micro_batches_take_the_step_of_their_batch(tmp_path):
    models = [make_model("llama"), make_model("llama")]
    losses = []
    for model, size in zip(models, (8, 2)):
        trainer = stock(
            model,
            optimizer_of(model),
            tmp_path,
            max_steps=2,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=8 // size,
        )
        trainer.train()
        losses.append(logged(trainer, "loss"))
        assert trainer.zeroth_order.n_steps == 2
    assert_equal_weights(*models, rtol=1e-3, atol=1e-4)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_resumed_run_ends_bit_for_bit_where_an_uninterrupted_one_ends(tmp_path):
    whole, cut, resumed = (make_model("llama") for _ in range(3))
    saving = {"save_strategy": "steps", "save_steps": 3, "lr_scheduler_type": "linear"}
    stock(whole, optimizer_of(whole), tmp_path / "whole", **saving).train()
    trainer = stock(cut, optimizer_of(cut), tmp_path / "cut", **saving)
    trainer.train()
    checkpoint = tmp_path / "cut" / "checkpoint-3"
    state = torch.load(checkpoint / "optimizer.pt", weights_only=True)
    assert (state["state"], state["n_steps"], state["seed"]) == ({}, 3, 3)
    # Another seed in the constructor: the checkpoint's counts.
    stock(resumed, optimizer_of(resumed, seed=99), tmp_path / "cut", **saving).train(
        resume_from_checkpoint=str(checkpoint)
    )
    assert_equal_weights(whole, resumed)


def test_another_optimiser_trains_as_in_the_stock_trainer(tmp_path):
    models = [make_model("llama"), make_model("llama")]
    for model, kind in zip(models, (StockTrainer, ZerothOrderTrainer)):
        trainer = stock(model, torch.optim.SGD(model.parameters(), lr=0.1), tmp_path, trainer=kind)
        trainer.train()
        assert logged(trainer, "grad_norm")
    assert_equal_weights(*models)


def test_scaled_losses_are_refused(tmp_path, monkeypatch):
    model = make_model("llama")
    trainer = stock(model, optimizer_of(model), tmp_path)
    monkeypatch.setattr(trainer.args, "fp16", True)
    with pytest.raises(TrainingError, match="cannot run with fp16=True; use float32 or bf16=True"):
        trainer.train()


def ours(model, task, folder, **settings):
    tokenizer = make_tokenizer()
    encoder = Encoder(tokenizer, 96)
    train, validation = (
        encoder.encode_rows(list(zip(split["prompt"], split["completion"])))[0]
        for split in (task.train, task.validation)
    )
    values = {"max_steps": 150, "batch_size": 8, "eval_steps": 50, "save_steps": 50, "device": "cpu", "warmup_ratio": 0}
    params = TrainingParams(**{**values, **settings})
    meter = Meter()
    with quiet_transformers():
        return make_trainer(
            model, tokenizer, train, validation, params=params, seed=0, folder=folder, meter=meter, callbacks=[meter]
        )


def test_our_trainer_lowers_the_loss_of_a_model_without_a_gradient(llama, task, tmp_path):
    start = evaluate_loss(llama, make_tokenizer(), task.validation)["loss"]
    trainer = ours(llama, task, tmp_path)
    trainer.optimizer = optimizer_of(llama, lr=3e-3)
    trainer.train()
    end = evaluate_loss(llama, make_tokenizer(), task.validation)["loss"]
    assert end < start - 0.4
    assert logged(trainer, "eval_loss")[-1] == pytest.approx(end, rel=1e-5)
    assert logged(trainer, "tokens")[-1] > 0
    assert all(p.grad is None for p in llama.parameters())


def test_our_trainer_resumes_bit_for_bit(task, tmp_path):
    whole, resumed = make_model("llama"), make_model("llama")
    for model, checkpoint in ((whole, None), (resumed, "checkpoint-4")):
        trainer = ours(model, task, tmp_path, max_steps=8, save_steps=4)
        trainer.optimizer = optimizer_of(model, lr=2e-4)
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoints" / checkpoint) if checkpoint else None)
    assert_equal_weights(whole, resumed)
