"""`Circuit`: an immutable list of gates on wires. It holds no angles and no tensors."""

import json
from collections import Counter
from dataclasses import dataclass, field

from ketune.circuits._gates import GATES


@dataclass(frozen=True)
class Gate:
    """One gate of a circuit.

    Args:
        name: a gate of the table: RX, RY, RZ, H, X, Y, Z, S, SDG, T, CNOT, CZ, SWAP, CRX, CRY, CRZ.
        wires: the wires it acts on; of two wires the first one controls.
        angle: for a gate with an angle, the index of that angle in the circuit's angle vector (several gates may share
            one); None for a fixed gate.

    Raises:
        ValueError: for an unknown name, a wrong number of wires, a repeated wire, or an angle where none belongs.
    """

    name: str
    wires: tuple[int, ...]
    angle: int | None = None

    def __post_init__(self) -> None:
        if self.name not in GATES:
            raise ValueError(f"Gate(name={self.name!r}): unknown gate; choose one of {', '.join(GATES)}")
        spec = GATES[self.name]
        object.__setattr__(self, "wires", tuple(self.wires))
        if len(self.wires) != spec.n_wires or len(set(self.wires)) != spec.n_wires:
            raise ValueError(f"Gate({self.name!r}, wires={self.wires}): needs {spec.n_wires} distinct wire(s)")
        if min(self.wires) < 0:
            raise ValueError(f"Gate({self.name!r}, wires={self.wires}): wires count from 0")
        if spec.has_angle and (self.angle is None or self.angle < 0):
            raise ValueError(f"Gate({self.name!r}, angle={self.angle}): needs the index (0, 1, ...) of its angle")
        if not spec.has_angle and self.angle is not None:
            raise ValueError(f"Gate({self.name!r}, angle={self.angle}): this gate has no angle; pass angle=None")


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
        rows = [[gate.name, list(gate.wires), gate.angle] for gate in gates]
        object.__setattr__(self, "gates", gates)
        object.__setattr__(self, "n_angles", len(used))
        object.__setattr__(self, "is_real", all(GATES[gate.name].is_real for gate in gates))
        object.__setattr__(self, "text", json.dumps([self.n_wires, rows], separators=(",", ":")))

    @classmethod
    def from_text(cls, text: str) -> "Circuit":
        """Reads what `text` holds: `[n_wires, [[name, wires, angle], ...]]` as JSON."""
        n_wires, rows = json.loads(text)
        return cls(n_wires, tuple(Gate(name, tuple(wires), angle) for name, wires, angle in rows))

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

    def __add__(self, other: "Circuit") -> "Circuit":
        """This circuit followed by `other` on the same wires; the angles of `other` come after ours."""
        if not isinstance(other, Circuit):
            return NotImplemented
        if other.n_wires != self.n_wires:
            raise ValueError(f"cannot append a circuit on {other.n_wires} wires to one on {self.n_wires} wires")
        moved = tuple(
            Gate(gate.name, gate.wires, None if gate.angle is None else gate.angle + self.n_angles)
            for gate in other.gates
        )
        return Circuit(self.n_wires, self.gates + moved)
