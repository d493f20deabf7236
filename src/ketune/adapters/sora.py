"""SoRA: a low-rank update whose ranks are switched off one by one by a sparse gate."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from ketune.adapters.base import register
from ketune.adapters.config import AdapterConfig
from ketune.adapters.update import Update, lifted
from ketune.optim.proximal import SCHEDULES, THRESHOLDS, Proximal, sparsity_phases


@dataclass
class SoraConfig(AdapterConfig):
    """Sparse low-rank adaptation (Ding et al., EMNLP 2023, arXiv 2311.11696).

    `update(x) = (alpha / r) * B (g * (A x))` with A (r, in), B (out, r) and a gate g (r). A and B train with the
    trainer's optimiser; g also gets the proximal step of an L1 penalty, which makes entries exactly zero. `prune`
    then drops their ranks and leaves a plain LoRA adapter.

    The penalty acts through the optimiser: `ketune.finetune` wraps it by itself; with your own trainer pass
    `optimizers=(config.wrap_optimizer(AdamW(...), model, "default", total_steps), None)`.

    Where we deviate from the released code, on purpose: the exact soft threshold with xi = learning rate * lambda
    (their constant xi with a dead zone of 2 xi is `threshold="released"`), and no L1 term in the loss beside it
    (theirs is `l1_coefficient`).
    """

    size_field: ClassVar[str] = "r"
    start_fields: ClassVar[tuple[str, ...]] = (
        *AdapterConfig.start_fields,
        "sparse_lambda",
        "threshold",
        "l1_coefficient",
        "lambda_schedule",
        "max_lambda",
        "lambda_num",
        "gate_init",
    )

    r: int = field(default=8, metadata={"help": "Largest rank; the gate has as many entries."})
    alpha: float = field(default=16.0, metadata={"help": "The update is scaled by alpha / r, also after pruning."})
    sparse_lambda: float = field(
        default=0.1, metadata={"help": "Weight of the L1 penalty on the gate (its first value, with a schedule)."}
    )
    threshold: str = field(
        default="scheduled_lr",
        metadata={
            "help": "How lambda becomes a step's threshold: 'scheduled_lr' or 'base_lr' (times the learning rate), "
            "'constant' (lambda itself), 'released' (lambda, with the released code's dead zone)."
        },
    )
    l1_coefficient: float = field(
        default=0.0, metadata={"help": "Weight of an additional mean |g| in the loss, as in the released code."}
    )
    lambda_schedule: str = field(
        default="constant", metadata={"help": "'constant', 'linear', 'log_linear' or 'exp_linear' over the phases."}
    )
    max_lambda: float = field(default=0.1, metadata={"help": "Lambda of the last phase of a schedule."})
    lambda_num: int = field(default=7, metadata={"help": "Number of phases of a schedule."})
    gate_init: str = field(
        default="normal", metadata={"help": "Start of the gate: 'normal' (standard normal, as published) or 'ones'."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("r", self.r >= 1, "must be at least 1")
        self._require("alpha", self.alpha > 0, "must be above zero")
        for name in ("sparse_lambda", "max_lambda", "l1_coefficient"):
            self._require(name, getattr(self, name) >= 0, "must be zero or more")
        self._require("lambda_num", self.lambda_num >= 1, "must be at least 1")
        self._choose("threshold", THRESHOLDS)
        self._choose("lambda_schedule", SCHEDULES)
        self._choose("gate_init", ("ones", "normal"))
        if self.lambda_schedule == "exp_linear":
            for name in ("sparse_lambda", "max_lambda"):
                self._require(name, getattr(self, name) > 0, "must be above zero for lambda_schedule='exp_linear'")

    def parameter_count(self, in_features: int, out_features: int) -> int:
        """r (in + out + 1): both factors and the gate, before any pruning."""
        return self.r * (in_features + out_features + 1)

    def wrap_optimizer(
        self, optimizer: torch.optim.Optimizer, model: nn.Module, adapter_name: str, total_steps: int
    ) -> torch.optim.Optimizer:
        """Put the proximal step on this adapter's gates around `optimizer`, which must hold them already."""
        penalised = list(gates(model, adapter_name).values())
        _exempt_from_decay(optimizer, penalised)
        penalty = sparsity_phases(self.lambda_schedule, self.sparse_lambda, self.max_lambda, self.lambda_num)
        return Proximal(
            optimizer,
            penalised,
            penalty if self.lambda_schedule != "constant" else self.sparse_lambda,
            total_steps=max(1, total_steps),
            threshold=self.threshold,  # pyright: ignore[reportArgumentType]
            l1_coefficient=self.l1_coefficient,
        )


class SoraUpdate(Update):
    """`x -> (alpha / r) * B (g * (A x))`, zero at the start because B is."""

    def __init__(self, config: SoraConfig, in_features: int, out_features: int) -> None:
        super().__init__(config, in_features, out_features)
        self.scale = config.alpha / config.r
        self.a = nn.Parameter(torch.empty(config.r, in_features))
        self.b = nn.Parameter(torch.zeros(out_features, config.r))
        self.gate = nn.Parameter(torch.ones(config.r))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))
        if config.gate_init == "normal":
            nn.init.normal_(self.gate)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(F.linear(x, self.a) * (self.gate * self.scale), self.b)

    def delta_weight(self) -> torch.Tensor:
        up, down = self.low_rank_factors()
        return up @ down

    def low_rank_factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        return lifted(self.b) * (lifted(self.gate) * self.scale), lifted(self.a)


def gates(model: nn.Module, adapter_name: str = "default") -> dict[str, nn.Parameter]:
    """The gate of each adapted layer, by the layer's name, and of each expert of a parameter; shape (r,) each.

    Raises:
        ValueError: when the model has no SoRA adapter of that name.
    """
    pattern = re.compile(rf"(.+)\.sora_update\.{re.escape(adapter_name)}(\.experts\.\d+)?\.gate")
    matches = ((pattern.fullmatch(name), parameter) for name, parameter in model.named_parameters())
    found = {match[1] + (match[2] or ""): parameter for match, parameter in matches if match}
    if not found:
        raise ValueError(f"gates(adapter_name={adapter_name!r}): the model has no SoRA adapter of that name")
    return found


def effective_ranks(model: nn.Module, adapter_name: str = "default") -> dict[str, int]:
    """The number of gates that are not zero, by layer: the rank that `prune` will keep."""
    return {name: int(torch.count_nonzero(gate)) for name, gate in gates(model, adapter_name).items()}


def _exempt_from_decay(optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter]) -> None:
    """Move the gates to a group without weight decay, as the released code trains them."""
    chosen = {id(p) for p in parameters}
    for group in list(optimizer.param_groups):
        moved = [p for p in group["params"] if id(p) in chosen]
        if not moved or not group.get("weight_decay"):
            continue
        group["params"] = [p for p in group["params"] if id(p) not in chosen]
        options = {key: value for key, value in group.items() if key not in ("params", "weight_decay")}
        optimizer.add_param_group({**options, "params": moved, "weight_decay": 0.0})


register("sora", SoraConfig, SoraUpdate)
