"""A circuit by the name of its ansatz, with refusals in one line; for command lines and configuration files."""

import difflib

from ketune.circuits.ansatz import ANSATZE
from ketune.circuits.circuit import Circuit
from ketune.circuits.statevector import MAX_WIRES
from ketune.errors import KetuneError


class CircuitError(KetuneError, ValueError):
    """A circuit that cannot be built as asked."""


def build_circuit(
    ansatz: str,
    n_wires: int | None = None,
    n_layers: int = 1,
    entangler: str = "ring",
    in_features: int | None = None,
) -> Circuit:
    """A circuit by the name of its ansatz.

    Args:
        ansatz: a name in `ANSATZE`.
        n_wires: number of wires.
        n_layers: how often the layer repeats.
        entangler: "ring", "linear", "brick", "all" or "none".
        in_features: instead of `n_wires`: as many wires as hold so many amplitudes.

    Raises:
        CircuitError: for an unknown name, or a number that is out of range.

    Example:
        >>> from ketune.circuits import ry_ring
        >>> build_circuit("ry_ring", in_features=768) == ry_ring(10)
        True
    """
    if ansatz not in ANSATZE:
        near = difflib.get_close_matches(ansatz, ANSATZE, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise CircuitError(f"unknown ansatz {ansatz!r}: choose from {', '.join(ANSATZE)}{hint}")
    if (n_wires is None) == (in_features is None):
        raise CircuitError(f"n_wires={n_wires}, in_features={in_features}: pass one of them")
    if in_features is not None:
        if in_features < 1:
            raise CircuitError(f"in_features={in_features}: must be at least 1")
        n_wires = max(1, (in_features - 1).bit_length())
    assert n_wires is not None
    if not 1 <= n_wires <= MAX_WIRES:
        raise CircuitError(f"n_wires={n_wires}: must be 1 to {MAX_WIRES}")
    try:
        return ANSATZE[ansatz](n_wires, n_layers, entangler)
    except ValueError as error:
        raise CircuitError(str(error)) from error
