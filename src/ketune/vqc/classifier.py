"""`CircuitClassifier`: encoder, circuit, head. TTN-VQC, pre-trained networks + VQC and TensorHyper-VQC are such."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ketune.circuits import Circuit
from ketune.vqc.angle_maps import ANGLE_MAPS
from ketune.vqc.blocks import CircuitBlock, make_block

HEADS = ("linear", "temperature")
"""Kinds of heads of `CircuitClassifier`."""


@dataclass(frozen=True)
class ParameterCounts:
    """Trainable parameters of a classifier by what they belong to.

    Args:
        quantum: angles of gates that are trained themselves.
        hypernet: weights that emit angles.
        encoder: weights in front of the block.
        stand_in: weights of the classical block in a circuit's place.
        head: weights behind it.
    """

    quantum: int
    hypernet: int
    encoder: int
    stand_in: int
    head: int

    @property
    def classical(self) -> int:
        """All that are no angles."""
        return self.hypernet + self.encoder + self.stand_in + self.head

    @property
    def total(self) -> int:
        """All that are trained."""
        return self.quantum + self.classical


class Temperature(nn.Module):
    """The first `n_classes` readouts times a trained positive factor, which starts at 1.

    Without it, readouts in [-1, 1] as logits keep the cross-entropy of two classes above ln(1 + e^-2) = 0.127.

    Args:
        n_readouts: number of readouts.
        n_classes: number of classes, at most that.

    Raises:
        ValueError: for more classes than readouts.
    """

    def __init__(self, n_readouts: int, n_classes: int) -> None:
        super().__init__()
        if n_classes > n_readouts:
            raise ValueError(
                f"head='temperature' with {n_classes} classes: there are only {n_readouts} readouts; use head='linear'"
            )
        self.n_classes = n_classes
        self.log_factor = nn.Parameter(torch.zeros(()))

    def forward(self, z: Tensor) -> Tensor:
        """(..., n_readouts) to (..., n_classes)."""
        return self.log_factor.exp() * z[..., : self.n_classes]


class CircuitClassifier(nn.Module):
    """An encoder, a circuit and a head: `logits = head(<Z>(circuit, angle_map(encoder(x))))`.

    TTN-VQC (J. Qi et al., "Theoretical error performance analysis for variational quantum circuit based functional
    regression", npj Quantum Inf. 9, 4, 2023, arXiv 2206.04804) has a `TTReducer` for an encoder; a pre-trained network
    + VQC (arXiv 2411.08552) a frozen network and a linear layer; TensorHyper-VQC (arXiv 2508.01116) a `hypernet` for
    the circuit's angles. Replace the circuit by `block=` before you believe in it.

    The last RZ on each wire of an RX, RY, RZ layer never reaches a readout of Z: those angles have no gradient. They
    are counted all the same, because the published counts do.

    Args:
        encoder: any module from rows of features (..., n_features) to one number per wire (..., n_wires), or to
            amplitudes.
        circuit: such as `rxryrz_ring(8, 2)` (rotations, then CNOTs) or `ring_rxryrz(8, 2)` (CNOTs first); any number of
            wires.
        n_classes: number of classes.
        encoding: "angle" (RY on each wire) or "amplitude".
        angle_map: one of `ANGLE_MAPS`; not used for amplitudes.
        block: "circuit", "linear", "frozen" or "none", see `make_block`. It gets the angles, for which the circuit has
            its place, or the amplitudes.
        head: "linear", or "temperature" (one factor, see `Temperature`).
        hypernet: emits the circuit's angles; called with `x=` the rows where it has `wants_rows`, see `AngleHypernet`.
        n_features: length of what the encoder gives, for amplitudes that are fewer than `2 ** n_wires`.
        start: one of `STARTS`, for angles that are trained themselves.
        seed: of angles and head, whatever the global seed. The encoder comes with its weights.

    Attributes:
        rates: factors on the learning rate by the start of a parameter's name, for `train_classifier`.

    Raises:
        ValueError: for an unknown encoding, map, block, head or start, or a hypernetwork without a circuit.

    Example:
        >>> from ketune.circuits import rxryrz_ring
        >>> from ketune.vqc.reducers import TTReducer
        >>> model = CircuitClassifier(TTReducer(64, 6), rxryrz_ring(6, 2), n_classes=3)
        >>> model(torch.randn(5, 64)).shape, model.count_parameters().quantum
        (torch.Size([5, 3]), 36)
    """

    def __init__(
        self,
        encoder: nn.Module,
        circuit: Circuit,
        n_classes: int,
        *,
        encoding: str = "angle",
        angle_map: str = "pi_tanh",
        block: str = "circuit",
        head: str = "linear",
        hypernet: nn.Module | None = None,
        n_features: int | None = None,
        start: str = "uniform",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if angle_map not in ANGLE_MAPS:
            raise ValueError(f"angle_map={angle_map!r}: unknown map; choose one of {', '.join(map(repr, ANGLE_MAPS))}")
        if head not in HEADS:
            raise ValueError(f"head={head!r}: unknown head; choose one of {', '.join(map(repr, HEADS))}")
        if hypernet is not None and block != "circuit":
            raise ValueError(f"block={block!r} with a hypernet: only block='circuit' has angles to emit")
        self._settings: dict[str, Any] = {
            "encoding": encoding, "angle_map": angle_map, "block": block, "head": head, "n_features": n_features,
            "start": start,
        }  # fmt: skip
        self.circuit, self.n_classes, self.encoding, self.angle_map = circuit, n_classes, encoding, angle_map
        self.rates: dict[str, float] = {}
        self.encoder = encoder
        self.hypernet = hypernet
        generator = torch.Generator().manual_seed(seed)
        chosen = start if hypernet is None else None
        self.block = make_block(block, circuit, encoding, n_features=n_features, start=chosen, generator=generator)
        if head == "linear":
            self.head = nn.Linear(self.block.n_outputs, n_classes)
            bound = self.block.n_outputs**-0.5
            for parameter in self.head.parameters():  # torch's own start, from our generator
                nn.init.uniform_(parameter, -bound, bound, generator=generator)
        else:
            self.head = Temperature(self.block.n_outputs, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(..., n_features) to logits (..., n_classes)."""
        return self.classify(self.encoder(x), x)

    def classify(self, h: Tensor, x: Tensor | None = None) -> Tensor:
        """What the encoder gave, and the rows it came from where the hypernetwork wants them, to logits."""
        return self.head(self.readouts(h, x))

    def readouts(self, h: Tensor, x: Tensor | None = None) -> Tensor:
        """What the encoder gave to what the head gets."""
        features = ANGLE_MAPS[self.angle_map](h) if self.encoding == "angle" else h
        return self.block(features, None if self.hypernet is None else self._emitted(x))

    def _emitted(self, x: Tensor | None) -> Tensor:
        assert self.hypernet is not None
        return self.hypernet(x=x) if getattr(self.hypernet, "wants_rows", False) else self.hypernet(0)

    def fresh(self, n_classes: int | None = None, *, seed: int = 0) -> CircuitClassifier:
        """A classifier of the same making around the same encoder, with circuit and head started anew.

        Args:
            n_classes: number of classes; as many as before when None.
            seed: of angles and head.

        Raises:
            ValueError: for a classifier with a hypernetwork, which has no second start.
        """
        if self.hypernet is not None:
            raise ValueError("fresh: this classifier's angles come from a hypernet; make a new one with a new hypernet")
        return CircuitClassifier(self.encoder, self.circuit, n_classes or self.n_classes, seed=seed, **self._settings)

    def count_parameters(self) -> ParameterCounts:
        """Trainable parameters, quantum and classical apart."""
        block = _count(self.block)
        is_circuit = isinstance(self.block, CircuitBlock)
        return ParameterCounts(
            quantum=block if is_circuit else 0,
            hypernet=_count(self.hypernet),
            encoder=_count(self.encoder),
            stand_in=0 if is_circuit else block,
            head=_count(self.head),
        )


def _count(module: nn.Module | None) -> int:
    return 0 if module is None else sum(p.numel() for p in module.parameters() if p.requires_grad)
