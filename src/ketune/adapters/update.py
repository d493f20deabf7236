"""The trainable function beside one frozen linear layer: what a method implements."""

from __future__ import annotations

import torch
from torch import nn

from ketune.adapters.config import AdapterConfig


class Update(nn.Module):
    """The trainable function of one adapter beside one linear layer.

    Subclasses create their parameters so that `forward` returns exactly zero at the start, put everything that must not
    train into buffers, and implement `forward`. An update that is linear in its input also implements `delta_weight`
    and gets merging, conversion to LoRA and weight spectra for it.

    Args:
        config: the hyper-parameters.
        in_features: width of the layer's input.
        out_features: width of the layer's output.
    """

    why_not_mergeable: str | None = None
    """None for an update that is linear in x, else the reason why it cannot be folded into the weight."""

    def __init__(self, config: AdapterConfig, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map activations (..., in_features) to the change of the layer's output (..., out_features)."""
        raise NotImplementedError

    def delta_weight(self) -> torch.Tensor:
        """The update as a matrix (out_features, in_features); only for updates that are linear in x."""
        raise NotImplementedError

    def randomize(self) -> None:
        """Move away from the zero start (`init_weights=False`); by default every all-zero parameter becomes random."""
        for parameter in self.parameters():
            if parameter.device.type != "meta" and not torch.any(parameter.detach()):
                nn.init.normal_(parameter, std=0.5)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype in which the trainable parameters are kept."""
        return next(self.parameters()).dtype
