"""Spin chains: the Heisenberg XYZ chain and the Ising chain in a transverse field."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import torch

from ketune.circuits import Circuit, Gate, heisenberg, rxryrz_ring, transverse_ising
from ketune.vqc.problems.base import EnergyProblem, Family
from ketune.vqc.problems.exact import ground_energy

ISING_ANSATZE = ("hamiltonian", "hardware_efficient")
"""Names of the circuits of `transverse_ising_problem`."""

COUPLING_GRID = tuple(k / 10 for k in range(-30, 31))
"""Couplings that `heisenberg_family` draws from: -3, -2.9, ..., 3."""


def brick_bonds(wires: Sequence[int]) -> list[tuple[int, int]]:
    """Neighbours of an open chain, first the pairs 0-1, 2-3, ..., then 1-2, 3-4, ...

    Example:
        >>> brick_bonds(range(4))
        [(0, 1), (2, 3), (1, 2)]
    """
    chain = list(pairwise(wires))
    return chain[0::2] + chain[1::2]


def heisenberg_circuit(n_wires: int, n_layers: int) -> Circuit:
    """RZ and RY on every wire, then ISINGXX, ISINGYY and ISINGZZ on neighbours in two steps as bricks; repeated.

    Lee, Cho and Kim (arXiv 2501.05906) use blocks of these two-wire gates; their exact wiring was not readable to us.
    The rotations in front are ours: from |0...0> the blocks alone keep the parities of the chain and reach other ground
    states only. `n_layers * (2 n_wires + 3 (n_wires - 1))` angles, in the order of the gates.

    Raises:
        ValueError: for fewer than two wires or one layer.
    """
    _check_size(n_wires, n_layers, "heisenberg")
    gates: list[Gate] = []
    for _ in range(n_layers):
        for wire in range(n_wires):
            gates += [Gate(name, (wire,), len(gates) + k) for k, name in enumerate(("RZ", "RY"))]
        for bond in brick_bonds(range(n_wires)):
            gates += [Gate(name, bond, len(gates) + k) for k, name in enumerate(("ISINGXX", "ISINGYY", "ISINGZZ"))]
    return Circuit(n_wires, tuple(gates))


def heisenberg_problem(
    n_wires: int = 6, coupling: tuple[float, float, float] = (1.0, 1.0, 1.0), n_layers: int = 3
) -> EnergyProblem:
    """The open Heisenberg XYZ chain with the sign of Q-MAML, `-sum Jx XX + Jy YY + Jz ZZ` in Pauli matrices.

    Positive couplings are thus ferromagnetic (`ketune.circuits.heisenberg` has the other sign). The circuit is
    `heisenberg_circuit`; on 4 wires 2 layers reach the ground state, on 6 wires 3 layers come within about 1 %.

    Args:
        n_wires: number of spins, 2 to 20.
        coupling: Jx, Jy, Jz; also the descriptor.
        n_layers: layers of the circuit.

    Raises:
        ValueError: for other sizes, or couplings that are not three finite numbers.

    Example:
        >>> heisenberg_problem(6, (1.0, 1.0, 1.0)).ground_energy
        -5.0
    """
    coupling = _checked_coupling(coupling)
    circuit = heisenberg_circuit(n_wires, n_layers)
    return _heisenberg(circuit, coupling)


def _heisenberg(circuit: Circuit, coupling: tuple[float, float, float]) -> EnergyProblem:
    n_wires = circuit.n_wires
    x, y, z = (-strength for strength in coupling)
    return EnergyProblem(
        name=f"heisenberg-{n_wires}",
        circuit=circuit,
        hamiltonian=heisenberg(n_wires, (x, y, z)),
        ground_energy=_heisenberg_energy(n_wires, coupling),
        descriptor=coupling,
    )


@lru_cache(maxsize=4096)
def _heisenberg_energy(n_wires: int, coupling: tuple[float, float, float]) -> float:
    x, y, z = (-strength for strength in coupling)
    return round(ground_energy(heisenberg(n_wires, (x, y, z))), 12)


def heisenberg_family(n_wires: int = 6, n_layers: int = 3) -> Family:
    """Heisenberg chains with couplings drawn from Q-MAML's grid -3, -2.9, ..., 3, each component on its own.

    One circuit serves all of them. The draws of another seed are held out: two of the 226,981 chains seldom agree.

    Args:
        n_wires: number of spins.
        n_layers: layers of the circuit.

    Raises:
        ValueError: for other sizes.

    Example:
        >>> import torch
        >>> draw = heisenberg_family(4, 2)
        >>> [len(draw(torch.Generator().manual_seed(seed)).descriptor) for seed in range(2)]
        [3, 3]
    """
    circuit = heisenberg_circuit(n_wires, n_layers)

    def draw(generator: torch.Generator | None = None) -> EnergyProblem:
        places = torch.randint(len(COUPLING_GRID), (3,), generator=generator).tolist()
        x, y, z = (COUPLING_GRID[place] for place in places)
        return _heisenberg(circuit, (x, y, z))

    return draw


def ising_circuit(n_wires: int, n_layers: int, field: float = 1.0, periodic: bool = False) -> Circuit:
    """The Hamiltonian variational ansatz of the Ising chain: ISINGZZ on all bonds, RX on all wires, repeated.

    W. W. Ho, T. H. Hsieh, SciPost Phys. 6, 029 (2019): two angles per layer, shared by all gates of a kind; it begins
    in the ground state of the field, |+...+> or, for a negative field, |-...->.

    Raises:
        ValueError: for fewer than two wires or one layer.
    """
    _check_size(n_wires, n_layers, "transverse_ising")
    gates = [Gate("H", (wire,)) for wire in range(n_wires)]
    if field < 0:
        gates += [Gate("Z", (wire,)) for wire in range(n_wires)]
    bonds = brick_bonds(range(n_wires)) + ([(n_wires - 1, 0)] if periodic and n_wires > 2 else [])
    for layer in range(n_layers):
        gates += [Gate("ISINGZZ", bond, 2 * layer) for bond in bonds]
        gates += [Gate("RX", (wire,), 2 * layer + 1) for wire in range(n_wires)]
    return Circuit(n_wires, tuple(gates))


def transverse_ising_problem(
    n_wires: int = 6,
    coupling: float = 1.0,
    field: float = 1.0,
    n_layers: int = 6,
    ansatz: str = "hamiltonian",
    periodic: bool = False,
) -> EnergyProblem:
    """The Ising chain in a transverse field, `-coupling sum Z_i Z_(i+1) - field sum X_i`.

    Args:
        n_wires: number of spins, at least 2; a ring takes at most 20, a chain has a closed form at any size.
        coupling: J; ferromagnetic when positive.
        field: strength h of the transverse field.
        n_layers: layers of the circuit. "hamiltonian" reaches the ground state exactly with half as many layers as
            spins on a ring; on a chain, as many layers as spins come within about 1e-4 of it.
        ansatz: "hamiltonian" (`ising_circuit`, two angles a layer) or "hardware_efficient" (RX, RY, RZ on every wire
            and a chain of CNOTs).
        periodic: closes the chain to a ring (from 3 wires).

    Returns:
        the problem; its descriptor is (coupling, field).

    Raises:
        ValueError: for an unknown ansatz, other sizes or numbers that are not finite.

    Example:
        >>> problem = transverse_ising_problem(4, field=0.5)
        >>> problem.circuit.n_angles, round(problem.ground_energy, 6)
        (12, -3.427034)
    """
    if not (math.isfinite(coupling) and math.isfinite(field)):
        raise ValueError(f"transverse_ising: coupling={coupling}, field={field}: both must be finite")
    if ansatz not in ISING_ANSATZE:
        raise ValueError(f"transverse_ising: ansatz={ansatz!r}; choose one of {', '.join(map(repr, ISING_ANSATZE))}")
    if ansatz == "hamiltonian":
        circuit = ising_circuit(n_wires, n_layers, field, periodic)
    else:
        _check_size(n_wires, n_layers, "transverse_ising")
        circuit = rxryrz_ring(n_wires, n_layers, "linear")
    hamiltonian = transverse_ising(n_wires, coupling, field, periodic)
    closed = periodic and n_wires > 2
    energy = ground_energy(hamiltonian) if closed else free_fermion_energy(n_wires, coupling, field)
    return EnergyProblem(f"transverse-ising-{n_wires}", circuit, hamiltonian, energy, (float(coupling), float(field)))


def free_fermion_energy(n_wires: int, coupling: float, field: float) -> float:
    """The ground energy of the open Ising chain: minus the sum of the energies of its free fermions.

    E. Lieb, T. Schultz, D. Mattis, Ann. Phys. 16, 407 (1961); P. Pfeuty, Ann. Phys. 57, 79 (1970): those energies are
    twice the singular values of the matrix with the field on its diagonal and the coupling beside it, halved here since
    the ground state has none of them.

    Example:
        >>> round(free_fermion_energy(2, 1.0, 1.0), 6)
        -2.236068
    """
    matrix = torch.diag(torch.full((n_wires,), field, dtype=torch.float64))
    matrix += torch.diag(torch.full((n_wires - 1,), coupling, dtype=torch.float64), 1)
    return -float(torch.linalg.svdvals(matrix).sum())


def _checked_coupling(coupling: Sequence[float]) -> tuple[float, float, float]:
    values = tuple(float(strength) for strength in coupling)
    if len(values) != 3 or not all(map(math.isfinite, values)):
        raise ValueError(f"heisenberg: coupling={coupling}; give Jx, Jy and Jz, three finite numbers")
    return values


def _check_size(n_wires: int, n_layers: int, problem: str) -> None:
    if n_wires < 2 or n_layers < 1:
        raise ValueError(f"{problem}: n_wires={n_wires}, n_layers={n_layers}; take at least 2 wires and 1 layer")
