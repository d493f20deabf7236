"""Circuits of layers for any number of wires: what an architecture search chooses, and what a circuit file keeps.

The layers are those of CL-QAS, arXiv 2601.06392, in the revised form of its authors' code: RX, RY and RZ on every wire
and one of four entanglers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ketune.circuits import Circuit, Gate
from ketune.errors import KetuneError

ENTANGLERS = ("ring", "linear", "brick_even", "brick_odd")
"""Entanglers of a layer, by name; see `entangling_pairs`."""

ORDERS = ("rotations_first", "entangler_first")
"""What comes first within a layer. The published circuits of this family use both."""

ROTATIONS = ("RX", "RY", "RZ")
"""The gates that may turn the wires of a layer."""

MOST_LAYERS = 64
"""Deepest architecture."""


class ArchitectureError(KetuneError, ValueError):
    """An architecture that is none."""


def entangling_pairs(n_wires: int, entangler: str) -> tuple[tuple[int, int], ...]:
    """Control and target of the CNOTs of one layer.

    "linear" is (0,1), (1,2), ..., (n-2,n-1); "ring" closes it with (n-1,0), on two wires it is the single pair (0,1);
    "brick_even" is (0,1), (2,3), ...; "brick_odd" is (1,2), (3,4), ..., on an even number of wires also (n-1,0). On
    eight wires these are 7, 8, 4 and 4 gates.

    Raises:
        ArchitectureError: for an unknown entangler.
    """
    chain = [(wire, wire + 1) for wire in range(n_wires - 1)]
    closing = [(n_wires - 1, 0)]
    if entangler == "linear":
        return tuple(chain)
    if entangler == "ring":
        return tuple(chain + closing if n_wires > 2 else chain)
    if entangler == "brick_even":
        return tuple(chain[0::2])
    if entangler == "brick_odd":
        return tuple(chain[1::2] + (closing if n_wires % 2 == 0 else []))
    raise ArchitectureError(f"entangler {entangler!r}: choose one of {', '.join(ENTANGLERS)}")


@dataclass(frozen=True)
class Architecture:
    """A circuit for any number of wires: in each layer rotations on every wire and an entangler of CNOTs.

    Args:
        entanglers: the entangler of each layer, names of `ENTANGLERS`.
        order: "rotations_first" or "entangler_first", within every layer.
        rotations: the gates on every wire, in the order of application; each gate has an angle of its own.

    Raises:
        ArchitectureError: for no layer or more than 64, unknown names, or no rotation.

    Example:
        >>> architecture = Architecture(("ring", "linear"))
        >>> architecture.text, architecture.circuit(8).count_gates()
        ('ring-linear', {'RX': 16, 'RY': 16, 'RZ': 16, 'CNOT': 15})
        >>> Architecture.from_text("ring-linear") == architecture
        True
    """

    entanglers: tuple[str, ...]
    order: str = "rotations_first"
    rotations: tuple[str, ...] = ROTATIONS

    def __post_init__(self) -> None:
        object.__setattr__(self, "entanglers", tuple(self.entanglers))
        object.__setattr__(self, "rotations", tuple(self.rotations))
        if not 1 <= len(self.entanglers) <= MOST_LAYERS:
            raise ArchitectureError(f"Architecture with {len(self.entanglers)} layers: 1 to {MOST_LAYERS} are possible")
        for name in self.entanglers:
            entangling_pairs(2, name)
        check_layer(self.order, self.rotations)

    @property
    def depth(self) -> int:
        """Number of layers."""
        return len(self.entanglers)

    @property
    def text(self) -> str:
        """The architecture in one word, fit for a file's name; `from_text` reads it back.

        The entanglers with dashes between them; then, where they are not the usual ones, the order and the rotations.
        """
        words = ["-".join(self.entanglers)]
        words += [self.order] if self.order != ORDERS[0] else []
        words += ["-".join(self.rotations)] if self.rotations != ROTATIONS else []
        return "+".join(words)

    @classmethod
    def from_text(cls, text: str) -> Architecture:
        """Reads what `text` holds.

        Raises:
            ArchitectureError: for anything else.
        """
        layers, *rest = text.split("+")
        order = rest.pop(0) if rest and rest[0] in ORDERS else ORDERS[0]
        rotations = tuple(rest.pop(0).split("-")) if rest else ROTATIONS
        if rest:
            raise ArchitectureError(
                f"architecture {text!r}: write entanglers with dashes between them, such as ring-linear"
            )
        return cls(tuple(layers.split("-")), order, rotations)

    def to_dict(self) -> dict[str, Any]:
        """The architecture as JSON can hold it."""
        return {"entanglers": list(self.entanglers), "order": self.order, "rotations": list(self.rotations)}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Architecture:
        """Reads what `to_dict` gave.

        Raises:
            ArchitectureError: for anything else.
        """
        try:
            entanglers, order, rotations = fields["entanglers"], fields["order"], fields["rotations"]
            if isinstance(entanglers, str) or isinstance(rotations, str):
                raise TypeError("lists of names are needed")
            return cls(tuple(map(str, entanglers)), str(order), tuple(map(str, rotations)))
        except (KeyError, TypeError) as error:
            raise ArchitectureError(f"{fields!r} is no architecture ({error})") from error

    def n_two_wire_gates(self, n_wires: int) -> int:
        """CNOTs on so many wires."""
        return sum(len(entangling_pairs(n_wires, name)) for name in self.entanglers)

    def circuit(self, n_wires: int) -> Circuit:
        """The circuit on so many wires; its angles are an array (depth, n_wires, number of rotations).

        Raises:
            ValueError: for fewer than one wire.
        """
        gates: list[Gate] = []
        for layer, entangler in enumerate(self.entanglers):
            first = layer * n_wires * len(self.rotations)
            turns = [
                Gate(name, (wire,), first + wire * len(self.rotations) + k)
                for wire in range(n_wires)
                for k, name in enumerate(self.rotations)
            ]
            links = [Gate("CNOT", pair) for pair in entangling_pairs(n_wires, entangler)]
            gates += turns + links if self.order == ORDERS[0] else links + turns
        return Circuit(n_wires, tuple(gates))

    def __str__(self) -> str:
        return self.text


def check_layer(order: str, rotations: tuple[str, ...]) -> None:
    """Refuses an unknown order, and rotations that are none.

    Raises:
        ArchitectureError: with what is allowed.
    """
    if order not in ORDERS:
        raise ArchitectureError(f"order {order!r}: choose one of {', '.join(ORDERS)}")
    if not rotations or not set(rotations) <= set(ROTATIONS):
        raise ArchitectureError(f"rotations {rotations}: at least one of {', '.join(ROTATIONS)}")
