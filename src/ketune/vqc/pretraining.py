"""Pre-training an encoder on another task and keeping it: Pre+TTN-VQC, and any pre-trained network before a circuit."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ketune.errors import TrainingError
from ketune.vqc.classifier import CircuitClassifier
from ketune.vqc.problems.base import LabelledData

if TYPE_CHECKING:
    from ketune.vqc.training import History

MODES = ("freeze", "unfreeze")
"""What becomes of a pre-trained encoder: kept as it is, or trained on at a tenth of the rate."""

_UNFROZEN_RATE = 0.1


class FrozenEncoder(nn.Module):
    """A network that stays exactly as it is: no gradients, no training mode, no statistics that move.

    `train()` on the whole model does not reach it, so that BatchNorm keeps its statistics and dropout stays off. (In
    the released code of the pre-trained networks, arXiv 2411.08552, the stem convolution and BatchNorm's statistics
    train behind the word frozen.)

    Args:
        network: rows to features; a copy of it is kept.
        after: a trainable module behind it, such as `nn.Linear(512, 8)`; none by default.

    Example:
        >>> encoder = FrozenEncoder(nn.BatchNorm1d(4), nn.Linear(4, 2))
        >>> encoder.train()(torch.randn(8, 4)).shape, encoder.network.training
        (torch.Size([8, 2]), False)
    """

    def __init__(self, network: nn.Module, after: nn.Module | None = None) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).requires_grad_(False).eval()
        self.after = nn.Identity() if after is None else after

    def train(self, mode: bool = True) -> FrozenEncoder:
        """Sets the mode of what is behind the network."""
        super().train(mode)
        self.network.eval()
        return self

    @torch.no_grad()
    def encode(self, x: Tensor, batch_size: int = 256) -> Tensor:
        """What the network gives for (n, ...) rows, without what is behind it."""
        return torch.cat([self.network(part) for part in x.split(batch_size)])

    def forward(self, x: Tensor) -> Tensor:
        """Rows to what the module behind the network gives."""
        with torch.no_grad():
            features = self.network(x)
        return self.after(features)


def pretrain_then_freeze(
    model: CircuitClassifier,
    source: LabelledData,
    n_classes: int | None = None,
    *,
    mode: str = "freeze",
    seed: int = 0,
    **training: Any,
) -> tuple[CircuitClassifier, History]:
    """Trains a hybrid on a source task and keeps its encoder, behind which circuit and head start anew.

    Pre+TTN-VQC (J. Qi et al., arXiv 2306.03741; its released code): the first stage trains the whole of it on source
    classes, the second trains circuit and head on the target classes behind the frozen tensor train. Nothing else is
    carried over.

    Args:
        model: the hybrid, for the source's classes; it is trained in place.
        source: the source task.
        n_classes: classes of the target task; as many as the model has when None.
        mode: "freeze" keeps the encoder as the source left it; "unfreeze" has it trained on at a tenth of the learning
            rate.
        seed: of the source training, and of circuit and head of the result.
        training: for `train_classifier` on the source, `epochs` among them.

    Returns:
        the classifier for the target task, and the history of the source training. Look at its accuracies: an encoder
        that learned nothing on the source is a random one.

    Raises:
        ValueError: for an unknown mode.
        TrainingError: where the source training left the encoder as it was: it has no trainable weights, or no gradient
            reached them, and a "pre-trained" encoder would be the random one.

    Example:
        >>> from ketune.circuits import rxryrz_ring
        >>> from ketune.vqc.problems.base import Rows
        >>> from ketune.vqc.reducers import TTReducer
        >>> rows = Rows(torch.randn(20, 16), torch.arange(20) % 2)
        >>> source = LabelledData("source", rows, rows, rows, 2, (16,))
        >>> model = CircuitClassifier(TTReducer(16, 3), rxryrz_ring(3), 2)
        >>> target, history = pretrain_then_freeze(model, source, 4, epochs=1)
        >>> target.n_classes, target.count_parameters().encoder
        (4, 0)
    """
    from ketune.vqc.training import train_classifier

    if mode not in MODES:
        raise ValueError(f"mode={mode!r}: choose one of {', '.join(map(repr, MODES))}")
    before = [parameter.detach().clone() for parameter in model.encoder.parameters()]
    history = train_classifier(model, source, seed=seed, **training)
    if all(torch.equal(old, new) for old, new in zip(before, model.encoder.parameters())):
        raise TrainingError(
            f"pre-training on {source.name!r} left the encoder ({type(model.encoder).__name__}) as it was: it has no "
            "trainable weights or no gradient reaches them. Give it weights to train, or leave pre-training out"
        )
    target = model.fresh(n_classes, seed=seed)
    if mode == "freeze":
        target.encoder = FrozenEncoder(model.encoder)
    else:
        target.encoder = copy.deepcopy(model.encoder)
        target.rates = {"encoder.": _UNFROZEN_RATE}
    return target, history
