"""The trainable function beside one frozen linear layer: what a method implements."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

import torch
from torch import nn

from ketune.adapters.config import AdapterConfig

if TYPE_CHECKING:
    from ketune.adapters.adapter_layer import AdapterLayer


@dataclass(frozen=True)
class Place:
    """Where an adapted layer stands among all layers of one adapter.

    Attributes:
        index: its number, counted in the model's order.
        name: the module's name in the base model, or a parameter's.
        in_features: width of its input.
        out_features: width of its output.
        expert: which matrix of a stack of them, None for a layer with one.
    """

    index: int
    name: str
    in_features: int
    out_features: int
    expert: int | None = None

    @property
    def seed_name(self) -> str:
        """A name that no other place has."""
        return self.name if self.expert is None else f"{self.name}.{self.expert}"


class HasWeight(Protocol):
    """What an update may ask of the layer beside which it stands."""

    def plain_weight(self) -> torch.Tensor:
        """The frozen weight without any merged adapter, (out_features, in_features)."""
        ...


def lifted(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor in float32 or better."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


class Update(nn.Module):
    """The trainable function of one adapter beside one linear layer.

    Subclasses create their parameters so that `forward` returns exactly zero at the start, put everything that must not
    train into buffers, and implement `forward`. An update that is linear in its input also implements `delta_weight`
    and gets merging, conversion to LoRA and weight spectra for it. One that needs the layer's own output or weight
    overrides `beside` and `delta_weight_beside` instead.

    Args:
        config: the hyper-parameters.
        in_features: width of the layer's input.
        out_features: width of the layer's output.
    """

    why_not_mergeable: str | None = None
    """None for an update that is linear in x, else the reason why it cannot be folded into the weight."""

    meets_stored_weight: bool = False
    """Whether the update acts on what the stored weight of a quantised base meets: inputs that may be rotated."""

    def __init__(self, config: AdapterConfig, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()
        self._attached: list[nn.Module] = []  # in a list, so that a part that many updates share is no child of any

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map activations (..., in_features) to the change of the layer's output (..., out_features)."""
        raise NotImplementedError

    def beside(self, x: torch.Tensor, output: torch.Tensor, layer: AdapterLayer) -> torch.Tensor:
        """The change of the layer's output, for updates that look at the layer too.

        Args:
            x: (..., in_features) activations, after dropout, in the dtype of the update.
            output: (..., out_features) the output of the frozen layer alone, bias included; that of other active
                adapters is not in it, so that adapters add up as merged ones do.
            layer: the adapted layer (`AdapterLayer`); `layer.plain_weight()` is its weight (out_features, in_features).
        """
        return self(x)

    def delta_weight(self) -> torch.Tensor:
        """The update as a matrix (out_features, in_features); only for updates that are linear in x."""
        raise NotImplementedError

    def delta_weight_beside(self, layer: HasWeight) -> torch.Tensor:
        """The same for updates that depend on the layer's own weight, `layer.plain_weight()`."""
        return self.delta_weight()

    def low_rank_factors(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """The same as a product of thin matrices, (out_features, k) and (k, in_features), where the update is one.

        Conversion to LoRA is then exact from rank k on, and needs no singular values of the whole matrix.
        """
        return None

    def randomize(self) -> None:
        """Move away from the zero start (`init_weights=False`); by default every all-zero parameter becomes random."""
        for parameter in self.parameters():
            if parameter.device.type != "meta" and not torch.any(parameter.detach()):
                nn.init.normal_(parameter, std=0.5)

    def start_beside(self, layer: HasWeight) -> None:
        """Choose what depends on the layer's own weight; by default there is no such thing.

        Called once, when the update has been made beside a layer with values; not when a file will bring all of it
        (`low_cpu_mem_usage`), nor for the parts of a weighted sum, which are copied.

        Args:
            layer: as for `beside`.
        """

    def attach(self, shared: nn.Module, place: Place) -> None:
        """Receive the part that all layers of the adapter share, see `AdapterConfig.make_shared`."""
        self._attached = [shared]

    @property
    def shared(self) -> nn.Module:
        """The part that all layers of the adapter share."""
        return self._attached[0]

    def move_attached(self, device: torch.device) -> None:
        """Bring the shared part to a device, once it has values."""
        for part in self._attached:
            if device.type != "meta" and not any(p.device.type == "meta" for p in part.parameters()):
                part.to(device)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype in which the trainable parameters are kept."""
        for module in (self, *self._attached):
            for tensor in (*module.parameters(), *module.buffers()):
                if tensor.is_floating_point():
                    return cast(torch.dtype, tensor.dtype)
        return torch.float32
