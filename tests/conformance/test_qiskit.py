"""Exported circuits against Qiskit's own simulator, in float64."""

import pytest
import torch

from ketune.circuits import ANSATZE, Circuit, Gate, draw, run, ry_ring, simulate, to_openqasm3, to_qiskit
from ketune.circuits._gates import GATES

qiskit = pytest.importorskip("qiskit")
quantum_info = pytest.importorskip("qiskit.quantum_info")

EVERY_GATE = Circuit(
    3,
    tuple(
        Gate(name, (k % 3, (k + 1) % 3)[: spec.n_wires], None)
        for k, (name, spec) in enumerate(GATES.items())
        if not spec.has_angle
    )
    + tuple(
        Gate(name, ((k + 1) % 3, k % 3)[: spec.n_wires], k)
        for k, (name, spec) in enumerate((name, spec) for name, spec in GATES.items() if spec.has_angle)
    ),
)
CIRCUITS = {**{name: build(4, 2) for name, build in ANSATZE.items()}, "every gate": EVERY_GATE}


@pytest.mark.parametrize("name", CIRCUITS)
def test_statevectors_agree_index_by_index(name):
    circuit = CIRCUITS[name]
    angles = torch.randn(circuit.n_angles, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    state = torch.from_numpy(quantum_info.Statevector(to_qiskit(circuit, angles)).data)
    ours = simulate(circuit, angles)
    torch.testing.assert_close(ours.to(torch.complex128), state, atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", CIRCUITS)
def test_embedded_features_agree_with_an_evolved_statevector(name):
    circuit = CIRCUITS[name]
    generator = torch.Generator().manual_seed(2)
    angles = torch.randn(circuit.n_angles, dtype=torch.float64, generator=generator)
    x = torch.randn(2**circuit.n_wires, dtype=torch.float64, generator=generator)
    evolved = quantum_info.Statevector((x / x.norm()).numpy()).evolve(to_qiskit(circuit, angles))
    # Qiskit counts its qubits, and writes its Pauli words, from the other end.
    words = ["Z" * circuit.n_wires, "X" + "I" * (circuit.n_wires - 1), "Y" * 2 + "Z" * (circuit.n_wires - 2)]
    expected = [evolved.expectation_value(quantum_info.Pauli(word)).real for word in words]
    out = run(circuit, x, angles, readout=words)
    torch.testing.assert_close(out, torch.tensor(expected, dtype=torch.float64), atol=1e-12, rtol=0)
    probabilities = torch.from_numpy(evolved.probabilities())
    torch.testing.assert_close(run(circuit, x, angles, readout="probabilities"), probabilities, atol=1e-12, rtol=0)


def test_free_parameters_are_ours_in_order():
    circuit = to_qiskit(ANSATZE["ryrz_ring_ry"](3))
    assert [parameter.name for parameter in circuit.parameters] == [f"angle[{k}]" for k in range(9)]


def test_openqasm3_names_every_gate():
    text = to_openqasm3(ry_ring(3), torch.tensor([0.5, 0.25, 0.125], dtype=torch.float64))
    assert text.startswith("OPENQASM 3.0;")
    # Wire 0 is qubit 2.
    assert "ry(0.5) q[2];" in text
    assert text.count("cx ") == 3
    assert "input float" in to_openqasm3(ry_ring(3))


def test_drawings_show_wire_zero_on_top():
    lines = draw(ry_ring(2), torch.tensor([0.5, 0.25])).splitlines()
    wires = [line for line in lines if line.startswith("wire_")]
    assert "Ry(0.5)" in wires[0]
    assert wires[0].startswith("wire_0")
    assert "Ry(0.25)" in wires[1]
