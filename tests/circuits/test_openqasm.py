"""OpenQASM programs of ours and of others, read back."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.circuits.random_circuits import circuits

from ketune.circuits import Circuit, Gate, from_openqasm3, simulate, to_openqasm3, to_qiskit


def matrix_of(circuit, angles=()):
    angles = torch.as_tensor(angles, dtype=torch.float64)
    return simulate(circuit, angles, torch.eye(2**circuit.n_wires, dtype=torch.complex128)).T


def same_up_to_a_phase(ours, wanted):
    wanted = torch.as_tensor(wanted)
    phase = (wanted.conj() * ours).sum()
    torch.testing.assert_close(ours, wanted * phase / phase.abs(), atol=1e-12, rtol=0)


@settings(deadline=None, max_examples=40, database=None)
@given(circuits(), st.integers(0, 1000))
def test_every_circuit_comes_back_exactly(circuit, seed):
    angles = torch.randn(circuit.n_angles, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    imported = from_openqasm3(to_openqasm3(circuit))
    assert imported.parameters == tuple(f"angle_{k}" for k in range(circuit.n_angles))
    torch.testing.assert_close(
        matrix_of(imported.circuit, imported.angles_from(angles)), matrix_of(circuit, angles), atol=1e-12, rtol=0
    )
    if not any(gate.matrix or gate.name == "GPHASE" for gate in circuit.gates):
        assert imported.circuit == circuit
    bound = from_openqasm3(to_openqasm3(circuit, angles))
    torch.testing.assert_close(matrix_of(bound.circuit), matrix_of(circuit, angles), atol=1e-12, rtol=0)


@settings(deadline=None, max_examples=15, database=None)
@given(circuits(), st.integers(0, 1000))
def test_programs_written_by_qiskit_are_understood(circuit, seed):
    pytest.importorskip("qiskit")
    from qiskit import qasm3

    angles = torch.randn(circuit.n_angles, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    if any(gate.name == "GPHASE" for gate in circuit.gates):  # Qiskit writes an invalid gate on no qubits
        return
    imported = from_openqasm3(qasm3.dumps(to_qiskit(circuit)))
    same_up_to_a_phase(matrix_of(imported.circuit, imported.angles_from(angles)), matrix_of(circuit, angles))


def test_a_program_of_version_2_agrees_with_qiskit():
    qiskit = pytest.importorskip("qiskit")
    from qiskit.quantum_info import Operator

    program = """OPENQASM 2.0;
    include "qelib1.inc";
    qreg a[2]; qreg b[1]; creg c[3];
    gate mine(t, s) x, y { u3(t, s/2, -s) x; cx x, y; barrier x; rz(cos(t)*2) y; }
    h a; // both
    mine(0.3, -pi/4) a[0], b[0];
    cu3(0.1, 0.2, 0.3) a[1], b[0];
    csx a[0], b[0]; ccx a[0], a[1], b[0]; cswap b[0], a[0], a[1];
    u2(0.4, 0.5) a[1]; sxdg b[0]; rzz(1e-1) a[0], b[0]; ch a[1], b[0]; cu1(pi/3) a[0], a[1];
    cx a, b[0];
    measure a[0] -> c[0];
    """
    wanted = Operator(qiskit.QuantumCircuit.from_qasm_str(program).remove_final_measurements(inplace=False)).data
    same_up_to_a_phase(matrix_of(from_openqasm3(program).circuit), wanted)


@pytest.mark.parametrize(
    ("call", "gates"),
    [
        ("ctrl @ x q[0], q[1];", "cx q[0], q[1];"),
        ("ctrl(2) @ x q[0], q[1], q[2];", "ccx q[0], q[1], q[2];"),
        ("ctrl @ cz q[0], q[1], q[2];", "h q[2]; ccx q[0], q[1], q[2]; h q[2];"),
        ("ctrl @ swap q[0], q[1], q[2];", "cswap q[0], q[1], q[2];"),
        ("ctrl @ gphase(0.3) q[1];", "p(0.3) q[1];"),
        ("ctrl @ U(0.1, 0.2, 0.3) q[0], q[1];", "cu(0.1, 0.2, 0.3, 0) q[0], q[1];"),
        ("ctrl @ s q[0], q[1];", "cp(pi/2) q[0], q[1];"),
        ("negctrl @ ry(0.4) q[0], q[1];", "x q[0]; cry(0.4) q[0], q[1]; x q[0];"),
        ("inv @ U(0.1, 0.2, 0.3) q[0];", "p(-0.2) q[0]; ry(-0.1) q[0]; p(-0.3) q[0];"),
        ("inv @ sx q[0];", "sx q[0]; x q[0];"),
        ("pow(3) @ t q[0];", "t q[0]; s q[0];"),
        ("pow(-2) @ t q[0];", "sdg q[0];"),
        ("inv @ iswap q[0], q[1];", "iswap q[0], q[1]; z q[0]; z q[1];"),
        ("const float[64] a = 2 ** 3 / -4; rx(a * (pi + 1)) q[0];", f"rx({-2 * (math.pi + 1)!r}) q[0];"),
        ("h q;", "h q[0]; h q[1]; h q[2];"),
        ("gate two a, b { h b; inv @ t a; gphase(0.5); } two q[2], q[0];", "h q[0]; tdg q[2]; gphase(0.5);"),
        # A definition in the program stands above the library.
        ("gate rx(t) a { ry(t) a; } rx(0.2) q[1];", "ry(0.2) q[1];"),
    ],
)
def test_modifiers_and_definitions_mean_what_the_language_says(call, gates):
    ours, wanted = (from_openqasm3(f"OPENQASM 3;\nqubit[3] q;\n{text}").circuit for text in (call, gates))
    torch.testing.assert_close(matrix_of(ours), matrix_of(wanted), atol=1e-14, rtol=0)


def test_inputs_become_angles():
    imported = from_openqasm3("input float[64] a; input angle b; qubit q; rx(-a/2 + 1) q; rz(b) q; rx(1 - a/2) q;")
    assert imported.names == ("-0.5*a + 1", "b")
    assert imported.parameters == ("a", "b")
    assert imported.circuit == Circuit(1, (Gate("RX", (0,), 0), Gate("RZ", (0,), 1), Gate("RX", (0,), 0)))
    assert imported.angles is None


def test_the_qubit_declared_first_is_the_last_wire_and_final_measurements_are_dropped():
    program = "qubit a; /* two\n more */ qubit[2] b; bit[3] c; cx a, b[1]; c[0] = measure a; measure b;"
    assert from_openqasm3(program).circuit == Circuit(3, (Gate("CNOT", (2, 0)),))


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("qubit q; c = measure q;\nx q;", "line 2: 'x' after a measurement"),
        ("qubit q; reset q;", "'reset'.*resets"),
        ("qubit q; bit c;\n\nif (c == 1) x q;", "line 3: 'if'.*classical control"),
        ("qubit q; foo q;", "gate 'foo' is not known"),
        ("qubit q; x r;", "'r' is not a gate or qubit"),
        ("qubit q; rx q;", "'rx' takes 1 angle.*1 distinct"),
        ("qubit[2] q; cx q[0], q[0];", "2 distinct"),
        ("qubit[2] q; x q[2];", r"q\[2\].*2 qubits"),
        ("qubit[2] a; qubit[3] b; cx a, b;", "different lengths"),
        ("input float a; qubit q; rx(a * a) q;", "not linear"),
        ("input float a; qubit q; rx(sin(a)) q;", "constant is expected"),
        ("input int a; qubit q;", "type 'int'"),
        ('include "other.inc"; qubit q;', "'other.inc'"),
        ("qubit q; pow(1/2) @ x q;", "integer"),
        ("qubit q; x q", "';' is missing"),
        ("qubit q; rx(1 q;", "expected|in an expression"),
        ("x q;", "'q'"),
        ("bit c;", "declares no qubits"),
        ("qubit q; rx(1/0) q;", "division by zero"),
    ],
)
def test_what_is_not_understood_is_refused_with_its_line(program, message):
    with pytest.raises(ValueError, match=message):
        from_openqasm3(program)
