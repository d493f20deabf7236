import pytest

from ketune.circuits import Circuit, Gate, rxryrz_ring, ry_ring


def test_equal_circuits_are_equal_keys():
    assert ry_ring(3) == ry_ring(3)
    assert {ry_ring(3): "a"}[ry_ring(3)] == "a"
    assert ry_ring(3) != ry_ring(3, entangler="linear")


def test_text_reads_back_to_the_same_circuit():
    circuit = rxryrz_ring(3, 2) + Circuit(3, (Gate("CRZ", (2, 0), 0), Gate("SDG", (1,))))
    assert Circuit.from_text(circuit.text) == circuit


def test_depth_counts_parallel_gates_once():
    # Rotations on four wires are one step; a chain of CNOTs is one step each, and the closing one another.
    assert ry_ring(4, entangler="none").depth() == 1
    assert ry_ring(4, entangler="linear").depth() == 4
    assert ry_ring(4).depth() == 5
    assert Circuit(3, ()).depth() == 0


def test_gates_are_counted_by_name():
    circuit = rxryrz_ring(5, n_layers=2)
    assert circuit.count_gates() == {"RX": 10, "RY": 10, "RZ": 10, "CNOT": 10}
    assert circuit.n_two_wire_gates == 10


def test_only_circuits_of_real_gates_are_real():
    assert ry_ring(4).is_real
    assert Circuit(2, (Gate("H", (0,)), Gate("CZ", (0, 1)), Gate("CRY", (1, 0), 0))).is_real
    assert not rxryrz_ring(4).is_real
    assert not Circuit(1, (Gate("S", (0,)),)).is_real


def test_appending_renumbers_the_angles():
    both = ry_ring(2) + ry_ring(2)
    assert [gate.angle for gate in both.gates if gate.angle is not None] == [0, 1, 2, 3]
    assert both == ry_ring(2, n_layers=2)


def test_an_angle_may_be_shared():
    assert Circuit(2, (Gate("RY", (0,), 0), Gate("RX", (1,), 0))).n_angles == 1


@pytest.mark.parametrize(
    ("name", "wires", "angle", "message"),
    [
        ("RW", (0,), 0, "'RW'.*choose one of RX"),
        ("RX", (0, 1), 0, r"wires=\(0, 1\).*1 distinct"),
        ("CNOT", (1, 1), None, r"wires=\(1, 1\).*2 distinct"),
        ("RX", (-1,), 0, "count from 0"),
        ("RX", (0,), None, "angle=None.*index"),
        ("H", (0,), 3, "angle=3.*angle=None"),
    ],
)
def test_a_wrong_gate_is_refused_by_name(name, wires, angle, message):
    with pytest.raises(ValueError, match=message):
        Gate(name, wires, angle)


def test_a_wrong_circuit_is_refused():
    with pytest.raises(ValueError, match="n_wires=0"):
        Circuit(0, ())
    with pytest.raises(ValueError, match=r"outside wires 0\.\.1"):
        Circuit(2, (Gate("H", (2,)),))
    with pytest.raises(ValueError, match="no gate uses angle 1"):
        Circuit(1, (Gate("RX", (0,), 0), Gate("RX", (0,), 2)))
    with pytest.raises(ValueError, match="2 wires to one on 3"):
        ry_ring(3) + ry_ring(2)
