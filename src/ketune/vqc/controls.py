"""Classical controls of TensorHyper: the same tensor train with a linear head and no circuit."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ketune.vqc.hypernetwork import AngleHypernet


class TrainOnlyClassifier(nn.Module):
    """`logits = W (TT(x) + b) + c`: what a conditioned hypernetwork emits, read by a linear head instead of a circuit.

    The mandatory control of TensorHyper-VQC: the train sees all of the input and is a linear map of it, so that a
    circuit with per-sample angles can do well for what its hypernetwork does.

    Args:
        hypernet: a "conditioned" `AngleHypernet` of one place; a copy of it is made, the cores as they are. Its gate is
            taken off, because a zero gate in front of a fresh head would only delay training.
        n_classes: number of classes.
        seed: of the head.

    Raises:
        ValueError: for a hypernetwork that reads no rows.

    Example:
        >>> hypernet = AngleHypernet(1, 36, "conditioned", n_features=64)
        >>> TrainOnlyClassifier(hypernet, 3)(torch.randn(5, 64)).shape
        torch.Size([5, 3])
    """

    def __init__(self, hypernet: AngleHypernet, n_classes: int, seed: int = 0) -> None:
        super().__init__()
        if not hypernet.wants_rows:
            raise ValueError(f"TrainOnlyClassifier(hypernet of kind {hypernet.kind!r}): needs one that reads rows")
        self.train_part = copy.deepcopy(hypernet.source)
        self.head = nn.Linear(hypernet.n_angles, n_classes)
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.head.parameters():
            nn.init.uniform_(parameter, -(hypernet.n_angles**-0.5), hypernet.n_angles**-0.5, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        """(..., n_features) to logits (..., n_classes)."""
        return self.head(self.train_part(0, x))
