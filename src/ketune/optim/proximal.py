"""Proximal gradient steps for an L1 penalty, around any optimiser."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, Literal, overload

import torch
from torch.optim import Optimizer

Threshold = Literal["scheduled_lr", "base_lr", "constant", "released"]
THRESHOLDS: tuple[Threshold, ...] = ("scheduled_lr", "base_lr", "constant", "released")
SCHEDULES = ("constant", "linear", "log_linear", "exp_linear")


def soft_threshold(value: torch.Tensor, xi: float) -> torch.Tensor:
    """The proximal map of `xi * |v|`: sign(v) * max(|v| - xi, 0), elementwise, same shape as `value`."""
    return value.sign() * (value.abs() - xi).clamp_min(0.0)


def released_threshold(value: torch.Tensor, xi: float) -> torch.Tensor:
    """The threshold of SoRA's released code, whose in-place steps run one after the other.

    A value in (xi, 2 xi) is reduced and then falls under the next test, so the dead zone is 2 xi and the map jumps
    there from 0 to xi; a value equal to xi stays. Kept for replication; `soft_threshold` is the proximal map.
    """
    reduced = torch.where(value > xi, value - xi, value)
    reduced = torch.where(reduced < -xi, reduced + xi, reduced)
    return torch.where((reduced < xi) & (reduced > -xi), torch.zeros_like(reduced), reduced)


def sparsity_phases(kind: str, start: float, stop: float, count: int) -> list[float]:
    """The penalty of each phase of a sparsity schedule.

    Args:
        kind: `constant` (just `start`), `linear`, `log_linear` (logarithm of evenly spaced exponentials) or
            `exp_linear` (geometric; needs `start` above zero).
        start: penalty of the first phase.
        stop: penalty of the last phase.
        count: number of phases, at least 1.

    Raises:
        ValueError: for an unknown kind, a count below 1, or a geometric schedule that starts at zero.
    """
    if kind not in SCHEDULES:
        raise ValueError(f"sparsity_phases(kind={kind!r}): choose one of {', '.join(map(repr, SCHEDULES))}")
    if count < 1:
        raise ValueError(f"sparsity_phases(count={count}): must be at least 1")
    if kind == "constant" or count == 1:
        return [start] * count
    grid = [i / (count - 1) for i in range(count)]
    if kind == "linear":
        return [start + t * (stop - start) for t in grid]
    if kind == "log_linear":
        low, high = math.exp(start), math.exp(stop)
        return [math.log(low + t * (high - low)) for t in grid]
    if start <= 0 or stop <= 0:
        raise ValueError(f"sparsity_phases(kind='exp_linear', start={start}, stop={stop}): both must be above zero")
    return [start * (stop / start) ** t for t in grid]


class Proximal(Optimizer):
    """Run an optimiser's step, then the proximal map of an L1 penalty on some of its parameters.

    The wrapper shares the parameter groups and the state of the optimiser it wraps, so learning-rate schedulers,
    checkpoints and mixed precision see one ordinary optimiser. It works as `Trainer(optimizers=(Proximal(...), None))`.

    Args:
        inner: the optimiser that does the gradient step.
        parameters: the parameters that the penalty acts on; each must be in a group of `inner`.
        penalty: weight of the L1 penalty (lambda). A list gives one penalty per phase of training.
        total_steps: number of steps that the phases share evenly; only needed with a list.
        threshold: how lambda becomes the threshold xi of a step: `scheduled_lr` (xi = current learning rate * lambda,
            the convex-analysis definition), `base_lr` (the group's initial rate instead, so that warm-up does not
            delay sparsity), `constant` (xi = lambda), `released` (xi = lambda with the released code's map).
        l1_coefficient: adds `l1_coefficient * mean(|g|)` over all penalised entries to the loss, as the released code
            does beside its threshold; counts the penalty twice, hence 0 by default.

    Source: proximal gradient as named by SoRA (Ding et al., EMNLP 2023, arXiv 2311.11696); the variants are those of
    the released code.

    Raises:
        ValueError: when a parameter is unknown to `inner`, or the settings do not fit together.
    """

    def __init__(
        self,
        inner: Optimizer,
        parameters: Iterable[torch.nn.Parameter],
        penalty: float | list[float],
        total_steps: int | None = None,
        threshold: Threshold = "scheduled_lr",
        l1_coefficient: float = 0.0,
    ) -> None:
        if threshold not in THRESHOLDS:
            raise ValueError(f"Proximal(threshold={threshold!r}): choose one of {', '.join(map(repr, THRESHOLDS))}")
        phases = list(penalty) if isinstance(penalty, list) else [penalty]
        if not phases or min(phases) < 0:
            raise ValueError(f"Proximal(penalty={penalty}): needs values of zero or more")
        if len(phases) > 1 and not total_steps:
            raise ValueError("Proximal(total_steps=None): a penalty per phase needs the number of steps")
        self.inner = inner
        self.phases = phases
        self.total_steps = total_steps or 0
        self.threshold: Threshold = threshold
        self.l1_coefficient = l1_coefficient
        self.penalised = list(parameters)
        self.n_steps = 0
        known = {id(p) for group in inner.param_groups for p in group["params"]}
        if any(id(p) not in known for p in self.penalised):
            raise ValueError("Proximal(parameters=...): each parameter must be in a group of the wrapped optimiser")
        # Optimizer.__init__ would make groups of its own; the point is to share the wrapped optimiser's.
        self.defaults = inner.defaults
        for hooks in ("step_pre", "step_post", "state_dict_pre", "state_dict_post", "load_state_dict_pre"):
            setattr(self, f"_optimizer_{hooks}_hooks", OrderedDict())
        self._optimizer_load_state_dict_post_hooks = OrderedDict()

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.inner.param_groups

    @property
    def state(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.inner.state

    @property
    def penalty(self) -> float:
        """The penalty of the phase that the next step belongs to."""
        if len(self.phases) == 1:
            return self.phases[0]
        phase = self.n_steps * len(self.phases) // self.total_steps
        return self.phases[min(phase, len(self.phases) - 1)]

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step of the wrapped optimiser, then the proximal map on the penalised parameters."""
        if self.l1_coefficient:
            self._add_l1_gradient()
        loss = self.inner.step(closure)
        self._shrink()
        self.n_steps += 1
        return loss

    @torch.no_grad()
    def _add_l1_gradient(self) -> None:
        total = sum(p.numel() for p in self.penalised)
        for p in self.penalised:
            if p.grad is not None:
                p.grad.add_(p.sign(), alpha=self.l1_coefficient / total)

    @torch.no_grad()
    def _shrink(self) -> None:
        prox = released_threshold if self.threshold == "released" else soft_threshold
        penalised = {id(p) for p in self.penalised}
        for group in self.param_groups:
            xi = self.penalty * self._rate(group)
            if xi == 0.0:
                continue
            for p in group["params"]:
                if id(p) in penalised:
                    p.copy_(prox(p, xi))

    def _rate(self, group: dict[str, Any]) -> float:
        if self.threshold == "scheduled_lr":
            return float(group["lr"])
        if self.threshold == "base_lr":
            return float(group.get("initial_lr", group["lr"]))
        return 1.0

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.inner.zero_grad(set_to_none)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        self.inner.add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """The wrapped optimiser's state and the number of steps taken, so that a schedule resumes in its phase."""
        return {**self.inner.state_dict(), "n_steps": self.n_steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        rest = dict(state_dict)
        self.n_steps = int(rest.pop("n_steps", 0))
        self.inner.load_state_dict(rest)
