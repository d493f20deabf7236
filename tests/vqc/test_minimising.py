"""Minimising an energy: traces, batches of starts, noise; the fixed starts."""

import math

import pytest
import torch

from ketune.circuits import Channel, NoiseModel, heisenberg, run, ryrz_ring_ry, transverse_ising
from ketune.vqc import STARTS, EnergyProblem, minimise


def problem(n_wires=3):
    hamiltonian = transverse_ising(n_wires)
    ground = float(torch.linalg.eigvalsh(hamiltonian.matrix())[0])
    return EnergyProblem("ising-3", ryrz_ring_ry(n_wires, 2), hamiltonian, ground, (1.0, 1.0))


def adam(parameters):
    return torch.optim.Adam(parameters, lr=0.1)


def starts(problem, n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([STARTS["gaussian"](problem.circuit, generator) for _ in range(n)])


def test_adam_reaches_the_ground_state_of_a_small_ising_chain():
    ising = problem()
    trace = minimise(ising, starts(ising, 3), adam, 150)
    assert trace.energies.shape == (151, 3)
    assert trace.energies.min() >= ising.ground_energy - 1e-9
    assert trace.energies[-1].min() == pytest.approx(ising.ground_energy, abs=1e-3)
    assert torch.allclose(trace.energies[-1], ising.energy(trace.angles))


def test_starts_side_by_side_go_the_way_that_each_goes_alone():
    ising = problem()
    several = starts(ising, 2)
    together = minimise(ising, several, adam, 5)
    for k in range(2):
        alone = minimise(ising, several[k], adam, 5)
        assert torch.allclose(alone.energies, together.energies[:, k], atol=1e-10)


def test_the_trace_begins_at_the_start_and_counts_the_steps_to_an_energy():
    ising = problem()
    trace = minimise(ising, starts(ising, 2), adam, 40)
    assert torch.allclose(trace.energies[0], ising.energy(starts(ising, 2)))
    target = float(trace.energies[7, 0])
    assert trace.steps_to(target)[0] <= 7
    assert trace.energies[trace.steps_to(target)[0], 0] <= target
    assert trace.steps_to(ising.ground_energy - 1).tolist() == [-1, -1]


def test_noisy_steps_still_report_exact_energies():
    ising = problem()
    noise = NoiseModel(two_wire=(Channel("depolarising", 0.02),))
    trace = minimise(ising, starts(ising, 1), adam, 3, noise=noise, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(trace.energies[0], ising.energy(starts(ising, 1)))
    assert not torch.allclose(trace.energies, minimise(ising, starts(ising, 1), adam, 3).energies)


@pytest.mark.parametrize(("name", "bound"), [("uniform", math.pi), ("narrow", 0.05 * math.pi), ("zeros", 0.0)])
def test_fixed_starts_stay_within_their_bounds_and_follow_their_generator(name, bound):
    circuit = ryrz_ring_ry(6, 5)
    first, again, other = (STARTS[name](circuit, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert first.shape == (circuit.n_angles,)
    assert first.abs().max() <= bound
    assert torch.equal(first, again)
    assert torch.equal(first, other) == (bound == 0)


def test_the_gaussian_start_has_its_variance():
    circuit = ryrz_ring_ry(10, 40)
    angles = STARTS["gaussian"](circuit, torch.Generator().manual_seed(0))
    assert float(angles.var()) == pytest.approx(1 / (8 * (120 + 2)), rel=0.1)


def test_a_problem_of_unequal_wires_or_angles_is_refused():
    with pytest.raises(ValueError, match="4 wires for a circuit on 3"):
        EnergyProblem("wrong", ryrz_ring_ry(3), heisenberg(4), 0.0)
    with pytest.raises(ValueError, match="takes"):
        minimise(problem(), torch.zeros(2), adam, 1)


def test_energies_have_second_derivatives():
    ising = problem()
    angles = starts(ising, 1)[0].requires_grad_()
    gradient = torch.autograd.grad(ising.energy(angles), angles, create_graph=True)[0]
    second = torch.autograd.grad(gradient.square().sum(), angles)[0]
    assert second.abs().max() > 1e-3
    direct = run(ising.circuit, None, angles, readout=ising.hamiltonian)[0]
    assert torch.allclose(direct, ising.energy(angles))
