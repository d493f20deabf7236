"""Training a learned start on a family of problems: Q-MAML's pre-training, FLIP's unrolled steps, and between them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ketune.vqc.initialiser import Initialiser
from ketune.vqc.meta_checkpoint import read_checkpoint, write_checkpoint
from ketune.vqc.problems.base import EnergyProblem, Family
from ketune.vqc.problems.batches import EnergyBatch, group_by_circuit
from ketune.vqc.task_scaling import TaskScaling

ORDERS = ("first", "second")
"""Gradients through the inner steps: not (the gradients of inner steps count as constants), or in full."""

_FITTED_ON = 64  # tasks that the scale of the descriptors is taken from
_STEP = 1e-3  # radians between points along a vector: rounding and the formula's error are both about 1e-12


@dataclass
class MetaHistory:
    """What meta-training did, step by step.

    Args:
        losses: the meta-loss before each step.
        gradient_norms: norm of its gradient, before clipping.
        n_gradients: energies computed with their gradients so far: per task one for the start and each inner step, and
            four more per inner step for order "second". The unit of an iteration of `minimise`, so that the price of
            training can be set against what it saves.
        seconds: time so far.
    """

    losses: list[float] = field(default_factory=list)
    gradient_norms: list[float] = field(default_factory=list)
    n_gradients: int = 0
    seconds: float = 0.0


def pool(family: Family, n: int, generator: torch.Generator) -> Family:
    """Draws n problems once, and then picks from them at random: where drawing is dear, as exact energies are."""
    problems = [family(generator) for _ in range(n)]
    return one_of(problems)


def one_of(problems: Sequence[EnergyProblem]) -> Family:
    """The family of given problems, each as likely."""
    kept = list(problems)
    return lambda generator: kept[int(torch.randint(len(kept), (), generator=generator))]


def mixture(*families: Family) -> Family:
    """A family drawn from several, each as likely: circuits of several sizes to train a `FlipDecoder` on."""
    return lambda generator: families[int(torch.randint(len(families), (), generator=generator))](generator)


@torch.enable_grad()
def meta_train(
    initialiser: Initialiser,
    family: Family,
    n_steps: int,
    n_tasks: int = 16,
    *,
    inner_steps: int = 0,
    inner_lr: float = 0.05,
    order: str = "first",
    step_weights: Sequence[float] | None = None,
    normalise: bool = True,
    lr: float = 1e-3,
    cosine: bool = False,
    clip: float = 5.0,
    generator: torch.Generator | None = None,
    checkpoint: str | Path | None = None,
    save_every: int = 100,
    on_step: Callable[[int, float], None] | None = None,
) -> MetaHistory:
    """Trains a learned start so that energies of a family's problems are low from the start on, or a few steps after.

    Each step draws tasks, lets the initialiser start them, goes `inner_steps` steps of plain gradient descent from
    there, and takes one step of Adam against the mean over tasks of

        sum over s of step_weights[s] * (energy after s inner steps - ground energy) / |ground energy|

    `inner_steps=0` is what Q-MAML does despite its name (arXiv 2501.05906, algorithm 1: the energy of the start
    itself); inner steps with order "second" are FLIP (arXiv 2103.08572). Order "first" takes the gradients of the inner
    steps for constants; "second" passes through them, by products of Hessians with vectors that cost four gradients
    each. Tasks on one circuit run as one batch, in float64.

    Before the first step the descriptors of 64 tasks give the initialiser its scale of descriptors, if it has one that
    is not fitted. Killed training with a checkpoint goes on where it was when called again with the same arguments, to
    the same weights.

    Args:
        initialiser: trained in place.
        family: draws the tasks.
        n_steps: steps of Adam.
        n_tasks: tasks per step.
        inner_steps: steps of gradient descent on each task, 0 or more.
        inner_lr: their learning rate, on the energy as the loss has it: over |ground energy| when `normalise` is set.
        order: "first" or "second".
        step_weights: `inner_steps + 1` weights of the energies along the way; all the same, with sum 1, when None.
        normalise: whether gaps are divided by |ground energy|, so that tasks of any scale count alike. A gap above a
            ground energy of exactly 0 is never divided.
        lr: Adam's learning rate.
        cosine: whether it falls to 0 along a cosine.
        clip: largest norm of the meta-gradient.
        generator: source of the tasks; a new one with seed 0 when None.
        checkpoint: file to go on from and to keep the state in; removed at the end.
        save_every: steps between two writes of it.
        on_step: called with the number of each step and its loss.

    Raises:
        ValueError: for unknown or impossible settings, an initialiser whose weights do not reach its angles, or a
            checkpoint of other settings.
        FloatingPointError: for a meta-gradient that is not finite; the weights are those before it.

    Example:
        Train, freeze, and descend on the angles alone:

        >>> from ketune.circuits import heisenberg, ry_ring
        >>> from ketune.vqc import EnergyProblem, minimise
        >>> from ketune.vqc.learner import Learner
        >>> def chain(generator):
        ...     z = 2 * float(torch.rand((), generator=generator, dtype=torch.float64))
        ...     energy = heisenberg(2, (1.0, 1.0, z))
        ...     return EnergyProblem("chain", ry_ring(2, 2), energy, -2.0 - z, (z,))
        >>> learner = Learner(n_task=1, n_angles=4)
        >>> history = meta_train(learner, chain, n_steps=30, n_tasks=8, lr=0.02)
        >>> history.losses[-1] < history.losses[0], history.n_gradients
        (True, 240)
        >>> new = chain(torch.Generator().manual_seed(1))
        >>> with torch.no_grad():
        ...     start = learner(new.circuit, new.task()).double()
        >>> trace = minimise(new, start, lambda angles: torch.optim.Adam(angles, lr=0.05), n_steps=20)
    """
    weights = _checked_weights(n_steps, n_tasks, inner_steps, order, step_weights)
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    if not any(weight.requires_grad for weight in initialiser.parameters()):
        raise ValueError("meta_train: every weight of the initialiser is frozen; call requires_grad_() on it")
    optimizer = torch.optim.Adam((weight for weight in initialiser.parameters() if weight.requires_grad), lr=lr)
    history = MetaHistory()
    path = None if checkpoint is None else Path(checkpoint)
    settings = {
        "kind": initialiser.kind, "settings": initialiser.settings(), "n_steps": n_steps, "n_tasks": n_tasks,
        "inner_steps": inner_steps, "inner_lr": inner_lr, "order": order, "step_weights": list(weights),
        "normalise": normalise, "lr": lr, "cosine": cosine, "clip": clip,
    }  # fmt: skip
    if path is not None and path.exists():
        read_checkpoint(path, settings, initialiser, optimizer, history, generator)
    elif isinstance(scaling := getattr(initialiser, "scaling", None), TaskScaling) and not scaling.fitted:
        _fit(scaling, family, generator)
    began = time.perf_counter() - history.seconds
    for step in range(len(history.losses), n_steps):
        if cosine:
            optimizer.param_groups[0]["lr"] = lr * (1 + math.cos(math.pi * step / n_steps)) / 2
        optimizer.zero_grad()
        loss = 0.0
        for batch in group_by_circuit(family(generator) for _ in range(n_tasks)):
            loss += _backward(initialiser, _Cost(batch, normalise), weights, inner_lr, order, 1 / n_tasks)
            history.n_gradients += len(batch) * (inner_steps + 1 + 4 * inner_steps * (order == "second"))
        if lost := _lost(initialiser):
            raise ValueError(f"meta_train: no gradient reaches {', '.join(lost)}; freeze what is not to train")
        norm = float(torch.nn.utils.clip_grad_norm_(initialiser.parameters(), clip))
        if norm - norm != 0.0:
            raise FloatingPointError(
                f"meta_train: the gradient of step {step} is {norm}; lower inner_lr={inner_lr} or lr={lr}"
            )
        optimizer.step()
        history.losses.append(loss)
        history.gradient_norms.append(norm)
        history.seconds = time.perf_counter() - began
        if path is not None and (step + 1) % save_every == 0:
            write_checkpoint(path, settings, initialiser, optimizer, history, generator)
        if on_step is not None:
            on_step(step, loss)
    if path is not None:
        path.unlink(missing_ok=True)
    return history


def _checked_weights(
    n_steps: int, n_tasks: int, inner_steps: int, order: str, step_weights: Sequence[float] | None
) -> tuple[float, ...]:
    if n_steps < 1 or n_tasks < 1 or inner_steps < 0:
        raise ValueError(
            f"meta_train(n_steps={n_steps}, n_tasks={n_tasks}, inner_steps={inner_steps}): at least 1, 1 and 0"
        )
    if order not in ORDERS:
        raise ValueError(f"meta_train(order={order!r}): unknown order; choose one of {', '.join(map(repr, ORDERS))}")
    if step_weights is None:
        return (1 / (inner_steps + 1),) * (inner_steps + 1)
    if len(step_weights) != inner_steps + 1 or not any(step_weights):
        raise ValueError(
            f"meta_train(step_weights={list(step_weights)}): give {inner_steps + 1} weights, one for the start and one "
            "for each inner step, not all 0"
        )
    return tuple(float(weight) for weight in step_weights)


def _lost(initialiser: Initialiser) -> list[str]:
    """Weights that train and have no gradient."""
    return [name for name, weight in initialiser.named_parameters() if weight.requires_grad and weight.grad is None]


def _fit(scaling: TaskScaling, family: Family, generator: torch.Generator) -> None:
    tasks = torch.tensor([family(generator).descriptor for _ in range(_FITTED_ON)], dtype=scaling.mean.dtype)
    if tasks.shape[-1] == scaling.n_task:  # else the first step says what is wrong
        scaling.fit(tasks.to(scaling.mean.device))


class _Cost:
    """The gap of each problem of a batch at its angles, over |ground energy| where wanted, and its derivatives."""

    def __init__(self, batch: EnergyBatch, normalise: bool) -> None:
        self.batch = batch
        self.ground = batch.ground_energies
        self.scale = (
            torch.where(self.ground == 0, 1.0, self.ground.abs()) if normalise else torch.ones_like(self.ground)
        )

    def gradient(self, angles: Tensor) -> tuple[Tensor, Tensor]:
        """Costs (..., B) and their gradients, at (..., B, n_angles) in float64."""
        angles = angles.detach().requires_grad_()
        costs = (self.batch.energy(angles) - self.ground.to(angles)) / self.scale.to(angles)
        return costs.detach(), torch.autograd.grad(costs.sum(), angles)[0]

    def hessian_times(self, angles: Tensor, vectors: Tensor) -> Tensor:
        """Each Hessian times a vector, (B, n_angles), from the gradients at four points along it, all in one run.

        The error is of the fourth power of the step, about 1e-12 of the result. Second derivatives by autograd take ten
        times as long or more (`benchmarks/vqc_second_order.py`).
        """
        lengths = vectors.norm(dim=-1, keepdim=True).clamp(min=1e-300)
        shifts = torch.tensor([-2.0, -1.0, 1.0, 2.0]).to(angles)[:, None, None] * _STEP
        factors = torch.tensor([1.0, -8.0, 8.0, -1.0]).to(angles)[:, None, None] / (12 * _STEP)
        _, gradients = self.gradient(angles + shifts * (vectors / lengths))
        return (factors * gradients).sum(0) * lengths


def _start(initialiser: Initialiser, batch: EnergyBatch) -> Tensor:
    parameter = next(initialiser.parameters())
    start = initialiser(batch.circuit, batch.tasks(parameter.dtype).to(parameter.device))
    if not start.requires_grad:
        raise ValueError(
            f"{type(initialiser).__name__}: its angles do not depend on weights that train; unfreeze it, and let "
            "forward detach nothing"
        )
    return start


def _backward(
    initialiser: Initialiser, cost: _Cost, weights: Sequence[float], inner_lr: float, order: str, share: float
) -> float:
    """Adds the gradient of a share of the summed loss to the weights; that share."""
    start = _start(initialiser, cost.batch)
    angles, loss = start.detach().double(), 0.0
    way: list[tuple[Tensor, Tensor]] = []
    for weight in weights:
        costs, gradient = cost.gradient(angles)
        loss += weight * float(costs.sum())
        way.append((angles, gradient))
        angles = angles - inner_lr * gradient
    # Back along the way: theta' = theta - lr grad(theta) passes a cotangent v on as v - lr Hessian v.
    pull = weights[-1] * way[-1][1]
    for weight, (angles, gradient) in zip(weights[-2::-1], way[-2::-1]):
        if order == "second":
            pull = pull - inner_lr * cost.hessian_times(angles, pull)
        pull = pull + weight * gradient
    start.backward((share * pull).to(start.dtype))
    return share * loss
