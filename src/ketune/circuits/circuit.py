"""`Circuit`: an immutable list of gates on wires. It holds no angles and no tensors."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ketune.circuits._decompose import nearest_unitary, rows_of
from ketune.circuits._gates import GATES, elementary_steps, is_real_matrix


@dataclass(frozen=True)
class Gate:
    """One gate of a circuit.

    Args:
        name: a gate without an angle (H, X, Y, Z, S, SDG, T, TDG, SX, CNOT, CY, CZ, CH, SWAP, ISWAP), one with an angle
            t (RX, RY, RZ, PHASE, GPHASE, CRX, CRY, CRZ, CPHASE, ISINGXX, ISINGYY, ISINGZZ, ISINGXY), or U, an arbitrary
            unitary constant on one or two wires. `RX(t) = exp(-i t X / 2)`, `PHASE(t) = diag(1, exp(i t))`,
            `ISINGXX(t) = exp(-i t XX / 2)`, `ISINGXY(t) = exp(i t (XX + YY) / 4)`; `GPHASE(t)` multiplies the whole
            state by exp(i t / 2).
        wires: the wires it acts on; of two wires the first one controls.
        angle: for a gate with an angle, the index of that angle in the circuit's angle vector (several gates may share
            one); None for a fixed gate.
        matrix: for "U" a unitary matrix as rows of complex numbers, 2 x 2 for one wire and 4 x 4 for two, of which the
            first is the more significant; None for all other gates. One that is unitary only to 1e-6, such as one
            computed in float32, is replaced by the nearest unitary.

    Attributes:
        is_real: True when the gate's matrix is real, whatever the angle.

    Raises:
        ValueError: for an unknown name, a wrong number of wires, a repeated wire, an angle or a matrix where none
            belongs, or a matrix that is not unitary.

    Example:
        >>> Gate("U", (0,), matrix=[[0, 1j], [1j, 0]]).matrix
        ((0j, 1j), (1j, 0j))
    """

    name: str
    wires: tuple[int, ...]
    angle: int | None = None
    matrix: tuple[tuple[complex, ...], ...] | None = None
    is_real: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "wires", tuple(self.wires))
        if self.name == "U":
            self._check_wires(len(self.wires) if len(self.wires) in (1, 2) else 1)
            if self.angle is not None:
                raise ValueError(f"Gate('U', angle={self.angle}): this gate has no angle; pass angle=None")
            object.__setattr__(self, "matrix", self._checked_matrix())
            object.__setattr__(self, "is_real", is_real_matrix(self.matrix or ()))
            return
        if self.name not in GATES:
            raise ValueError(f"Gate(name={self.name!r}): unknown gate; choose one of {', '.join(GATES)}, U")
        if self.matrix is not None:
            raise ValueError(f"Gate({self.name!r}, matrix=...): only gate 'U' takes a matrix")
        spec = GATES[self.name]
        self._check_wires(spec.n_wires)
        object.__setattr__(self, "is_real", spec.is_real)
        if spec.has_angle and (self.angle is None or self.angle < 0):
            raise ValueError(f"Gate({self.name!r}, angle={self.angle}): needs the index (0, 1, ...) of its angle")
        if not spec.has_angle and self.angle is not None:
            raise ValueError(f"Gate({self.name!r}, angle={self.angle}): this gate has no angle; pass angle=None")

    def _check_wires(self, n_wires: int) -> None:
        if len(self.wires) != n_wires or len(set(self.wires)) != n_wires:
            raise ValueError(f"Gate({self.name!r}, wires={self.wires}): needs {n_wires} distinct wire(s)")
        if min(self.wires) < 0:
            raise ValueError(f"Gate({self.name!r}, wires={self.wires}): wires count from 0")

    def _checked_matrix(self) -> tuple[tuple[complex, ...], ...]:
        size = 2 ** len(self.wires)
        given = f"Gate('U', wires={self.wires})"
        try:
            matrix = np.array(self.matrix, dtype=complex)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{given}: matrix must be {size} rows of {size} numbers") from error
        if matrix.shape != (size, size):
            raise ValueError(f"{given}: matrix has shape {matrix.shape}; {size} rows of {size} numbers are needed")
        error = abs(matrix.conj().T @ matrix - np.eye(size)).max()
        if not error < 1e-6:
            raise ValueError(
                f"{given}: the matrix is not unitary; matrix^dagger matrix is {error:.1e} from the identity"
            )
        return rows_of(matrix if error < 1e-12 else nearest_unitary(matrix))


@dataclass(frozen=True)
class Circuit:
    """An immutable quantum circuit: gates on `n_wires` wires, with angles named by their index.

    Wire 0 is the most significant bit of a basis index (PennyLane's order). Two circuits with the same wires and gates
    are equal and hash alike, so a circuit can be a dictionary key.

    Args:
        n_wires: number of wires, at least 1.
        gates: the gates in the order of application. Angle indices count from 0 without gaps.

    Attributes:
        n_angles: length of the angle vector the circuit takes.
        is_real: True when every gate is a real matrix, so that real states stay real.
        text: the circuit as one line of JSON; `Circuit.from_text` reads it back.

    Raises:
        ValueError: for a wire outside 0..n_wires-1 or a gap in the angle indices.

    Example:
        >>> circuit = Circuit(2, (Gate("RY", (0,), 0), Gate("CNOT", (0, 1))))
        >>> circuit.n_angles, circuit.depth(), circuit.is_real
        (1, 2, True)
    """

    n_wires: int
    gates: tuple[Gate, ...]
    n_angles: int = field(init=False, repr=False, compare=False)
    is_real: bool = field(init=False, repr=False, compare=False)
    text: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # The derived values are plain attributes, not properties, so that torch.compile reads them as constants.
        gates = tuple(self.gates)
        if self.n_wires < 1:
            raise ValueError(f"Circuit(n_wires={self.n_wires}): a circuit needs at least 1 wire")
        for gate in gates:
            if max(gate.wires) >= self.n_wires:
                raise ValueError(f"Circuit(n_wires={self.n_wires}): {gate} is outside wires 0..{self.n_wires - 1}")
        used = {gate.angle for gate in gates if gate.angle is not None}
        if used != set(range(len(used))):
            missing = min(set(range(len(used))) - used)
            raise ValueError(f"Circuit: no gate uses angle {missing}, but later angles are used; number them 0, 1, ...")
        object.__setattr__(self, "gates", gates)
        object.__setattr__(self, "n_angles", len(used))
        object.__setattr__(self, "is_real", all(gate.is_real for gate in gates))
        rows = [_row(gate) for gate in gates]
        object.__setattr__(self, "text", json.dumps([self.n_wires, rows], separators=(",", ":")))

    @classmethod
    def from_text(cls, text: str) -> "Circuit":
        """Reads what `text` holds: `[n_wires, [[name, wires, angle], ...]]` as JSON.

        The row of a gate "U" has a fourth entry, its matrix row by row as pairs `[real, imaginary]`.
        """
        n_wires, rows = json.loads(text)
        return cls(
            n_wires, tuple(Gate(name, tuple(wires), angle, _square(*rest)) for name, wires, angle, *rest in rows)
        )

    def depth(self) -> int:
        """Number of time steps when every gate starts as early as its wires allow."""
        busy = [0] * self.n_wires
        for gate in self.gates:
            step = 1 + max(busy[wire] for wire in gate.wires)
            for wire in gate.wires:
                busy[wire] = step
        return max(busy)

    def count_gates(self) -> dict[str, int]:
        """Number of gates by name, in the order of first use."""
        return dict(Counter(gate.name for gate in self.gates))

    @property
    def n_two_wire_gates(self) -> int:
        """Number of gates on two wires."""
        return sum(len(gate.wires) == 2 for gate in self.gates)

    def bind(self, values: Mapping[int, float]) -> "Circuit":
        """This circuit with some of its angles fixed at values; the other angles keep their order and count anew.

        A gate with a fixed angle becomes gates without one: "U" and, of gates on two wires, CNOT, CZ and SWAP.

        Args:
            values: value in radians by index of the angle.

        Raises:
            ValueError: for an index that the circuit does not have.

        Example:
            >>> circuit = Circuit(1, (Gate("RX", (0,), 0), Gate("RY", (0,), 1)))
            >>> [gate.name for gate in circuit.bind({0: 0.5}).gates], circuit.bind({0: 0.5}).n_angles
            (['U', 'RY'], 1)
        """
        if unknown := sorted(set(values) - set(range(self.n_angles))):
            raise ValueError(f"bind({{{unknown[0]}: ...}}): this circuit has angles 0 to {self.n_angles - 1}")
        index = {old: new for new, old in enumerate(k for k in range(self.n_angles) if k not in values)}
        gates: list[Gate] = []
        for gate in self.gates:
            if gate.angle is None:
                gates.append(gate)
            elif gate.angle in values:
                gates += _fixed_gates(gate, values[gate.angle])
            else:
                gates.append(replace(gate, angle=index[gate.angle]))
        return Circuit(self.n_wires, tuple(gates))

    def __add__(self, other: "Circuit") -> "Circuit":
        """This circuit followed by `other` on the same wires; the angles of `other` come after ours."""
        if not isinstance(other, Circuit):
            return NotImplemented
        if other.n_wires != self.n_wires:
            raise ValueError(f"cannot append a circuit on {other.n_wires} wires to one on {self.n_wires} wires")
        moved = tuple(
            gate if gate.angle is None else replace(gate, angle=gate.angle + self.n_angles) for gate in other.gates
        )
        return Circuit(self.n_wires, self.gates + moved)


def _fixed_gates(gate: Gate, value: float) -> list[Gate]:
    """A gate with an angle as gates without one."""
    gates: list[Gate] = []
    total = np.eye(2, dtype=complex)
    for step in elementary_steps(gate):
        if step.permutes:
            gates.append(Gate(step.name, step.wires))
            continue
        if step.angle is None:
            matrix = np.array(step.constant)
        else:
            spec, half = GATES[step.name], value * step.factor / 2
            matrix = math.cos(half) * np.array(spec.cosine) + math.sin(half) * np.array(spec.sine)
        if len(gate.wires) == 1:
            total = matrix @ total
        else:
            gates.append(Gate("U", step.wires, matrix=rows_of(matrix)))
    return gates or [Gate("U", gate.wires, matrix=rows_of(total))]


def _row(gate: Gate) -> list[object]:
    row: list[object] = [gate.name, list(gate.wires), gate.angle]
    if gate.matrix is not None:
        row.append([[entry.real, entry.imag] for line in gate.matrix for entry in line])
    return row


def _square(entries: Sequence[Sequence[float]] | None = None) -> tuple[tuple[complex, ...], ...] | None:
    if entries is None:
        return None
    size = 2 if len(entries) == 4 else 4
    numbers = [complex(*entry) for entry in entries]
    return tuple(tuple(numbers[start : start + size]) for start in range(0, len(numbers), size))
