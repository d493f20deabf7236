"""Rows about angles: what stands in them, and that circuits of every size have rows of the same kind."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ketune.circuits import Circuit, Gate, crz_ring, rxryrz_ring, ry_ring, simplified_two_design, strongly_entangling
from ketune.vqc.descriptors import DESCRIPTOR_NAMES, GATE_KINDS, describe_angles


def entries(circuit, *names):
    return describe_angles(circuit)[:, [DESCRIPTOR_NAMES.index(name) for name in names]]


def test_gate_kinds_are_all_gates_with_an_angle():
    from ketune.circuits._gates import GATES

    assert set(GATE_KINDS) == {name for name, spec in GATES.items() if spec.has_angle}


def test_the_row_of_a_gate_says_what_and_where_it_is():
    circuit = Circuit(3, (Gate("H", (0,)), Gate("CRX", (0, 2), 0), Gate("RZ", (2,), 1), Gate("CNOT", (2, 1))))
    found = {name: float(value) for name, value in zip(DESCRIPTOR_NAMES, describe_angles(circuit)[0])}
    expected = {"is_crx": 1, "axis_x": 1, "two_wire": 1, "controlled": 1, "wire": 0, "other_wire": 1, "reach": 2 / 3}
    expected |= {
        "time": 1 / 3,
        "before_fixed": 1,
        "after_none": 1,
        "odd_wire": 1,
        "odd_other": 1,
        "one_over_depth": 1 / 4,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert sum(found[f"is_{kind.lower()}"] for kind in GATE_KINDS) == 1
    second = entries(circuit, "is_rz", "axis_z", "wire", "other_wire", "time", "before_two_wire", "after_two_wire")[1]
    assert second.tolist() == pytest.approx([1, 1, 1, -1, 2 / 3, 1, 1])


def test_an_angle_that_gates_share_has_the_mean_of_their_rows():
    apart = Circuit(3, tuple(Gate("RY", (wire,), wire) for wire in range(3)))
    shared = Circuit(3, tuple(Gate("RY", (wire,), 0) for wire in range(3)))
    assert torch.allclose(describe_angles(shared)[0], describe_angles(apart).mean(0))


def test_the_two_z_turns_of_a_general_rotation_are_told_apart_by_their_neighbours():
    rows = entries(strongly_entangling(4, 3), "before_y", "after_y", "before_two_wire", "after_two_wire").view(
        3, 4, 3, 4
    )
    assert rows[1, :, 0].tolist() == [[0, 1, 1, 0]] * 4
    assert rows[1, :, 2].tolist() == [[1, 0, 0, 1]] * 4


def test_layers_are_shares_of_the_whole_whatever_their_number():
    for n_layers in (2, 3, 7):
        repeats = entries(rxryrz_ring(4, n_layers), "repeat").view(n_layers, 12)
        assert torch.allclose(repeats, torch.linspace(0, 1, n_layers, dtype=torch.float64)[:, None].expand(-1, 12))


CIRCUITS = (ry_ring, rxryrz_ring, strongly_entangling, simplified_two_design, crz_ring)


@given(build=st.sampled_from(CIRCUITS), n_wires=st.integers(1, 9), n_layers=st.integers(1, 4))
def test_every_circuit_has_bounded_rows_of_one_length_and_no_two_angles_the_same(build, n_wires, n_layers):
    circuit = build(n_wires, n_layers)
    rows = describe_angles(circuit)
    assert rows.shape == (circuit.n_angles, len(DESCRIPTOR_NAMES))
    assert rows.abs().max() <= 1
    assert len(torch.unique(rows, dim=0)) == circuit.n_angles


@pytest.mark.parametrize("kind", GATE_KINDS)
def test_every_kind_of_gate_is_described(kind):
    wires = (0, 1) if kind.startswith(("C", "ISING")) else (1,)
    rows = describe_angles(Circuit(2, (Gate(kind, wires, 0),)))
    assert rows[0, GATE_KINDS.index(kind)] == 1
    assert torch.isfinite(rows).all()


def test_a_circuit_without_angles_has_no_rows():
    assert describe_angles(Circuit(2, (Gate("H", (0,)),))).shape == (0, len(DESCRIPTOR_NAMES))
