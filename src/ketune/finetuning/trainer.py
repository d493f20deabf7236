"""TRL's SFTTrainer with the hooks of our adapters, exact evaluation, and checkpoints without pickled extras."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import PrinterCallback, TrainerState
from trl import SFTConfig, SFTTrainer  # pyright: ignore[reportPrivateImportUsage]

from ketune.adapters.cpu_packing import unpack_
from ketune.adapters.loadability import LoadabilityPenalty
from ketune.errors import TrainingError
from ketune.finetuning.base import resolve_device, resolve_dtype
from ketune.finetuning.callbacks import Meter
from ketune.finetuning.checkpoints import MARK, write_json
from ketune.finetuning.encoding import IGNORED, Encoded
from ketune.finetuning.metrics import completion_nats, score_sequences
from ketune.finetuning.params import TrainingParams
from ketune.finetuning.zeroth_order import ZerothOrderSteps
from ketune.optim import SuperpositionalAdamW

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback


class Trainer(ZerothOrderSteps, SFTTrainer):
    """The trainer behind `finetune`; given a `ZerothOrder` as its optimiser, it measures slopes and keeps no gradients.

    Args:
        meter: counts tokens and seconds; its state travels with the checkpoints.
        eval_sequences: what `evaluate` scores.
        eval_batch_size: sequences per forward pass of an evaluation.
        loadability: weight of `LoadabilityPenalty`, which is added to the loss in training.
        kwargs: as for SFTTrainer.
    """

    def __init__(
        self,
        *,
        meter: Meter,
        eval_sequences: Sequence[Encoded],
        eval_batch_size: int,
        loadability: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._loadability = loadability
        self._penalty = _penalty(self.model) if loadability else None
        self._meter = meter
        self._eval_sequences = eval_sequences
        self._eval_batch_size = eval_batch_size

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The Trainer's optimiser, inside whatever the adapters wrap around it (SoRA: a proximal step)."""
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if is_new and isinstance(self.model, PeftModel):
            for name in self.model.active_adapters:
                config: Any = self.model.peft_config[name]
                if hasattr(config, "wrap_optimizer"):
                    optimizer = config.wrap_optimizer(optimizer, self.model, name, self.args.max_steps)
            self.optimizer = optimizer
        return optimizer

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """One forward and backward pass; counts the tokens that are not padding."""
        n_tokens = inputs["attention_mask"].sum().to(self.args.device)
        self._meter.tokens += int(self.accelerator.gather(n_tokens).sum())  # pyright: ignore
        return super().training_step(model, inputs, *args, **kwargs)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Mean loss per completion token of the whole (accumulated) batch.

        TRL's fused loss head skips prompts and padding only where Triton runs. On a CPU it scores every position twice,
        which more than doubles the step of a small model, so there we take the loss that `evaluate_loss` takes. We take
        it for a `ZerothOrder` too, which trains in evaluation mode: TRL would file its metrics under evaluation.
        """
        if self._penalty is None:
            return self._task_loss(model, inputs, return_outputs, num_items_in_batch)
        with self._penalty.watching():
            found = self._task_loss(model, inputs, return_outputs, num_items_in_batch)
        # Where the losses of micro-batches add up to that of the batch, so must the terms.
        share = self.current_gradient_accumulation_steps if self._is_share(num_items_in_batch) else 1
        term = self._loadability / share * self._penalty.value()
        return (found[0] + term, found[1]) if return_outputs else found + term

    def _task_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool, num_items_in_batch: Any) -> Any:
        is_ours = inputs["input_ids"].device.type == "cpu" or self.zeroth_order is not None
        if not is_ours or return_outputs or self.aux_loss_enabled:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        n_tokens = (inputs["labels"][:, 1:] != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch
        loss = completion_nats(model, inputs) / n_tokens
        # `num_items_in_batch` counts the tokens of all processes, and their gradients are averaged afterwards.
        is_shared = self.args.average_tokens_across_devices and num_items_in_batch is not None
        return loss * self.accelerator.num_processes if is_shared else loss

    def evaluate(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> dict[str, float]:
        """Scores the validation rows with every token weighted alike (the Trainer's own mean weights batches alike)."""
        pad = self.processing_class.pad_token_id  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
        scores = score_sequences(self.model, self._eval_sequences, pad, self._eval_batch_size)  # pyright: ignore
        metrics = {f"{metric_key_prefix}_{name}": scores[name] for name in ("loss", "perplexity", "bits_per_byte")}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds tokens and training seconds to every record."""
        super().log({**logs, "tokens": self._meter.tokens, "train_seconds": self._meter.seconds}, start_time)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """None: a checkpoint is not a model to publish, and the adapter writes its own card."""

    def _send_telemetry(self) -> None:
        """None: a training run of ours reaches no network on its own."""

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Saves weights and configuration as safetensors and JSON, without the Trainer's pickled arguments."""
        folder = Path(output_dir or self.args.output_dir or "")
        if self.args.should_save:
            folder.mkdir(parents=True, exist_ok=True)
            save_weights(self.accelerator.unwrap_model(self.model, keep_torch_compile=False), folder, state_dict)

    def restore_finished(self, checkpoint: Path) -> None:
        """Loads the weights and the log of a run that had taken its last step when it was killed."""
        self._load_from_checkpoint(str(checkpoint))
        self.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.args.should_save:
            folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
            write_json(folder / MARK, self._meter.to_dict())


def make_trainer(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    train: Sequence[Encoded],
    validation: Sequence[Encoded],
    *,
    params: TrainingParams,
    seed: int,
    folder: Path,
    meter: Meter,
    callbacks: Sequence[TrainerCallback],
) -> Trainer:
    """Builds the trainer of a run from encoded rows; `params.max_steps` decides its length."""
    device = resolve_device(params.device)
    bfloat16 = params.dtype == "bfloat16" or (
        params.dtype == "auto" and resolve_dtype("auto", device) == torch.bfloat16
    )
    config = SFTConfig(
        output_dir=str(folder / "checkpoints"),
        max_steps=params.max_steps,
        per_device_train_batch_size=params.batch_size,
        gradient_accumulation_steps=params.gradient_accumulation,
        learning_rate=params.learning_rate,
        weight_decay=params.weight_decay,
        optim="adamw_torch" if params.optimizer == "superpositional" else params.optimizer,
        lr_scheduler_type=params.lr_scheduler,
        warmup_steps=round(params.warmup_ratio * params.max_steps),
        max_grad_norm=params.grad_norm_clip,
        max_length=None,  # rows come encoded and cut
        bf16=bfloat16,
        use_cpu=device.type == "cpu",
        gradient_checkpointing=params.gradient_checkpointing,
        logging_steps=params.logging_steps,
        logging_nan_inf_filter=False,  # it would replace a NaN by the mean of earlier losses
        eval_strategy="steps" if params.eval_steps else "no",
        eval_steps=params.eval_steps or None,
        save_strategy="steps" if params.save_steps else "no",
        save_steps=params.save_steps or 500,
        save_total_limit=params.save_total_limit,
        report_to=params.report_to,
        seed=seed,
        data_seed=seed,
        disable_tqdm=True,
        dataset_kwargs={"skip_prepare_dataset": True},
        dataloader_pin_memory=device.type == "cuda",
        dataloader_num_workers=0,
    )
    rows = Dataset.from_dict(
        {"input_ids": [s.prompt + s.completion for s in train], "labels": [s.labels for s in train]}
    )
    _check_loggers(params.report_to)
    starts = [(p, p.data) for p in model.parameters() if p.requires_grad]
    try:
        trainer = Trainer(
            meter=meter,
            eval_sequences=validation,
            eval_batch_size=params.batch_size_eval,
            loadability=params.loadability,
            model=model,
            args=config,
            train_dataset=rows,
            eval_dataset=rows.select(range(1)),  # only its presence counts; `evaluate` scores `validation`
            processing_class=tokenizer,
            callbacks=list(callbacks),
            optimizer_cls_and_kwargs=_own_optimizer(params, seed),
        )
    except ValueError as error:  # TRL refuses what it cannot train, e.g. an adapter on the output head
        raise TrainingError(" ".join(str(error).split())) from error
    for parameter, start in starts:
        parameter.data = start  # TRL casts adapters beside bitsandbytes' layers to bfloat16, where small steps are lost
    trainer.remove_callback(PrinterCallback)
    return trainer


def _penalty(model: Any) -> LoadabilityPenalty:
    names = list(model.active_adapters) if isinstance(model, PeftModel) else []
    for name in names:
        try:
            return LoadabilityPenalty(model, name)
        except ValueError as error:
            raise TrainingError(f"loadability: {error}; leave the setting at 0") from error
    raise TrainingError("loadability: the model has no adapter; the setting is for QAA, leave it at 0")


def _own_optimizer(params: TrainingParams, seed: int) -> tuple[type[torch.optim.Optimizer], dict[str, Any]] | None:
    """An optimiser that transformers does not know, with its arguments."""
    if params.optimizer != "superpositional":
        return None
    # The rate decays per group in the Trainer's hands; the decay it gives to each group itself.
    options = {"lr": params.learning_rate, "weight_decay": params.weight_decay, "seed": seed}
    return SuperpositionalAdamW, options | params.optimizer_options


def _check_loggers(report_to: str | list[str]) -> None:
    from transformers.integrations import get_available_reporting_integrations

    available = get_available_reporting_integrations()
    for name in [report_to] if isinstance(report_to, str) else report_to:
        if name not in ("none", "all", *available):
            raise TrainingError(
                f"report_to={name!r}: not installed, or not known to transformers; available here: "
                f"{', '.join(map(repr, ['none', *available]))}"
            )


def release(trainer: Trainer, model: PreTrainedModel | PeftModel) -> None:
    """Takes off the model what training put on it: TRL's loss head, accelerate's autocast, gradient checkpointing."""
    trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    for module in (model, base):
        module.__dict__.pop("forward", None)
    if trainer.args.gradient_checkpointing:
        base.gradient_checkpointing_disable()  # pyright: ignore[reportCallIssue]
    if trainer.args.device.type == "cuda":
        # The optimiser's state sits in reference cycles; evaluation needs that memory now, not at a later collection.
        trainer.optimizer = trainer.lr_scheduler = None
        trainer.accelerator.free_memory()


def save_weights(
    model: PreTrainedModel | PeftModel, folder: str | os.PathLike[str], state_dict: dict[str, Any] | None = None
) -> None:
    """Saves an adapter, or a whole model if it has none, without asking the hub about the base model."""
    unpack_(model)  # reading the state would change what bitsandbytes' layers compute
    if not isinstance(model, PeftModel):
        model.save_pretrained(folder, state_dict=state_dict)
        return
    base = model.peft_config[model.active_adapters[0]].base_model_name_or_path
    with warnings.catch_warnings():
        # "auto" saves resized or targeted embeddings, and says so in a warning each time.
        warnings.filterwarnings("ignore", message="Setting `save_embedding_layers` to `True`")
        local = bool(base) and os.path.isdir(str(base))
        model.save_pretrained(str(folder), state_dict=state_dict, save_embedding_layers="auto" if local else False)
