import math

import pytest
import torch

from ketune.circuits import Circuit, Gate, entangling_capability, expressibility, rxryrz_ring, ry_ring

H = Gate("H", (0,))


def test_single_wire_circuits_have_the_published_expressibility():
    # Sim et al. (arXiv 1905.10876), figure 1: idle 4.30, circuit A (H, RZ) 0.22, circuit B (H, RZ, RX) 0.02.
    assert expressibility(Circuit(1, ())) == pytest.approx(math.log(75))
    a = Circuit(1, (H, Gate("RZ", (0,), 0)))
    b = Circuit(1, (H, Gate("RZ", (0,), 0), Gate("RX", (0,), 1)))
    assert expressibility(a, n_pairs=5000) == pytest.approx(0.22, abs=0.03)
    assert expressibility(b, n_pairs=5000) == pytest.approx(0.02, abs=0.015)


def test_an_idle_circuit_has_the_largest_value_at_any_width():
    assert expressibility(Circuit(3, ()), n_pairs=10) == pytest.approx(7 * math.log(75))


def test_deep_general_circuits_approach_random_states():
    assert expressibility(rxryrz_ring(3, 6), n_pairs=4000) < 0.02 < expressibility(ry_ring(3), n_pairs=4000)


def test_known_states_have_known_entanglement():
    bell = Circuit(2, (H, Gate("CNOT", (0, 1))))
    ghz = Circuit(4, (H, *(Gate("CNOT", (wire, wire + 1)) for wire in range(3))))
    assert entangling_capability(bell, 1) == pytest.approx(1)
    assert entangling_capability(ghz, 1) == pytest.approx(1)
    # One Bell pair beside two idle wires: two of four wires are maximally mixed.
    assert entangling_capability(Circuit(4, (H, Gate("CNOT", (0, 1)))), 1) == pytest.approx(0.5)
    assert entangling_capability(ry_ring(5, entangler="none"), 50) == pytest.approx(0, abs=1e-5)


def test_a_rotated_bell_pair_has_the_mean_of_its_closed_form():
    # RY(t) then CNOT: Q = sin(t)^2, whose mean over t is 1/2.
    circuit = Circuit(2, (Gate("RY", (0,), 0), Gate("CNOT", (0, 1))))
    assert entangling_capability(circuit, 4000) == pytest.approx(0.5, abs=0.03)


def test_random_states_have_the_mean_entanglement_of_haar_states():
    # Haar states of n wires: mean Q = (N - 2) / (N + 1).
    assert entangling_capability(rxryrz_ring(4, 8), 1000) == pytest.approx(14 / 17, abs=0.02)


def test_wide_circuits_have_the_closed_forms_of_narrow_ones():
    # From 10 wires on states are simulated in blocks of gates.
    assert entangling_capability(rxryrz_ring(10, 6), 100) == pytest.approx(1022 / 1025, abs=0.01)
    ghz = Circuit(11, (H, *(Gate("CNOT", (wire, wire + 1)) for wire in range(10))))
    assert entangling_capability(ghz, 3) == pytest.approx(1)


def test_one_turning_wire_of_ten_has_the_expressibility_of_its_arcsine_law():
    # Fidelities cos(d / 2)^2 of a uniform d are below f with the chance 2 / pi arcsin(sqrt(f)).
    edges = torch.linspace(0, 1, 76, dtype=torch.float64)
    seen = (2 / math.pi * edges.sqrt().arcsin()).diff()
    log_above = 1023 * torch.log1p(-edges)
    log_haar = log_above[:-1] + torch.log(-torch.expm1(log_above[1:] - log_above[:-1]))
    expected = float((seen * (seen.log() - log_haar)).sum())
    assert expressibility(Circuit(10, (Gate("RY", (0,), 0),)), 4000) == pytest.approx(expected, rel=0.05)


def test_a_seed_decides_the_result_and_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    circuit = rxryrz_ring(3)
    assert expressibility(circuit, 50, seed=1) == expressibility(circuit, 50, seed=1)
    assert entangling_capability(circuit, 50, seed=1) == entangling_capability(circuit, 50, seed=1)
    assert entangling_capability(circuit, 50, seed=1) != entangling_capability(circuit, 50, seed=2)
    assert torch.equal(torch.get_rng_state(), state)


def test_wrong_counts_are_refused():
    with pytest.raises(ValueError, match="n_pairs=0"):
        expressibility(ry_ring(2), n_pairs=0)
    with pytest.raises(ValueError, match="n_states=0"):
        entangling_capability(ry_ring(2), n_states=0)
