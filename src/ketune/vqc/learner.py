"""Q-MAML's Learner: a network that reads a task and says where all angles of one circuit start."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ketune.circuits import Circuit
from ketune.vqc.initialiser import Initialiser, InitialiserError
from ketune.vqc.task_scaling import TaskScaling


class Learner(Initialiser):
    """Q-MAML: `theta = scale * MLP(task)`, all angles of one circuit at once.

    J. Lee, J. Cho, S. Kim, "Q-MAML: Quantum model-agnostic meta-learning for variational quantum algorithms", AAAI
    2025, arXiv 2501.05906. Two layers of width 256 follow the public re-implementation of 2026, which also scales the
    output by 0.01 for classifiers; the paper's own sizes were not open to us. Bringing descriptors to one scale is
    ours. `meta_train` trains it, with `inner_steps=0` as the paper does.

    Weights start at random from torch's global generator (`torch.manual_seed`).

    Args:
        n_task: length of a task's descriptor.
        n_angles: of the circuit that it starts.
        hidden: width of the hidden layer.
        scale: factor on the output.

    Raises:
        ValueError: for sizes below 1 or a scale of 0.

    Example:
        >>> import torch
        >>> from ketune.circuits import ry_ring
        >>> circuit = ry_ring(4, 2)
        >>> Learner(3, circuit.n_angles)(circuit, torch.zeros(5, 3)).shape
        torch.Size([5, 8])
    """

    kind = "q_maml"

    def __init__(self, n_task: int, n_angles: int, hidden: int = 256, scale: float = 1.0) -> None:
        super().__init__()
        if min(n_task, n_angles, hidden) < 1 or not scale:
            raise ValueError(
                f"Learner(n_task={n_task}, n_angles={n_angles}, hidden={hidden}, scale={scale}): sizes are at least 1 "
                "and the scale is not 0"
            )
        self.n_task, self.n_angles, self.hidden, self.scale = n_task, n_angles, hidden, scale
        self.scaling = TaskScaling(n_task)
        self.network = nn.Sequential(nn.Linear(n_task, hidden), nn.SiLU(), nn.Linear(hidden, n_angles))

    def forward(self, circuit: Circuit, task: Tensor) -> Tensor:
        """Starting angles.

        Args:
            circuit: the circuit that it was made for.
            task: (..., n_task) descriptors; leading dimensions are a batch.

        Returns:
            (..., n_angles) in radians, in the dtype of the weights.

        Raises:
            InitialiserError: for a circuit with another number of angles, or descriptors of another length.
        """
        if circuit.n_angles != self.n_angles:
            raise InitialiserError(
                f"a circuit with {circuit.n_angles} angles: this Learner starts circuits with {self.n_angles}; "
                f"train Learner({self.n_task}, {circuit.n_angles}) for it, or a FlipDecoder, which starts any circuit"
            )
        return self.scale * self.network(self.scaling(task))

    def settings(self) -> dict[str, Any]:
        return {"n_task": self.n_task, "n_angles": self.n_angles, "hidden": self.hidden, "scale": self.scale}
