"""Hugging Face's Trainer with losses in place of gradients: what it takes to run `ketune.optim.ZerothOrder` in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import transformers

from ketune.errors import TrainingError
from ketune.finetuning.metrics import evaluating
from ketune.optim import ZerothOrder

if TYPE_CHECKING:
    _Trainer = transformers.Trainer
else:
    _Trainer = object


class ZerothOrderSteps(_Trainer):
    """What a Trainer needs to run `ZerothOrder`; put it before the Trainer among the bases of a class.

    The Trainer calls `optimizer.step()` without a closure. So each training step, one per micro-batch, measures the
    loss on both sides of the weights in place of a forward and backward pass, in evaluation mode (dropout would be
    noise in the difference of the two) and without gradients; `step` then uses the sums. Gradient accumulation,
    learning-rate schedules, checkpoints and data parallelism are the Trainer's. The logged loss is the mean of those
    measured. In place of a gradient's norm, the log has `projected_gradient`: the mean size of the projected gradients
    of the last step.

    With any other optimiser this changes nothing.
    """

    @property
    def zeroth_order(self) -> ZerothOrder | None:
        """The optimiser that measures, without what accelerate wraps around it; None for any other."""
        optimizer = getattr(self.optimizer, "optimizer", self.optimizer)
        return optimizer if isinstance(optimizer, ZerothOrder) else None

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """As the Trainer's.

        Raises:
            TrainingError: for a `ZerothOrder` where weights are sharded or losses are scaled.
        """
        optimizer = super().create_optimizer(*args, **kwargs)
        if self.zeroth_order is not None:
            for name, is_on, instead in (
                ("fp16=True", self.args.fp16, "float32 or bf16=True; there is no backward pass to scale a loss for"),
                ("DeepSpeed", self.is_deepspeed_enabled, "plain data parallelism; there is no state to shard"),
                ("FSDP", self.is_fsdp_enabled, "plain data parallelism; there are no gradients and no state to shard"),
            ):
                if is_on:
                    raise TrainingError(f"ZerothOrder cannot run with {name}; use {instead}")
        return optimizer

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Measures the loss of a micro-batch on both sides of the weights, or does what the Trainer would."""
        optimizer = self.zeroth_order
        if optimizer is None:
            return super().training_step(model, inputs, num_items_in_batch)
        prepared = self._prepare_inputs(inputs)

        def loss() -> torch.Tensor:
            with self.compute_loss_context_manager():
                # A copy: some trainers add keys to the inputs.
                value = self.compute_loss(model, dict(prepared), num_items_in_batch=num_items_in_batch)
            assert isinstance(value, torch.Tensor)
            # Every process must measure the same slope, that of the mean, as all move along the same directions.
            return self.accelerator.reduce(value.mean(), reduction="mean")  # pyright: ignore[reportReturnType]

        share = 1 if self._is_share(num_items_in_batch) else self.current_gradient_accumulation_steps
        with evaluating(model):
            measured = optimizer.measure(lambda: loss() / share)
        return torch.tensor(measured, device=self.args.device)

    def _is_share(self, num_items_in_batch: torch.Tensor | int | None) -> bool:
        """Whether the losses of the micro-batches add up to that of the batch; the Trainer asks the same."""
        declared = getattr(self, "loss_is_scaled_for_ga", None)  # newer than transformers 5.0
        if declared is not None:
            return declared
        return (self.model_accepts_loss_kwargs and num_items_in_batch is not None) or self.compute_loss_func is not None

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """As the Trainer's, with slopes in place of the norm of gradients that do not exist."""
        optimizer = self.zeroth_order
        if optimizer is not None and logs.pop("grad_norm", None) is not None:
            slopes = [abs(slope) for slope in optimizer.projected_gradients]
            logs["projected_gradient"] = sum(slopes) / len(slopes)
        super().log(logs, *args, **kwargs)


class ZerothOrderTrainer(ZerothOrderSteps, transformers.Trainer):
    """`transformers.Trainer` that can run `ZerothOrder`.

    Use it as the Trainer, with `optimizers=(ZerothOrder(model.parameters(), lr=1e-6), None)`; with None for the
    scheduler, the arguments' `lr_scheduler_type` counts.
    """
