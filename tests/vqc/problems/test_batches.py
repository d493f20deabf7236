"""Problems on one circuit in one run: the energies that each has alone."""

import pytest
import torch

from ketune.circuits import Circuit, Gate, heisenberg, max_cut, rxryrz_ring, ry_ring, transverse_ising
from ketune.vqc import EnergyProblem, minimise
from ketune.vqc.problems.batches import EnergyBatch, group_by_circuit


def problems(circuit, *hamiltonians):
    return [
        EnergyProblem(f"p{k}", circuit, h, float(torch.linalg.eigvalsh(h.matrix())[0]), (float(k),))
        for k, h in enumerate(hamiltonians)
    ]


THREE = problems(rxryrz_ring(3, 2), transverse_ising(3), heisenberg(3, (0.5, -1.0, 2.0)), max_cut(3, [(0, 1), (1, 2)]))


def test_each_problem_has_the_energy_that_it_has_alone_for_any_leading_dimensions():
    angles = torch.randn(5, 3, 18, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    together = EnergyBatch(THREE).energy(angles)
    alone = torch.stack([problem.energy(angles[:, k]) for k, problem in enumerate(THREE)], -1)
    assert together.shape == (5, 3)
    assert torch.allclose(together, alone, atol=1e-12)
    assert torch.allclose(EnergyBatch(THREE).energy(angles[2]), alone[2], atol=1e-12)


def test_minimising_a_batch_is_minimising_each():
    angles = torch.randn(3, 18, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def adam(parameters):
        return torch.optim.Adam(parameters, lr=0.1)

    batch = EnergyBatch(THREE)
    together = minimise(batch, angles, adam, 20)
    for k, problem in enumerate(THREE):
        alone = minimise(problem, angles[k], adam, 20)
        assert torch.allclose(together.energies[:, k], alone.energies, atol=1e-9)
    targets = together.energies[7]
    assert (together.steps_to(targets) <= 7).all()
    assert (together.steps_to(batch.ground_energies - 1) == -1).all()


def test_problems_on_many_wires_are_evaluated_too():
    circuit = Circuit(15, tuple(Gate("RY", (wire,), 0) for wire in range(15)))
    two = [EnergyProblem("ising", circuit, transverse_ising(15, field=h), -20.0, (h,)) for h in (0.5, 2.0)]
    angles = torch.tensor([[0.0], [torch.pi / 2]], dtype=torch.float64)
    assert torch.allclose(EnergyBatch(two).energy(angles), torch.tensor([-14.0, -30.0], dtype=torch.float64))


def test_problems_are_sorted_by_circuit():
    other = problems(ry_ring(3), transverse_ising(3))
    groups = group_by_circuit([THREE[0], *other, THREE[1]])
    assert [group.problems for group in groups] == [(THREE[0], THREE[1]), tuple(other)]
    assert torch.equal(groups[0].tasks(), torch.tensor([[0.0], [1.0]]))


def test_what_makes_no_batch_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        EnergyBatch([])
    with pytest.raises(ValueError, match="another circuit"):
        EnergyBatch([THREE[0], *problems(ry_ring(3), transverse_ising(3))])
    with pytest.raises(ValueError, match=r"take \(\.\.\., 3, 18\)"):
        EnergyBatch(THREE).energy(torch.zeros(18))
    uneven = EnergyProblem("uneven", THREE[0].circuit, transverse_ising(3), -1.0, (1.0, 2.0))
    with pytest.raises(ValueError, match="pad with zeros"):
        EnergyBatch([THREE[0], uneven]).tasks()
