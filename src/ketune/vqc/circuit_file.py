"""Circuits in files: one JSON that holds a circuit and, where it has one, the architecture it was made from.

A search writes such a file, and a circuit adapter reads it. The architecture is what lets a circuit that was found on
eight wires run on ten. OpenQASM programs are read too, for the width they have.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ketune.circuits import Circuit, from_openqasm3
from ketune.errors import KetuneError
from ketune.files import read_bounded, write_atomically
from ketune.vqc.architecture import Architecture

_MARK, _VERSION = "ketune_circuit", 1
_LARGEST, _MOST_WIRES, _MOST_GATES = 4_000_000, 64, 100_000


class CircuitFileError(KetuneError, ValueError):
    """A file that holds no circuit, or a circuit that does not fit."""


@dataclass(frozen=True)
class CircuitFile:
    """A circuit as it lies in a file.

    Args:
        circuit: the circuit.
        architecture: what it was made from; None for a circuit of its own.
        about: where it came from, anything that JSON can hold.

    Raises:
        CircuitFileError: when the circuit is not the architecture's, or the description is no JSON.

    Example:
        >>> file = CircuitFile(Architecture(("ring",)).circuit(8), Architecture(("ring",)))
        >>> CircuitFile.from_text(file.text).circuit_for(10).n_wires
        10
    """

    circuit: Circuit
    architecture: Architecture | None = None
    about: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if self.architecture is not None and self.architecture.circuit(self.circuit.n_wires) != self.circuit:
            raise CircuitFileError(
                f"this circuit on {self.circuit.n_wires} wires is not that of the architecture {self.architecture}; "
                f"pass architecture=None to keep it as it is"
            )
        try:
            json.dumps(self.about)
        except (TypeError, ValueError) as error:
            raise CircuitFileError(f"about={self.about!r}: JSON cannot hold it ({error})") from error

    @property
    def n_wires(self) -> int:
        return self.circuit.n_wires

    @property
    def text(self) -> str:
        """One line of JSON; `from_text` reads it back."""
        architecture = None if self.architecture is None else self.architecture.to_dict()
        return json.dumps(
            {
                _MARK: _VERSION,
                "architecture": architecture,
                "n_wires": self.n_wires,
                "circuit": json.loads(self.circuit.text),
                "about": dict(self.about),
            }
        )

    @classmethod
    def from_text(cls, text: str) -> CircuitFile:
        """Reads what `text` holds, or an OpenQASM 3 or 2 program.

        Angles of a program that it gives numbers for are constants of the circuit, its inputs are angles.

        Raises:
            CircuitFileError: for anything else, a damaged file, or one that is too large.
        """
        if len(text) > _LARGEST:
            raise CircuitFileError(f"a circuit of {len(text):,} characters: at most {_LARGEST:,} are read")
        if not text.lstrip().startswith(("{", "[")):
            return _from_program(text)
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise CircuitFileError(f"no circuit file: this is damaged JSON ({error})") from error
        if not isinstance(fields, dict) or _MARK not in fields:
            raise CircuitFileError(f'no circuit file: the key "{_MARK}" is missing; save_circuit writes one')
        if fields[_MARK] != _VERSION:
            raise CircuitFileError(f"a circuit file of version {fields[_MARK]!r}; this Ketune reads {_VERSION}")
        return _from_fields(fields)

    def circuit_for(self, n_wires: int) -> Circuit:
        """The circuit on so many wires: the stored one, or another width of its architecture.

        Raises:
            CircuitFileError: for another width of a circuit without architecture.
        """
        if n_wires == self.n_wires:
            return self.circuit
        if self.architecture is None:
            raise CircuitFileError(
                f"this circuit has {self.n_wires} wires and {n_wires} are needed; only a circuit with an architecture, "
                f"as `ketune search` writes it, has other widths too"
            )
        if not 1 <= n_wires <= _MOST_WIRES:
            raise CircuitFileError(f"a circuit on {n_wires} wires: 1 to {_MOST_WIRES} are possible")
        return self.architecture.circuit(n_wires)


def save_circuit(
    path: str | Path,
    circuit: Circuit,
    architecture: Architecture | None = None,
    about: Mapping[str, Any] | None = None,
) -> CircuitFile:
    """Writes a circuit file, beside its place first and then renamed.

    Args:
        path: where; folders are made.
        circuit: the circuit.
        architecture: what it was made from, so that the file serves other widths too.
        about: where it came from, as JSON can hold it.

    Raises:
        CircuitFileError: when the file cannot be written, or the parts do not fit together.
    """
    file = CircuitFile(circuit, architecture, about or {})
    try:
        write_atomically(Path(path), file.text + "\n")
    except OSError as error:
        raise CircuitFileError(f"{path}: cannot be written ({error.strerror})") from error
    return file


def load_circuit_file(path: str | Path) -> CircuitFile:
    """Reads a circuit file, or an OpenQASM program.

    Raises:
        CircuitFileError: when there is no such file, it is damaged, too large, or holds something else.
    """
    try:
        return CircuitFile.from_text(read_bounded(Path(path), _LARGEST))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise CircuitFileError(f"{path}: cannot be read ({reason})") from error
    except ValueError as error:  # CircuitFileError too, so that each names the file
        raise CircuitFileError(f"{path}: {error}") from error


def _from_fields(fields: dict[str, Any]) -> CircuitFile:
    try:
        n_wires, gates = fields["circuit"]
        if not (isinstance(n_wires, int) and 1 <= n_wires <= _MOST_WIRES and len(gates) <= _MOST_GATES):
            raise ValueError(f"1 to {_MOST_WIRES} wires and at most {_MOST_GATES:,} gates are read")
        if fields["n_wires"] != n_wires:
            raise ValueError(f"n_wires says {fields['n_wires']!r} and the circuit {n_wires}")
        circuit = Circuit.from_text(json.dumps(fields["circuit"]))
        architecture = fields.get("architecture")
        about = fields.get("about", {})
        if not isinstance(about, dict) or not (architecture is None or isinstance(architecture, dict)):
            raise TypeError("architecture and about must be objects")
        return CircuitFile(circuit, None if architecture is None else Architecture.from_dict(architecture), about)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise CircuitFileError(f"a damaged circuit file ({error}); write it anew with save_circuit") from error


def _from_program(text: str) -> CircuitFile:
    try:
        imported = from_openqasm3(text)
    except ValueError as error:
        raise CircuitFileError(f"neither a circuit file nor an OpenQASM program ({error})") from error
    # A gate that takes 2*t has an angle of its own here; trained from a random start that is the same circuit.
    return CircuitFile(imported.circuit, None, {"angles": list(imported.names)})
