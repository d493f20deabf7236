"""Spin chains against reference energies, closed forms, dense matrices and their own circuits."""

import math

import pytest
import torch

from ketune.vqc import STARTS, minimise
from ketune.vqc.problems import free_fermion_energy, heisenberg_family, heisenberg_problem, transverse_ising_problem
from ketune.vqc.problems.exact import ground_energy
from ketune.vqc.problems.spin_chains import COUPLING_GRID


def starts(problem, n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([STARTS["uniform"](problem.circuit, generator) for _ in range(n)])


def least_gap(problem, n_starts=4, n_steps=250):
    trace = minimise(problem, starts(problem, n_starts), lambda p: torch.optim.Adam(p, lr=0.05), n_steps)
    assert trace.energies.min() >= problem.ground_energy - 1e-9
    return float(trace.energies[-1].min()) - problem.ground_energy


@pytest.mark.parametrize(
    ("coupling", "energy"), [((1, 1, 1), -5.0), ((-1, -1, -1), -9.974309), ((1.5, -0.7, 2.0), -14.233658)]
)
def test_heisenberg_chains_of_six_spins_have_the_published_ground_energies(coupling, energy):
    problem = heisenberg_problem(6, coupling)
    assert problem.ground_energy == pytest.approx(energy, abs=1e-6)
    assert problem.descriptor == tuple(map(float, coupling))


def test_two_spins_have_the_energies_of_the_bell_states():
    # XX, YY and ZZ are +1, -1, +1; -1, +1, +1; +1, +1, -1; and -1, -1, -1 on the four Bell states.
    x, y, z = 0.7, -1.1, 0.4
    lowest = min(-(x - y + z), -(-x + y + z), -(x + y - z), x + y + z)
    assert heisenberg_problem(2, (x, y, z)).ground_energy == pytest.approx(lowest, abs=1e-12)


@pytest.mark.parametrize("coupling", [(-1, -1, -1), (2.9, -1.3, 0.6)])
def test_the_heisenberg_circuit_reaches_the_ground_state_of_four_spins(coupling):
    assert least_gap(heisenberg_problem(4, coupling, n_layers=2)) < 1e-4


def test_a_family_shares_its_circuit_and_draws_couplings_from_the_grid():
    draw = heisenberg_family(3, 1)
    generator = torch.Generator().manual_seed(3)
    problems = [draw(generator) for _ in range(40)]
    assert len({id(problem.circuit) for problem in problems}) == 1
    assert {strength for problem in problems for strength in problem.descriptor} <= set(COUPLING_GRID)
    assert len({problem.descriptor for problem in problems}) > 35
    for problem in problems[:5]:
        assert problem.ground_energy == pytest.approx(ground_energy(problem.hamiltonian), abs=1e-9)
    again = torch.Generator().manual_seed(3)
    assert [draw(again).descriptor for _ in range(3)] == [problem.descriptor for problem in problems[:3]]


@pytest.mark.parametrize("n_wires", [2, 5, 8])
@pytest.mark.parametrize(("coupling", "field"), [(1.0, 1.0), (1.0, 0.3), (-0.8, 1.7), (0.6, -0.9), (1.0, 0.0)])
def test_free_fermions_give_the_energy_of_the_dense_matrix(n_wires, coupling, field):
    problem = transverse_ising_problem(n_wires, coupling, field, 1)
    assert problem.ground_energy == pytest.approx(ground_energy(problem.hamiltonian), abs=1e-9)


def test_a_critical_chain_of_hundred_spins_has_the_closed_form_of_pfeuty():
    # Open critical chain: E0 = 1 - 1 / sin(pi / (2 (2 N + 1))).
    assert free_fermion_energy(100, 1.0, 1.0) == pytest.approx(1 - 1 / math.sin(math.pi / 402), abs=1e-9)


@pytest.mark.parametrize(("n_wires", "field"), [(4, 1.0), (6, -0.7)])
def test_rings_are_solved_exactly_by_half_as_many_layers_as_spins(n_wires, field):
    problem = transverse_ising_problem(n_wires, 1.0, field, n_wires // 2, periodic=True)
    assert least_gap(problem, 4, 250) < 1e-6
    too_few = transverse_ising_problem(n_wires, 1.0, field, n_wires // 2 - 1, periodic=True)
    assert least_gap(too_few, 4, 250) > 1e-3


def test_a_ring_has_the_energy_of_its_antiperiodic_fermions():
    n_wires, field = 6, 0.8
    momenta = [(2 * k + 1) * math.pi / n_wires for k in range(n_wires)]
    energy = -sum(math.sqrt(1 + field**2 - 2 * field * math.cos(k)) for k in momenta)
    assert transverse_ising_problem(n_wires, 1.0, field, 1, periodic=True).ground_energy == pytest.approx(energy)


def test_the_hardware_efficient_circuit_comes_close_too():
    assert least_gap(transverse_ising_problem(4, 1.0, 0.5, 3, "hardware_efficient")) < 1e-2


def test_wrong_chains_are_refused():
    with pytest.raises(ValueError, match=r"n_wires=1.*at least 2"):
        heisenberg_problem(1)
    with pytest.raises(ValueError, match=r"coupling=\(1, 2\)"):
        heisenberg_problem(4, (1, 2))
    with pytest.raises(ValueError, match=r"ansatz='qaoa'; choose one of 'hamiltonian'"):
        transverse_ising_problem(4, ansatz="qaoa")
    with pytest.raises(ValueError, match="field=nan"):
        transverse_ising_problem(4, field=math.nan)
