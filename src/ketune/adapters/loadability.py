"""How loadable the activations are that circuits embed as amplitudes, and a term of the loss that makes them so."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from ketune.adapters.calibration import circuits_of, collect_inputs
from ketune.state_preparation import Loadability, entanglement, loadability


def layer_loadability(
    model: nn.Module, batches: Iterable[Mapping[str, Tensor]], adapter_name: str = "default"
) -> dict[str, Loadability]:
    """Entanglement of what each circuit of an adapter is given, with the infidelities that it allows.

    Args:
        model: a model with circuits that embed activations (QAA).
        batches: keyword arguments of the model, a few batches; at most 512 rows of each layer are looked at.
        adapter_name: which adapter.

    Returns:
        by name of the layer; each of its values has one entry for each row. Rows of zeros are left out.

    Raises:
        ValueError: for a model without such circuits, or without batches.
    """
    inputs = collect_inputs(model, _layers(model, adapter_name), batches)
    return {name: loadability(rows[rows.abs().amax(-1) > 0]) for name, rows in inputs.items()}


class LoadabilityPenalty:
    """The mean entanglement of the activations that an adapter's circuits embed, as a term of a loss.

    Only what comes before a circuit can answer to it: adapters in earlier layers, or a model that is trained in full.

    Args:
        model: a model with circuits that embed activations (QAA).
        adapter_name: which adapter.

    Raises:
        ValueError: for a model without such circuits.
    """

    def __init__(self, model: nn.Module, adapter_name: str = "default") -> None:
        self._seen: list[Tensor] = []
        self._watches = False
        self._handles = [layer.register_forward_pre_hook(self._look) for layer in _layers(model, adapter_name).values()]

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Looks at the activations of the forward passes inside; `value` reads them."""
        self._seen, self._watches = [], True
        try:
            yield
        finally:
            self._watches = False

    def value(self) -> Tensor:
        """Mean over layers, rows and wires of the Renyi-2 entropy: a number from 0 to 1, differentiable.

        Raises:
            RuntimeError: when no forward pass was watched.
        """
        if not self._seen:
            raise RuntimeError("LoadabilityPenalty: run the model inside `with penalty.watching():` first")
        return torch.stack(self._seen).mean()

    def close(self) -> None:
        """Takes the hooks off the model."""
        for handle in self._handles:
            handle.remove()

    def _look(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        # Checkpointing runs a layer again in the backward pass and wants the same operations, so we look then too.
        if not (self._watches or torch.is_grad_enabled()):
            return
        x = args[0].flatten(0, -2)
        n_wires = max(1, (x.shape[-1] - 1).bit_length())
        x = functional.pad(x[x.abs().amax(-1) > 0].float(), (0, 2**n_wires - x.shape[-1]))
        found = entanglement(functional.normalize(x, dim=-1)).mean() / n_wires
        if self._watches:
            self._seen.append(found)


def _layers(model: nn.Module, adapter_name: str) -> dict[str, nn.Module]:
    names = circuits_of(model, adapter_name)
    if not names:
        raise ValueError(
            f"adapter {adapter_name!r} has no circuit that embeds activations as amplitudes; loadability is for QAA"
        )
    return {name: model.get_submodule(name) for name in names}
