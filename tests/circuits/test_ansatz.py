import pytest
import torch

from ketune.circuits import (
    ANSATZE,
    ENTANGLERS,
    Circuit,
    crz_ring,
    crz_two_rings,
    ry_ring,
    ryrz_ring_ry,
    simplified_two_design,
    simulate,
    strongly_entangling,
    with_uploads,
)
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
    chain = n_wires - 1
    ring, pairs = (n_wires if n_wires > 2 else chain), n_wires * chain // 2
    n_cnots = {"none": 0, "linear": chain, "brick": chain, "all": pairs, "ring": ring}[entangler]
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
    with pytest.raises(ValueError, match=r"'star'.*ring, linear, brick, all, none"):
        ry_ring(3, entangler="star")
    with pytest.raises(ValueError, match="n_layers=0"):
        ry_ring(3, n_layers=0)
    with pytest.raises(ValueError, match="n_wires=0"):
        ry_ring(0)


def test_bricks_are_the_pairs_of_a_chain_in_two_steps():
    assert [gate.wires for gate in entangler_gates(5, "brick")] == [(0, 1), (2, 3), (1, 2), (3, 4)]
    assert ry_ring(8, entangler="brick").depth() == 3


@pytest.mark.parametrize("n_wires", [1, 2, 3, 5])
@pytest.mark.parametrize("n_layers", [1, 4])
def test_layers_named_after_pennylane_are_those_of_pennylane(n_wires, n_layers):
    qml = pytest.importorskip("pennylane")
    wires = range(n_wires)
    rng = torch.Generator().manual_seed(0)
    circuit = strongly_entangling(n_wires, n_layers)
    weights = torch.randn(n_layers, n_wires, 3, dtype=torch.float64, generator=rng)
    template = qml.StronglyEntanglingLayers(weights, wires=wires)
    assert circuit.n_angles == weights.numel()
    columns = simulate(circuit, weights.flatten(), torch.eye(2**n_wires, dtype=torch.complex128)).T
    torch.testing.assert_close(columns, qml.matrix(template, wire_order=wires).to(columns), atol=1e-13, rtol=0)

    circuit = simplified_two_design(n_wires, n_layers)
    first, later = torch.randn(n_wires), torch.randn(n_layers, n_wires - 1, 2)
    angles = torch.cat((first, later.flatten())).double()
    assert circuit.n_angles == angles.numel()
    assert circuit.is_real
    template = qml.SimplifiedTwoDesign(first.double(), later.double(), wires=wires)
    columns = simulate(circuit, angles, torch.eye(2**n_wires, dtype=torch.float64)).T
    torch.testing.assert_close(
        columns.to(torch.complex128), qml.matrix(template, wire_order=wires).to(torch.complex128)
    )


def test_strongly_entangling_takes_other_distances_and_refuses_impossible_ones():
    pairs = [gate.wires for gate in strongly_entangling(3, 1, ranges=[2]).gates if gate.name == "CNOT"]
    assert pairs == [(0, 2), (1, 0), (2, 1)]
    for ranges in ([3], [1, 1]):
        with pytest.raises(ValueError, match="1 distances, none a multiple of 3"):
            strongly_entangling(3, 1, ranges=ranges)


@pytest.mark.parametrize(("n_wires", "n_angles"), [(1, 2), (2, 6), (4, 16)])
def test_a_ring_of_controlled_rotations_has_an_angle_for_each_of_its_gates(n_wires, n_angles):
    circuit = crz_ring(n_wires, 2)
    assert circuit.n_angles == len(circuit.gates) == n_angles


@pytest.mark.parametrize(("n_wires", "n_crz", "n_angles"), [(1, 0, 2), (2, 4, 8), (4, 8, 16), (5, 10, 20)])
def test_two_rings_have_four_angles_per_wire_and_layer(n_wires, n_crz, n_angles):
    circuit = crz_two_rings(n_wires, 3)
    assert circuit.n_angles == 3 * n_angles
    assert circuit.count_gates() == {"RY": 6 * n_wires, **({"CRZ": 3 * n_crz} if n_crz else {})}
    ring = [gate.wires for gate in circuit.gates if gate.name == "CRZ"][:n_crz]
    forwards = [(wire, (wire + 1) % n_wires) for wire in range(n_crz // 2)]
    assert ring == forwards + [(wire, (wire - 1) % n_wires) for wire in range(n_crz // 2)]


def test_uploads_stand_in_front_of_every_layer():
    circuit, feature_angles = with_uploads([ry_ring(2), ryrz_ring_ry(2)])
    assert feature_angles == [[0, 4], [1, 5]]
    uploads = [gate for gate in circuit.gates if gate.angle in (0, 1, 4, 5)]
    assert [(gate.name, gate.wires) for gate in uploads] == [("RY", (0,)), ("RY", (1,))] * 2
    assert circuit.n_angles == 4 + ry_ring(2).n_angles + ryrz_ring_ry(2).n_angles
    for layers in ([], [ry_ring(2), ry_ring(3)]):
        with pytest.raises(ValueError, match=r"at least one circuit|on 3 wires"):
            with_uploads(layers)
