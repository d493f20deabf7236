"""H2 and LiH in the STO-3G basis, from Pauli coefficients that come with the package."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from itertools import combinations

import torch

from ketune.circuits import Circuit, Gate, Hamiltonian, strongly_entangling
from ketune.vqc.problems.base import EnergyProblem, Family
from ketune.vqc.problems.exact import ground_energy

MOLECULES = ("h2", "lih-4", "lih-6", "lih-12")
"""Names of the molecules; the number is that of wires, of LiH with all orbitals or an active space."""

MOLECULE_ANSATZE = ("strongly_entangling", "excitations")
"""Names of the circuits of molecules."""


@dataclass(frozen=True)
class Geometry:
    """One bond length of a molecule, everything in Hartree and with the nuclear repulsion.

    Args:
        length: bond length in Angstrom.
        hartree_fock: Hartree-Fock energy with all electrons.
        ground: exact energy of the neutral molecule without net spin, in the orbitals kept.
        coefficients: of the molecule's words, in their order.
    """

    length: float
    hartree_fock: float
    ground: float
    coefficients: tuple[float, ...]


@dataclass(frozen=True)
class Molecule:
    """A molecule as the package ships it, made by `tools/make_molecules.py` with PennyLane's chemistry.

    Jordan-Wigner: wires 0, 2, 4, ... are orbitals with spin up in rising energy, wires 1, 3, 5, ... with spin down.

    Args:
        name: one of `MOLECULES`.
        kept: which orbitals are frozen and which are kept.
        electrons: number of electrons in the orbitals kept; half of them are up.
        words: Pauli words, common to all bond lengths.
        geometries: by rising bond length.
    """

    name: str
    kept: str
    electrons: int
    words: tuple[str, ...]
    geometries: tuple[Geometry, ...]

    @property
    def n_wires(self) -> int:
        return len(self.words[0])

    @property
    def lengths(self) -> tuple[float, ...]:
        """Bond lengths in Angstrom."""
        return tuple(geometry.length for geometry in self.geometries)

    def at(self, length: float) -> Geometry:
        """The geometry of a bond length in Angstrom.

        Raises:
            ValueError: for a length that the package does not have.
        """
        for geometry in self.geometries:
            if abs(geometry.length - length) < 1e-9:
                return geometry
        known = ", ".join(f"{known:g}" for known in self.lengths)
        raise ValueError(f"{self.name}: no coefficients at length={length} Angstrom; choose one of {known}")

    def hamiltonian(self, length: float) -> Hamiltonian:
        """The Hamiltonian at a bond length; errors as `at`."""
        return Hamiltonian(self.at(length).coefficients, self.words)


@lru_cache(maxsize=8)
def molecule(name: str) -> Molecule:
    """Reads a molecule of the package.

    Raises:
        ValueError: for an unknown name.

    Example:
        >>> molecule("h2").n_wires, len(molecule("h2").words)
        (4, 15)
    """
    if name not in MOLECULES:
        raise ValueError(f"molecule={name!r}; choose one of {', '.join(map(repr, MOLECULES))}")
    stored = _file()["molecules"][name]
    geometries = tuple(
        Geometry(entry["length"], entry["hartree_fock"], entry["ground"], tuple(entry["coefficients"]))
        for entry in sorted(stored["geometries"], key=lambda entry: entry["length"])
    )
    return Molecule(name, stored["kept"], stored["electrons"], tuple(stored["words"]), geometries)


@lru_cache(maxsize=1)
def _file() -> dict:
    return json.loads((files("ketune.vqc.problems") / "data" / "molecules.json").read_text())


def excitations_circuit(n_wires: int, electrons: int, n_layers: int = 1) -> Circuit:
    """The Hartree-Fock state, then all double and single excitations from it that keep the spin, as Givens rotations.

    J. M. Arrazola et al., "Universal quantum circuits for quantum chemistry", Quantum 6, 742 (2022), without the
    fermions' strings. Doubles come first, because alone they already give much of the correlation, and singles do not
    at the Hartree-Fock state (Brillouin). Particle number and spin are kept at all angles.

    One angle for each excitation and layer. That of a single excitation is phi of `qml.SingleExcitation(phi)`, that of
    a double one an eighth of phi of `qml.DoubleExcitation(phi)`, since eight RY share it: its slopes are 8 times as
    steep.

    Args:
        n_wires: number of spin orbitals, up and down in turn.
        electrons: number of electrons, even; they begin on the first wires.
        n_layers: how often the excitations repeat.

    Raises:
        ValueError: for odd numbers, no electrons or no room, or fewer than one layer.
    """
    if n_wires % 2 or electrons % 2 or not 0 < electrons < n_wires or n_layers < 1:
        raise ValueError(
            f"excitations: n_wires={n_wires}, electrons={electrons}, n_layers={n_layers}; take even numbers, fewer "
            f"electrons than wires, and at least 1 layer"
        )
    filled, empty = range(electrons), range(electrons, n_wires)
    gates = [Gate("X", (wire,)) for wire in filled]
    n_angles = 0
    for _ in range(n_layers):
        for i, j in combinations(filled, 2):
            for a, b in combinations(empty, 2):
                if sorted((i % 2, j % 2)) == sorted((a % 2, b % 2)):
                    gates += _double(i, j, a, b, n_angles)
                    n_angles += 1
        for i in filled:
            for a in empty:
                if i % 2 == a % 2:
                    gates += [Gate("CNOT", (a, i)), Gate("CRY", (i, a), n_angles), Gate("CNOT", (a, i))]
                    n_angles += 1
    return Circuit(n_wires, tuple(gates))


def _double(i: int, j: int, a: int, b: int, angle: int) -> list[Gate]:
    """A rotation of |1100> and |0011> on four wires, all other states untouched.

    CNOTs make both states differ in wire i alone, with the other wires at 0 (after an X): a rotation with three
    controls, which is a product of eight, `exp(-i t Y Z.. / 2)` for each subset of the controls. CZs in the order of a
    Gray code turn one into the next.
    """
    gates = [Gate("CNOT", (i, j)), Gate("CNOT", (a, b)), Gate("CNOT", (i, a)), Gate("X", (a,))]
    back = gates[::-1]
    for control in (j, b, j, a, j, b, j, a):
        gates += [Gate("RY", (i,), angle), Gate("CZ", (i, control))]
    return gates + back


def molecule_problem(name: str, length: float, ansatz: str = "strongly_entangling", n_layers: int = 7) -> EnergyProblem:
    """A molecule at a bond length.

    Args:
        name: one of `MOLECULES`.
        length: bond length in Angstrom, one of `molecule(name).lengths`.
        ansatz: "strongly_entangling" (as Q-MAML, which takes 7 layers for H2), or "excitations"
            (`excitations_circuit`), for which 1 or 2 layers do.
        n_layers: layers of the circuit.

    Returns:
        the problem. Its ground energy is that of the neutral molecule for "excitations", and the lowest of all
        particle numbers for "strongly_entangling", which keeps none; its descriptor are the coefficients in Hartree.

    Raises:
        ValueError: for an unknown molecule, ansatz or length.
    """
    if ansatz not in MOLECULE_ANSATZE:
        raise ValueError(f"{name}: ansatz={ansatz!r}; choose one of {', '.join(map(repr, MOLECULE_ANSATZE))}")
    return _problem(name, length, ansatz, _circuit(name, ansatz, n_layers))


@lru_cache(maxsize=64)
def _circuit(name: str, ansatz: str, n_layers: int) -> Circuit:
    chosen = molecule(name)
    if ansatz == "excitations":
        return excitations_circuit(chosen.n_wires, chosen.electrons, n_layers)
    return strongly_entangling(chosen.n_wires, n_layers)


def _problem(name: str, length: float, ansatz: str, circuit: Circuit) -> EnergyProblem:
    chosen = molecule(name)
    geometry = chosen.at(length)
    energy = geometry.ground if ansatz == "excitations" else _lowest(name, geometry.length)
    return EnergyProblem(
        f"{name}-{geometry.length:g}", circuit, chosen.hamiltonian(length), energy, geometry.coefficients
    )


@lru_cache(maxsize=256)
def _lowest(name: str, length: float) -> float:
    return ground_energy(molecule(name).hamiltonian(length))


def h2_problem(length: float = 0.7414, ansatz: str = "strongly_entangling", n_layers: int = 7) -> EnergyProblem:
    """The hydrogen molecule on 4 wires, in the STO-3G basis.

    Args:
        length: bond length in Angstrom, 0.4 to 2.4 in 20 steps; 0.7414 is the molecule at rest.
        ansatz: "strongly_entangling" (as Q-MAML) or "excitations" (Hartree-Fock and Givens rotations).
        n_layers: layers of the circuit; 1 is exact for "excitations".

    Raises:
        ValueError: for an unknown ansatz, or a length that the package does not have.

    Example:
        >>> round(h2_problem().ground_energy, 4)
        -1.1373
    """
    return molecule_problem("h2", length, ansatz, n_layers)


def lih_problem(
    length: float = 1.5949, n_wires: int = 4, ansatz: str = "strongly_entangling", n_layers: int = 7
) -> EnergyProblem:
    """Lithium hydride in the STO-3G basis: all 12 spin orbitals, or an active space.

    Args:
        length: bond length in Angstrom, 0.9 to 3 (with 12 wires 1.2 to 2.2); 1.5949 is the molecule at rest.
        n_wires: 4 (orbitals 1 and 2), 6 (the sigma orbitals 1, 2 and 5) or 12 (all); the first two freeze orbital 0.
        ansatz: "strongly_entangling" or "excitations" (Hartree-Fock and Givens rotations).
        n_layers: layers of the circuit; 1 or 2 do for "excitations".

    Raises:
        ValueError: for an unknown ansatz, or a length or number of wires that the package does not have.

    Example:
        >>> round(lih_problem(1.5949, 4).ground_energy, 4)
        -7.8621
    """
    if f"lih-{n_wires}" not in MOLECULES:
        raise ValueError(f"lih: n_wires={n_wires}; choose 4, 6 or 12")
    return molecule_problem(f"lih-{n_wires}", length, ansatz, n_layers)


def split_lengths(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The bond lengths that a start may learn from, and those held out: every third, never an end.

    Example:
        >>> learn, held_out = split_lengths("h2")
        >>> len(learn), held_out
        (14, (0.6, 0.8, 1.1, 1.4, 1.7, 2.0))
    """
    lengths = molecule(name).lengths
    held_out = lengths[2:-1:3]
    return tuple(length for length in lengths if length not in held_out), held_out


def molecule_family(
    name: str = "h2",
    ansatz: str = "strongly_entangling",
    n_layers: int = 7,
    held_out: bool = False,
    lengths: Sequence[float] | None = None,
) -> Family:
    """A molecule at bond lengths drawn at random.

    Args:
        name: one of `MOLECULES`.
        ansatz: as `molecule_problem`.
        n_layers: layers of the circuit.
        held_out: draw from the lengths held out instead of those to learn from, see `split_lengths`.
        lengths: draw from these lengths in Angstrom instead.

    Raises:
        ValueError: as `molecule_problem`.

    Example:
        >>> draw = molecule_family("h2", held_out=True)
        >>> draw(torch.Generator().manual_seed(0)).name in {f"h2-{length:g}" for length in split_lengths("h2")[1]}
        True
    """
    chosen = split_lengths(name)[int(held_out)] if lengths is None else tuple(lengths)
    if not chosen:
        raise ValueError(f"{name}: lengths={lengths}; give at least one bond length")
    problems = [molecule_problem(name, length, ansatz, n_layers) for length in chosen]

    def draw(generator: torch.Generator | None = None) -> EnergyProblem:
        return problems[int(torch.randint(len(problems), (), generator=generator))]

    return draw
