import pytest
import torch
from tests.circuits import dense_reference as dense

from ketune.circuits import Circuit, Gate, rxryrz_ring, simulate
from ketune.circuits._gates import GATES


@pytest.mark.parametrize("name", GATES)
def test_every_gate_is_its_textbook_matrix_on_any_wires(name):
    spec = GATES[name]
    angle = torch.tensor([0.7], dtype=torch.float64)
    placements = [(0,), (2,)] if spec.n_wires == 1 else [(0, 1), (2, 0), (1, 2)]
    for wires in placements:
        circuit = Circuit(3, (Gate(name, wires, 0 if spec.has_angle else None),))
        angles = angle[: circuit.n_angles]
        columns = simulate(circuit, angles, torch.eye(8, dtype=torch.complex128)).T
        torch.testing.assert_close(columns, dense.circuit_matrix(circuit, angles), atol=1e-14, rtol=0)


def test_batches_of_angles_and_states_broadcast():
    circuit = rxryrz_ring(3)
    angles = torch.randn(4, 1, circuit.n_angles, dtype=torch.float64)
    states = torch.randn(5, 8, dtype=torch.float64)
    out = simulate(circuit, angles, states)
    assert out.shape == (4, 5, 8)
    torch.testing.assert_close(out[2, 3], simulate(circuit, angles[2, 0], states[3]))


def test_second_derivatives_are_right():
    circuit = rxryrz_ring(2)
    angles = torch.randn(circuit.n_angles, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda a: simulate(circuit, a).abs().square()[1:], angles)


def test_real_circuits_keep_states_real():
    assert not simulate(Circuit(2, (Gate("H", (0,)), Gate("CNOT", (0, 1)))), torch.zeros(0)).is_complex()


def test_wrong_lengths_are_refused():
    with pytest.raises(ValueError, match=r"length 3.*takes 6"):
        simulate(rxryrz_ring(2), torch.zeros(3))
    with pytest.raises(ValueError, match=r"length 5.*2 wires need 4"):
        simulate(rxryrz_ring(2), torch.zeros(6), torch.zeros(5))
