"""Hubbard chains: published energies, closed forms, PennyLane's fermions, and a filling that no angle changes."""

import math

import pennylane as qml
import pytest
import torch

from ketune.circuits import simulate, to_bits
from ketune.vqc import STARTS, minimise
from ketune.vqc.problems import ground_energy, hubbard_family, hubbard_problem
from ketune.vqc.problems.exact import filling_sector
from ketune.vqc.problems.hubbard import filled_energy, hubbard_circuit, hubbard_hamiltonian

TABLE = {
    (2, 2): -1.236068,
    (2, 4): -0.828427,
    (2, 8): -0.472136,
    (3, 2): -1.820089,
    (3, 4): -1.236068,
    (3, 8): -0.707712,
    (4, 2): -2.875943,
    (4, 4): -1.953145,
    (4, 8): -1.117172,
}


@pytest.mark.parametrize(("n_sites", "interaction"), TABLE)
def test_half_filled_chains_have_the_published_ground_energies(n_sites, interaction):
    problem = hubbard_problem(n_sites, interaction, n_layers=1)
    assert problem.ground_energy == pytest.approx(TABLE[n_sites, interaction], abs=1e-6)


def test_two_sites_have_the_closed_form():
    for interaction in (0.0, 1.3, 6.0):
        closed = (interaction - math.sqrt(interaction**2 + 16)) / 2
        assert filled_energy(2, 1, 1, interaction) == pytest.approx(closed, abs=1e-12)


def test_without_interaction_the_lowest_orbitals_of_the_chain_are_filled():
    n_sites, n_up, n_down = 7, 3, 2  # a sector of 735 states
    orbitals = sorted(-2 * math.cos(math.pi * k / (n_sites + 1)) for k in range(1, n_sites + 1))
    expected = sum(orbitals[:n_up]) + sum(orbitals[:n_down])
    assert filled_energy(n_sites, n_up, n_down, 0.0) == pytest.approx(expected, abs=1e-9)
    assert filled_energy(n_sites, 3, 3, 0.0) == pytest.approx(2 * sum(orbitals[:3]), abs=1e-9)  # 1,225: by Lanczos


def test_another_filling_would_lie_lower():
    assert ground_energy(hubbard_hamiltonian(4, 4.0)) == pytest.approx(-2.624942, abs=1e-6)
    assert hubbard_problem(4, 4.0, n_layers=1).ground_energy > -2.0


def test_the_hamiltonian_is_the_one_of_pennylane_with_the_spins_apart():
    n_sites, interaction, hopping = 3, 3.0, 0.8
    theirs = qml.spin.fermi_hubbard("chain", [n_sites], hopping=hopping, coulomb=interaction, mapping="jordan_wigner")
    values = torch.linalg.eigvalsh(torch.from_numpy(qml.matrix(theirs, wire_order=range(2 * n_sites))))
    ours = torch.linalg.eigvalsh(hubbard_hamiltonian(n_sites, interaction, hopping).matrix())
    torch.testing.assert_close(ours, values, atol=1e-9, rtol=0)


@pytest.mark.parametrize(("n_sites", "n_up", "n_down"), [(2, 1, 1), (3, 2, 1), (4, 1, 3), (4, 0, 4)])
def test_no_angle_changes_the_number_of_electrons_of_either_spin(n_sites, n_up, n_down):
    circuit = hubbard_circuit(n_sites, n_up, n_down, 2)
    angles = torch.randn(5, circuit.n_angles, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weights = simulate(circuit, 3 * angles).abs() ** 2
    bits = to_bits(torch.arange(2 ** (2 * n_sites)), 2 * n_sites)
    fits = (bits[:, :n_sites].sum(1) == n_up) & (bits[:, n_sites:].sum(1) == n_down)
    assert float(weights[:, ~fits].max()) < 1e-24
    torch.testing.assert_close(weights[:, fits].sum(1), torch.ones(5, dtype=torch.float64))
    sector = filling_sector(2 * n_sites, (range(n_sites), n_up), (range(n_sites, 2 * n_sites), n_down))
    assert sector.tolist() == fits.nonzero().flatten().tolist()


@pytest.mark.parametrize(("n_sites", "n_layers"), [(2, 2), (3, 3)])
def test_the_circuit_reaches_the_ground_state(n_sites, n_layers):
    problem = hubbard_problem(n_sites, 4.0, n_layers=n_layers)
    generator = torch.Generator().manual_seed(0)
    starts = torch.stack([STARTS["gaussian"](problem.circuit, generator) for _ in range(4)])
    trace = minimise(problem, starts, lambda p: torch.optim.Adam(p, lr=0.05), 300)
    assert float(trace.energies[-1].min()) == pytest.approx(problem.ground_energy, abs=1e-5)
    assert float(trace.energies.min()) > problem.ground_energy - 1e-9


def test_a_family_draws_interactions_and_knows_their_energies():
    draw = hubbard_family(2, 1.0, 3.0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        problem = draw(generator)
        interaction = problem.descriptor[1]
        assert 1 <= interaction <= 3
        assert problem.ground_energy == pytest.approx((interaction - math.sqrt(interaction**2 + 16)) / 2)


def test_wrong_chains_and_sectors_are_refused():
    with pytest.raises(ValueError, match=r"n_sites=9.*2 to 8"):
        hubbard_problem(9)
    with pytest.raises(ValueError, match="n_up=4, n_down=1"):
        hubbard_problem(3, n_up=4)
    with pytest.raises(ValueError, match="interaction=inf"):
        hubbard_problem(2, math.inf)
    with pytest.raises(ValueError, match="least=2, most=1"):
        hubbard_family(2, 2, 1)
    with pytest.raises(ValueError, match=r"leads from basis state .* out of the sector"):
        ground_energy(hubbard_hamiltonian(2, 4.0), torch.tensor([5, 6]).numpy())
    with pytest.raises(ValueError, match="name different wires"):
        filling_sector(4, ((0, 1), 1), ((1, 2), 1))
