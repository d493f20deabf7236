"""Circuits of PennyLane and Qiskit become ours, and errors where they cannot."""

import math
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.circuits.random_circuits import circuits

from ketune.circuits import (
    Circuit,
    Gate,
    from_pennylane,
    from_qiskit,
    ry_ring,
    simulate,
    strongly_entangling,
    to_pennylane,
    to_qiskit,
)


def matrix_of(circuit, angles):
    return simulate(circuit, angles, torch.eye(2**circuit.n_wires, dtype=torch.complex128)).T


def random_angles(n, seed=0):
    return torch.randn(n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# PennyLane


@pytest.fixture
def qml():
    return pytest.importorskip("pennylane")


def agree(qml, function, *args, n_wires, **kwargs):
    """The imported function has PennyLane's matrix, up to a phase; returns what was imported."""
    imported = from_pennylane(function, *args, wire_order=range(n_wires), **kwargs)
    tape = qml.tape.make_qscript(function)(*args, **kwargs)
    wanted = torch.as_tensor(qml.matrix(tape, wire_order=range(n_wires))).to(torch.complex128)
    ours = matrix_of(imported.circuit, imported.angles)
    phase = (wanted.conj() * ours).sum()
    torch.testing.assert_close(ours, wanted * phase / phase.abs(), atol=1e-12, rtol=0)
    return imported


@settings(deadline=None, max_examples=25, database=None)
@given(circuits(), st.integers(0, 1000))
def test_every_circuit_comes_back_from_pennylane(circuit, seed):
    pytest.importorskip("pennylane")
    angles = random_angles(circuit.n_angles, seed)
    imported = from_pennylane(to_pennylane(circuit), angles, wire_order=range(circuit.n_wires))
    assert imported.circuit.n_angles == circuit.n_angles
    torch.testing.assert_close(imported.angles, angles * imported.matrix.sum(1), atol=1e-14, rtol=0)
    back = matrix_of(imported.circuit, imported.angles)
    torch.testing.assert_close(back, matrix_of(circuit, angles), atol=1e-12, rtol=0)


def test_a_template_has_its_weights_as_angles(qml):
    weights = random_angles(2 * 4 * 3).view(2, 4, 3)
    imported = agree(qml, qml.StronglyEntanglingLayers, weights, wires=range(4), n_wires=4)
    assert imported.circuit == strongly_entangling(4, 2)
    assert imported.names[:2] == ("weights[0,0,0]", "weights[0,0,1]")
    assert torch.equal(imported.angles, weights.flatten())


def test_gates_we_do_not_know_are_taken_apart_and_stay_linear_in_the_parameters(qml):
    def function(weights, rest):
        qml.QFT(wires=range(3))
        qml.Toffoli(wires=[0, 1, 2])
        qml.PauliRot(weights[0], "XYZ", wires=[0, 1, 2])
        qml.CRot(*weights[1:4], wires=[2, 0])
        qml.SingleExcitation(weights[4], wires=[1, 0])
        qml.ctrl(qml.RX, control=[0, 1])(rest["a"], wires=2)
        qml.adjoint(qml.RX)(2 * rest["a"] - math.pi / 3, wires=1)
        qml.GlobalPhase(rest["b"][0])
        qml.U3(*weights[:3], wires=0)
        qml.ECR(wires=[0, 2])
        qml.MultiRZ(weights[0] + weights[1], wires=[0, 1, 2])

    weights = random_angles(5)
    imported = agree(qml, function, weights, {"a": 0.3, "b": [0.7]}, n_wires=3)
    assert imported.parameters[5:] == ("rest['a']", "rest['b'][0]")
    assert "-2*rest['a'] + 1.0472" in imported.names
    # Other values of the parameters need no second import.
    other = random_angles(7, 1)
    again = from_pennylane(function, other[:5], {"a": float(other[5]), "b": [float(other[6])]}, wire_order=range(3))
    torch.testing.assert_close(imported.angles_from(other), again.angles, atol=1e-12, rtol=0)


def test_parameters_are_what_requires_a_gradient_and_all_floats_otherwise(qml):
    def function(x, weights):
        qml.RX(x[0], wires=0)
        qml.RY(weights[0], wires=0)
        qml.RZ(0.5, wires=0)

    x, weights = random_angles(1), random_angles(1, 1)
    assert from_pennylane(function, x, weights).names == ("x[0]", "weights[0]")
    marked = from_pennylane(function, x, weights.clone().requires_grad_())
    assert marked.names == ("weights[0]",)
    assert marked.circuit.count_gates() == {"U": 2, "RY": 1}
    assert from_pennylane(function, x.numpy(), qml.numpy.array([0.2])).names == ("weights[0]",)


def test_a_tape_gives_its_trainable_parameters(qml):
    operations = [
        qml.RX(0.1, wires=1),
        qml.CNOT(wires=[1, 0]),
        qml.RY(0.2, wires=0),
        qml.QubitUnitary(np.eye(2), wires=1),
    ]
    tape = qml.tape.QuantumScript(operations, [qml.expval(qml.Z(0))])
    imported = from_pennylane(tape)
    assert imported.circuit.gates[:2] == (Gate("RX", (1,), 0), Gate("CNOT", (1, 0)))
    assert imported.angles.tolist() == [0.1, 0.2]
    tape.trainable_params = [1]
    assert from_pennylane(tape).names == ("RY_2",)
    assert from_pennylane(qml.RX(0.3, wires=0)).angles.tolist() == [0.3]


def test_wires_keep_their_numbers_or_the_order_that_is_asked_for(qml):
    tape = qml.tape.QuantumScript([qml.CNOT(wires=[3, 1])])
    assert from_pennylane(tape).circuit == Circuit(4, (Gate("CNOT", (3, 1)),))
    assert from_pennylane(tape, wire_order=[1, 3]).circuit == Circuit(2, (Gate("CNOT", (1, 0)),))
    named = qml.tape.QuantumScript([qml.CNOT(wires=["b", "a"])])
    assert from_pennylane(named).circuit == Circuit(2, (Gate("CNOT", (0, 1)),))
    with pytest.raises(ValueError, match=r"wire 3 .*\[0, 1\]"):
        from_pennylane(tape, wire_order=[0, 1])


def pennylane_refusals():
    qml = pytest.importorskip("pennylane")

    def measured(w):
        qml.RX(w, wires=0)
        outcome = qml.measure(0)
        qml.cond(outcome, qml.X)(wires=1)

    def branching(w):
        (qml.RX if w < 0.5 else qml.RY)(w, wires=0)

    return [
        (measured, "measurements in the middle"),
        (branching, "gates of the circuit depend on the values"),
        (lambda w: qml.RX(w**2, wires=0), "angle of RX on wires .* not linear in w"),
        (lambda w: qml.RX(float(w), wires=0), "not linear"),
        (lambda w: qml.DepolarizingChannel(w, wires=0), "noise"),
        (lambda w: qml.AmplitudeEmbedding(np.array([0.6, 0.8]), wires=0), "prepares a state.*run"),
        (lambda w: qml.RX(np.array([0.1, 0.2]), wires=0), "batch of parameters"),
        ("circuit", "str: pass a PennyLane tape"),
    ]


@pytest.mark.parametrize("number", range(8))
def test_what_is_no_unitary_circuit_is_refused_by_name(qml, number):
    source, message = pennylane_refusals()[number]
    with pytest.raises(ValueError, match=message):
        from_pennylane(source, 0.4)


# Qiskit


@settings(deadline=None, max_examples=25, database=None)
@given(circuits(), st.integers(0, 1000))
def test_every_circuit_comes_back_from_qiskit(circuit, seed):
    pytest.importorskip("qiskit")
    angles = random_angles(circuit.n_angles, seed)
    imported = from_qiskit(to_qiskit(circuit))
    assert (imported.values is None) == bool(circuit.n_angles)
    back = matrix_of(imported.circuit, imported.angles_from(angles))
    torch.testing.assert_close(back, matrix_of(circuit, angles), atol=1e-12, rtol=0)
    if not any(gate.matrix or gate.name == "GPHASE" for gate in circuit.gates):  # a phase has no wire in Qiskit
        assert imported.circuit == circuit
    bound = from_qiskit(to_qiskit(circuit, angles))
    assert bound.circuit.n_angles == 0
    torch.testing.assert_close(matrix_of(bound.circuit, bound.angles), back, atol=1e-12, rtol=0)


def test_qiskits_library_and_definitions_are_taken_apart():
    qiskit = pytest.importorskip("qiskit")
    from qiskit.circuit import Parameter
    from qiskit.circuit.library import QFTGate, RXGate, XXPlusYYGate
    from qiskit.quantum_info import Operator

    a, b = Parameter("a"), Parameter("b")
    source = qiskit.QuantumCircuit(4, global_phase=a - 0.3)
    source.append(QFTGate(4), range(4))
    source.ccx(0, 1, 2)
    source.u(a, 2 * b, 0.5, 1)
    source.cu(a, b, 0.1, 0.2, 3, 0)
    source.append(XXPlusYYGate(a, b), [2, 0])
    source.append(RXGate(b / 3).control(1, ctrl_state=0), [1, 2])
    source.barrier()
    inner = qiskit.QuantumCircuit(2, name="x")  # a gate of the user's that has the name of a standard one
    inner.ry(a + b, 1)
    source.append(inner.to_gate(), [3, 1])
    values = {a: 0.4, b: -1.1}
    imported = from_qiskit(source)
    assert imported.parameters == ("a", "b")
    ours = matrix_of(imported.circuit, imported.angles_from(torch.tensor([0.4, -1.1], dtype=torch.float64)))
    wanted = torch.from_numpy(Operator(source.assign_parameters(values)).data)
    torch.testing.assert_close(ours, wanted, atol=1e-12, rtol=0)


def test_final_measurements_are_dropped():
    qiskit = pytest.importorskip("qiskit")
    source = qiskit.QuantumCircuit(2)
    source.h(0)
    source.measure_all()
    assert from_qiskit(source).circuit == Circuit(2, (Gate("H", (1,)),))


def qiskit_refusals():
    qiskit = pytest.importorskip("qiskit")
    from qiskit.circuit import Parameter

    early, reset, branch, prepared, bent = (qiskit.QuantumCircuit(2, 1) for _ in range(5))
    early.measure(0, 0)
    early.x(0)
    reset.reset(0)
    with branch.if_test((0, 1)):
        branch.x(0)
    prepared.initialize([0.6, 0.8], 0)
    bent.rx(Parameter("a") ** 2, 0)
    return [
        (early, "'x'.*measurements in the middle"),
        (reset, "'reset'.*resets"),
        (branch, "'if_else'.*classical"),
        (prepared, "'initialize' prepares a state"),
        (bent, "not linear"),
    ]


@pytest.mark.parametrize("number", range(5))
def test_what_is_no_unitary_circuit_of_qiskit_is_refused_by_name(number):
    source, message = qiskit_refusals()[number]
    with pytest.raises(ValueError, match=message):
        from_qiskit(source)


@pytest.mark.parametrize(("package", "function"), [("pennylane", from_pennylane), ("qiskit", from_qiskit)])
def test_a_missing_library_is_named_with_the_command_that_installs_it(package, function, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf'{package} is not installed; run: pip install "ketune\[devices\]"'):
        function(None)


# Bound angles


@settings(deadline=None, max_examples=25, database=None)
@given(circuits(), st.integers(0, 1000))
def test_bound_angles_are_the_constants_of_the_rest(circuit, seed):
    angles = random_angles(circuit.n_angles, seed)
    fixed = range(0, circuit.n_angles, 2)
    bound = circuit.bind({k: float(angles[k]) for k in fixed})
    free = angles[[k for k in range(circuit.n_angles) if k not in fixed]]
    torch.testing.assert_close(matrix_of(bound, free), matrix_of(circuit, angles), atol=1e-13, rtol=0)
    assert bound.is_real or not circuit.is_real


def test_binding_an_unknown_angle_is_refused():
    with pytest.raises(ValueError, match=r"bind\(\{2: ...\}\).*0 to 1"):
        ry_ring(2).bind({2: 0.5})


def test_parameters_of_another_number_are_refused():
    pytest.importorskip("qiskit")
    with pytest.raises(ValueError, match=r"\(3,\).*\(\.\.\., 2\)"):
        from_qiskit(to_qiskit(ry_ring(2))).angles_from(torch.zeros(3))
