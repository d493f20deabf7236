import pytest
import torch

from ketune.circuits import ANSATZE, ENTANGLERS, Circuit, ry_ring, ryrz_ring_ry, simulate
from ketune.circuits.ansatz import entangler_gates

ANGLES_PER_WIRE = {"ry_ring": 1, "ryrz_ring_ry": 3, "rxryrz_ring": 3}


def test_the_ring_maps_1000_to_0111():
    # The test vector of SQUARE (arXiv 2609.37134) for four wires.
    state = torch.zeros(16)
    state[0b1000] = 1
    ring = Circuit(4, entangler_gates(4, "ring"))
    assert simulate(ring, torch.zeros(0), state).nonzero().item() == 0b0111


@pytest.mark.parametrize("name", ANSATZE)
@pytest.mark.parametrize("entangler", ENTANGLERS)
@pytest.mark.parametrize("n_wires", [1, 2, 3, 14])
def test_every_ansatz_has_the_published_number_of_gates_and_angles(name, entangler, n_wires):
    circuit = ANSATZE[name](n_wires, 3, entangler)
    n_cnots = {"none": 0, "linear": n_wires - 1, "ring": n_wires if n_wires > 2 else n_wires - 1}[entangler]
    assert circuit.n_angles == 3 * n_wires * ANGLES_PER_WIRE[name]
    assert circuit.n_two_wire_gates == 3 * n_cnots
    assert len(circuit.gates) == circuit.n_angles + 3 * n_cnots


def test_angles_are_ordered_by_layer_then_wire_then_rotation():
    angles = [(gate.name, gate.wires[0], gate.angle) for gate in ryrz_ring_ry(2, 2).gates if gate.angle is not None]
    # (layer * n_wires + wire) * 3 + rotation; the last rotation of each wire comes after the CNOTs.
    assert angles == [
        *[("RY", 0, 0), ("RZ", 0, 1), ("RY", 1, 3), ("RZ", 1, 4), ("RY", 0, 2), ("RY", 1, 5)],
        *[("RY", 0, 6), ("RZ", 0, 7), ("RY", 1, 9), ("RZ", 1, 10), ("RY", 0, 8), ("RY", 1, 11)],
    ]


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match=r"'star'.*ring, linear, none"):
        ry_ring(3, entangler="star")
    with pytest.raises(ValueError, match="n_layers=0"):
        ry_ring(3, n_layers=0)
    with pytest.raises(ValueError, match="n_wires=0"):
        ry_ring(0)
