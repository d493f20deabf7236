"""What an import gives: a circuit, and how its angles depend on the parameters of the source."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ketune.circuits.circuit import Circuit, Gate


class ImportingError(ValueError):
    """A circuit of another library that has no counterpart here."""


@dataclass(frozen=True, eq=False)
class Imported:
    """A circuit that came from another library.

    The angles of the circuit are linear in the parameters of the source: `angles = matrix @ parameters + offset`. Where
    every gate takes a parameter as it is, the angles are the parameters that the circuit uses, in their order; a gate
    of `2 * theta` has an angle of its own. Angles are ordered by the first parameter they depend on, then by first use.
    Numbers in the source are constants of the circuit (gates "U").

    Attributes:
        circuit: the circuit.
        names: of each angle what it is in terms of the parameters, such as "weights[0,1]" or "2*theta + 0.5".
        parameters: names of the parameters of the source.
        values: (n_parameters,) their values in float64, None when the source has only names for them.
        matrix: (n_angles, n_parameters) float64.
        offset: (n_angles,) float64.
    """

    circuit: Circuit
    names: tuple[str, ...]
    parameters: tuple[str, ...]
    values: Tensor | None
    matrix: Tensor
    offset: Tensor

    @property
    def angles(self) -> Tensor | None:
        """(n_angles,) the angles at the source's values in float64; None when the source has only names."""
        return None if self.values is None else self.angles_from(self.values)

    def angles_from(self, parameters: Tensor) -> Tensor:
        """(..., n_parameters) values of the parameters to (..., n_angles) angles of the circuit, differentiably.

        Raises:
            ValueError: for another number of parameters.
        """
        if parameters.shape[-1:] != (len(self.parameters),):
            given = tuple(parameters.shape)
            raise ValueError(f"parameters have shape {given}; (..., {len(self.parameters)}) is needed")
        return parameters @ self.matrix.to(parameters).T + self.offset.to(parameters)


@dataclass(frozen=True)
class Linear:
    """offset + sum of coefficient * parameter."""

    terms: tuple[tuple[int, float], ...] = ()
    offset: float = 0.0

    @classmethod
    def of(cls, terms: dict[int, float], offset: float = 0.0) -> "Linear":
        return cls(tuple(sorted((index, factor) for index, factor in terms.items() if factor)), offset)

    def __add__(self, other: "Linear") -> "Linear":
        terms = dict(self.terms)
        for index, factor in other.terms:
            terms[index] = terms.get(index, 0.0) + factor
        return Linear.of(terms, self.offset + other.offset)

    def __mul__(self, factor: float) -> "Linear":
        return Linear.of({index: value * factor for index, value in self.terms}, self.offset * factor)

    def is_close_to(self, other: "Linear") -> bool:
        difference = self + other * -1.0
        return abs(difference.offset) < 1e-8 and all(abs(factor) < 1e-8 for _, factor in difference.terms)

    def name(self, parameters: Sequence[str]) -> str:
        text = ""
        for index, factor in self.terms:
            size = "" if abs(factor) == 1 else f"{abs(factor):.6g}*"
            sign = "-" if factor < 0 else "+"
            text += (
                f" {sign} {size}{parameters[index]}"
                if text
                else f"{sign if factor < 0 else ''}{size}{parameters[index]}"
            )
        return text + (f" {'-' if self.offset < 0 else '+'} {abs(self.offset):.6g}" if self.offset else "")


class CircuitBuilder:
    """Collects gates whose angles are linear in named parameters.

    Args:
        parameters: the names.
    """

    def __init__(self, parameters: Sequence[str]) -> None:
        self.parameters = tuple(parameters)
        self._gates: list[Gate] = []
        self._angles: dict[tuple[object, ...], tuple[int, Linear]] = {}
        self._constants: dict[int, float] = {}

    def add(self, name: str, wires: Sequence[int], angle: Linear | None = None, matrix: object = None) -> None:
        """Appends a gate; equal angles are shared."""
        if angle is None:
            self._gates.append(Gate(name, tuple(wires), matrix=matrix))  # type: ignore[arg-type]
            return
        rounded = tuple((index, round(factor, 12)) for index, factor in angle.terms)
        number, _ = self._angles.setdefault((rounded, round(angle.offset, 12)), (len(self._angles), angle))
        self._gates.append(Gate(name, tuple(wires), number))

    def finish(self, n_wires: int, values: Tensor | None) -> Imported:
        """The circuit, with constant angles bound and the others in the order of their parameters."""
        linears = [linear for _, linear in self._angles.values()]
        circuit = Circuit(n_wires, tuple(self._gates))
        circuit = circuit.bind({k: linear.offset for k, linear in enumerate(linears) if not linear.terms})
        linears = [linear for linear in linears if linear.terms]
        order = sorted(range(len(linears)), key=lambda k: linears[k].terms[0][0])  # stable: then by first use
        place = {old: new for new, old in enumerate(order)}
        gates = tuple(
            gate if gate.angle is None else Gate(gate.name, gate.wires, place[gate.angle]) for gate in circuit.gates
        )
        linears = [linears[k] for k in order]
        matrix = torch.zeros(len(linears), len(self.parameters), dtype=torch.float64)
        for row, linear in enumerate(linears):
            for index, factor in linear.terms:
                matrix[row, index] = factor
        return Imported(
            circuit=Circuit(n_wires, gates),
            names=tuple(linear.name(self.parameters) for linear in linears),
            parameters=self.parameters,
            values=values,
            matrix=matrix,
            offset=torch.tensor([linear.offset for linear in linears], dtype=torch.float64),
        )
