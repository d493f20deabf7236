"""Task descriptors brought to one scale, as the family that a start was trained on has them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ketune.vqc.initialiser import InitialiserError


class TaskScaling(nn.Module):
    """Takes the mean of a family from a descriptor and divides by its deviation; nothing until it is fitted.

    Entries that never change in the family are only shifted, so that they read 0. Mean and deviation are saved with the
    start.

    Args:
        n_task: length of a descriptor.

    Raises:
        ValueError: for a negative length.
    """

    mean: Tensor
    deviation: Tensor
    fitted: Tensor

    def __init__(self, n_task: int) -> None:
        super().__init__()
        if n_task < 0:
            raise ValueError(f"n_task={n_task}: a descriptor has 0 numbers or more")
        self.n_task = n_task
        self.register_buffer("mean", torch.zeros(n_task))
        self.register_buffer("deviation", torch.ones(n_task))
        self.register_buffer("fitted", torch.tensor(False))

    @torch.no_grad()
    def fit(self, tasks: Tensor) -> None:
        """Takes mean and deviation from (n, n_task) descriptors, n at least 1."""
        self.mean.copy_(tasks.mean(0))
        deviation = (tasks - self.mean).square().mean(0).sqrt()
        constant = deviation <= 1e-6 * (1 + self.mean.abs())
        self.deviation.copy_(torch.where(constant, 1.0, deviation))
        self.fitted.fill_(True)

    def forward(self, task: Tensor) -> Tensor:
        """(..., n_task) descriptors to as many numbers.

        Raises:
            InitialiserError: for descriptors of another length.
        """
        if task.shape[-1:] != (self.n_task,):
            raise InitialiserError(
                f"task of shape {tuple(task.shape)}: this start was made for descriptors of {self.n_task} numbers; "
                "pass EnergyProblem.task() of a problem of its family"
            )
        return (task.to(self.mean) - self.mean) / self.deviation
