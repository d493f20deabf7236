"""The Fermi-Hubbard chain at fixed filling, with circuits that never leave it."""

from __future__ import annotations

import math
from functools import lru_cache

import torch

from ketune.circuits import Circuit, Gate, Hamiltonian
from ketune.vqc.problems.base import EnergyProblem, Family
from ketune.vqc.problems.exact import filling_sector, ground_energy
from ketune.vqc.problems.spin_chains import brick_bonds

MAX_SITES = 8
"""Longest chain (16 wires)."""


def hubbard_hamiltonian(n_sites: int, interaction: float, hopping: float = 1.0) -> Hamiltonian:
    """The open chain `-t sum c+_(i,s) c_(i+1,s) + h.c. + U sum n_(i,up) n_(i,down)` by Jordan and Wigner.

    Wires 0 to L - 1 are the spins up of the L sites, wires L to 2 L - 1 the spins down, so that hops join neighbours
    and carry no string: a hop is `-(t/2) (XX + YY)`, a double occupation `(U/4) (1 - Z)(1 - Z)`.

    Args:
        n_sites: number of sites L, at least 2.
        interaction: U.
        hopping: t.

    Example:
        >>> hubbard_hamiltonian(2, 4.0).n_wires
        4
    """
    terms: dict[str, float] = {}

    def add(coefficient: float, **letters: tuple[int, ...]) -> None:
        word = ["I"] * (2 * n_sites)
        for letter, wires in letters.items():
            for wire in wires:
                word[wire] = letter
        terms["".join(word)] = terms.get("".join(word), 0.0) + coefficient

    for spin in (0, n_sites):
        for site in range(n_sites - 1):
            bond = (spin + site, spin + site + 1)
            add(-hopping / 2, X=bond)
            add(-hopping / 2, Y=bond)
    for site in range(n_sites):
        up, down = site, n_sites + site
        add(interaction / 4)
        add(-interaction / 4, Z=(up,))
        add(-interaction / 4, Z=(down,))
        add(interaction / 4, Z=(up, down))
    return Hamiltonian.from_dict(terms)


def hubbard_circuit(n_sites: int, n_up: int, n_down: int, n_layers: int) -> Circuit:
    """X gates for the filling, then layers of gates that keep the number of each spin.

    A layer has CPHASE between the spins of every site (the interaction), RZ on every wire, and ISINGXY on neighbours of
    a spin in two steps as bricks (hops). RZ and ISINGXY together are Givens rotations with a phase, all that a state
    without interaction needs (Z. Jiang et al., Phys. Rev. Applied 9, 044036, 2018). Electrons up begin on even sites,
    electrons down on odd ones, as in a Neel state, and then fill the rest in order.
    `n_layers * (n_sites + 2 n_sites + 2 (n_sites - 1))` angles, in the order of the gates.

    Raises:
        ValueError: for sizes or fillings that do not fit.
    """
    _check(n_sites, n_up, n_down, n_layers)
    even, odd = list(range(0, n_sites, 2)), list(range(1, n_sites, 2))
    occupied = (even + odd)[:n_up] + [n_sites + site for site in (odd + even)[:n_down]]
    gates = [Gate("X", (wire,)) for wire in sorted(occupied)]
    bonds = [bond for first in (0, n_sites) for bond in brick_bonds(range(first, first + n_sites))]
    n_angles = 0
    for _ in range(n_layers):
        places = [("CPHASE", (site, n_sites + site)) for site in range(n_sites)]
        places += [("RZ", (wire,)) for wire in range(2 * n_sites)]
        places += [("ISINGXY", bond) for bond in bonds]
        gates += [Gate(name, wires, n_angles + k) for k, (name, wires) in enumerate(places)]
        n_angles += len(places)
    return Circuit(2 * n_sites, tuple(gates))


def hubbard_problem(
    n_sites: int = 3,
    interaction: float = 4.0,
    hopping: float = 1.0,
    n_up: int | None = None,
    n_down: int | None = None,
    n_layers: int = 3,
) -> EnergyProblem:
    """The open Fermi-Hubbard chain at a fixed filling, half filling by default.

    The circuit (`hubbard_circuit`) keeps the numbers of both spins, so the ground energy is the lowest at this filling;
    without that the lowest energy of all lies at another filling, since there is no chemical potential.

    Args:
        n_sites: number of sites L, 2 to 8, on 2 L wires.
        interaction: U, what two electrons on a site cost.
        hopping: t, the amplitude of a hop to a neighbour.
        n_up: electrons with spin up; half of the sites, rounded up, when None.
        n_down: electrons with spin down; half of the sites, rounded down, when None.
        n_layers: layers of the circuit.

    Returns:
        the problem; its descriptor is (t, U, electrons up per site, electrons down per site).

    Raises:
        ValueError: for sizes or fillings that do not fit, or numbers that are not finite.

    Example:
        >>> round(hubbard_problem(2, 4.0).ground_energy, 6)
        -0.828427
    """
    n_up = (n_sites + 1) // 2 if n_up is None else n_up
    n_down = n_sites // 2 if n_down is None else n_down
    return _problem(hubbard_circuit(n_sites, n_up, n_down, n_layers), n_up, n_down, interaction, hopping)


def hubbard_family(
    n_sites: int = 3, least: float = 0.0, most: float = 8.0, n_layers: int = 3, hopping: float = 1.0
) -> Family:
    """Half-filled chains with an interaction drawn uniformly between two values, rounded to hundredths.

    Args:
        n_sites: number of sites.
        least: smallest U.
        most: largest U.
        n_layers: layers of the circuit.
        hopping: t.

    Raises:
        ValueError: for sizes that do not fit, or `most` below `least`.

    Example:
        >>> draw = hubbard_family(2)
        >>> 0 <= draw(torch.Generator().manual_seed(0)).descriptor[1] <= 8
        True
    """
    if not least <= most:
        raise ValueError(f"hubbard: least={least}, most={most}; choose most at least as large as least")
    n_up, n_down = (n_sites + 1) // 2, n_sites // 2
    circuit = hubbard_circuit(n_sites, n_up, n_down, n_layers)

    def draw(generator: torch.Generator | None = None) -> EnergyProblem:
        share = float(torch.rand((), dtype=torch.float64, generator=generator))
        return _problem(circuit, n_up, n_down, round(least + (most - least) * share, 2), hopping)

    return draw


def _problem(circuit: Circuit, n_up: int, n_down: int, interaction: float, hopping: float) -> EnergyProblem:
    if not (math.isfinite(interaction) and math.isfinite(hopping)):
        raise ValueError(f"hubbard: interaction={interaction}, hopping={hopping}: both must be finite")
    n_sites = circuit.n_wires // 2
    return EnergyProblem(
        name=f"hubbard-{n_sites}",
        circuit=circuit,
        hamiltonian=hubbard_hamiltonian(n_sites, interaction, hopping),
        ground_energy=filled_energy(n_sites, n_up, n_down, float(interaction), float(hopping)),
        descriptor=(float(hopping), float(interaction), n_up / n_sites, n_down / n_sites),
    )


@lru_cache(maxsize=4096)
def filled_energy(n_sites: int, n_up: int, n_down: int, interaction: float, hopping: float = 1.0) -> float:
    """The lowest energy at a filling, by exact diagonalisation of that sector.

    Example:
        >>> round(filled_energy(4, 2, 2, 4.0), 6)
        -1.953145
    """
    up, down = range(n_sites), range(n_sites, 2 * n_sites)
    sector = filling_sector(2 * n_sites, (up, n_up), (down, n_down))
    return ground_energy(hubbard_hamiltonian(n_sites, interaction, hopping), sector)


def _check(n_sites: int, n_up: int, n_down: int, n_layers: int) -> None:
    if not 2 <= n_sites <= MAX_SITES or n_layers < 1:
        raise ValueError(f"hubbard: n_sites={n_sites}, n_layers={n_layers}; take 2 to {MAX_SITES} sites and 1 layer")
    if not (0 <= n_up <= n_sites and 0 <= n_down <= n_sites):
        raise ValueError(f"hubbard: n_up={n_up}, n_down={n_down}; each spin has 0 to {n_sites} electrons")
