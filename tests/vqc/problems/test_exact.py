"""Exact diagonalisation: dense, sparse and within sectors, against each other and closed forms."""

import numpy as np
import pytest
import torch

from ketune.circuits import Hamiltonian, heisenberg, transverse_ising
from ketune.vqc.problems import filling_sector, free_fermion_energy, ground_energy


def test_lanczos_agrees_with_the_free_fermions_beyond_dense_sizes():
    assert ground_energy(transverse_ising(12, 1.0, 0.9)) == pytest.approx(free_fermion_energy(12, 1.0, 0.9), abs=1e-9)


def test_complex_hamiltonians_are_diagonalised_as_such():
    # XY - YX is the only coupling: its eigenvalues are -2, 0, 0, 2.
    assert ground_energy(Hamiltonian((1.0, -1.0), ("XY", "YX"))) == pytest.approx(-2)
    long = Hamiltonian((1.0, -1.0), ("XY" + "I" * 9, "YX" + "I" * 9))
    assert ground_energy(long) == pytest.approx(-2, abs=1e-9)


def test_the_sectors_of_a_heisenberg_chain_hold_its_spectrum():
    hamiltonian = heisenberg(6, (1.0, 1.0, 0.4))
    sectors = [filling_sector(6, (range(6), number)) for number in range(7)]
    assert sum(map(len, sectors)) == 64
    lowest = min(ground_energy(hamiltonian, sector) for sector in sectors)
    assert lowest == pytest.approx(float(torch.linalg.eigvalsh(hamiltonian.matrix())[0]), abs=1e-10)
    assert ground_energy(hamiltonian, np.arange(64)) == pytest.approx(lowest, abs=1e-10)
    # One spin up among five down hops with 2 J on the chain and pays for its domain walls; none up pays nothing.
    assert ground_energy(hamiltonian, sectors[0]) == pytest.approx(5 * 0.4)


def test_free_wires_double_a_sector():
    assert filling_sector(3, ((0, 2), 1)).tolist() == [1, 3, 4, 6]


def test_too_many_wires_and_states_outside_are_refused():
    with pytest.raises(ValueError, match="21 wires"):
        ground_energy(Hamiltonian((1.0,), ("Z" * 21,)))
    with pytest.raises(ValueError, match=r"0\.\.3"):
        ground_energy(Hamiltonian((1.0,), ("ZZ",)), np.array([4]))
