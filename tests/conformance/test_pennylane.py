"""Values and gradients against PennyLane, in float64."""

import math

import pytest
import torch

from ketune.circuits import ANSATZE, ENTANGLERS, Circuit, Gate, run, to_pennylane
from ketune.circuits._gates import GATES

qml = pytest.importorskip("pennylane")


def reference(circuit, x, angles, encoding, readout, n_readouts=None):
    """What PennyLane's default.qubit computes by backpropagation; x is (B, n_features)."""
    n_wires = circuit.n_wires
    queue = to_pennylane(circuit)

    @qml.qnode(qml.device("default.qubit", wires=n_wires), interface="torch", diff_method="backprop")
    def node(x, angles):
        if encoding == "amplitude":
            qml.AmplitudeEmbedding(x, wires=range(n_wires), pad_with=0.0, normalize=True)
        else:
            for wire in range(x.shape[-1]):
                qml.RY(x[..., wire], wires=wire)
        queue(angles)
        if readout == "probabilities":
            return qml.probs(wires=range(n_wires))
        if readout == "amplitudes":
            return qml.state()
        words = readout
        if readout == "pauli_z":
            words = ["I" * wire + "Z" + "I" * (n_wires - wire - 1) for wire in range(n_wires)]
        wire_map = {wire: wire for wire in range(n_wires)}
        return [qml.expval(qml.pauli.string_to_pauli_word(word, wire_map)) for word in words]

    out = node(x, angles)
    if readout == "amplitudes":
        length = x.norm(dim=-1, keepdim=True) if encoding == "amplitude" else 1
        return out.real[:, :n_readouts] * length
    return out if readout == "probabilities" else torch.stack(list(out), -1)


def compare(circuit, n_features, encoding, readout, n_readouts=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3, n_features, dtype=torch.float64, generator=generator).requires_grad_()
    angles = torch.rand(circuit.n_angles, dtype=torch.float64, generator=generator) * 2 * math.pi - math.pi
    angles.requires_grad_()
    expected = reference(circuit, x, angles, encoding, readout, n_readouts)
    out = run(circuit, x, angles, encoding=encoding, readout=readout, n_readouts=n_readouts)
    torch.testing.assert_close(out, expected, atol=1e-10, rtol=0)
    weights = torch.randn(out.shape, dtype=torch.float64, generator=generator)
    wanted = torch.autograd.grad(expected, (x, angles), weights, allow_unused=True)
    for ours, theirs in zip(torch.autograd.grad(out, (x, angles), weights), wanted):
        torch.testing.assert_close(ours, theirs if theirs is not None else torch.zeros_like(ours), atol=1e-10, rtol=0)


WORDS = ["XYIZX", "ZZIII", "IIYXI", "YIIIZ", "IZZII"]


@pytest.mark.parametrize("readout", ["pauli_z", "probabilities", "amplitudes", WORDS], ids=["z", "p", "a", "words"])
@pytest.mark.parametrize(("encoding", "n_features"), [("amplitude", 27), ("angle", 4)])
@pytest.mark.parametrize("entangler", ENTANGLERS)
@pytest.mark.parametrize("name", ANSATZE)
def test_five_wires_agree(name, entangler, encoding, n_features, readout):
    n_readouts = 11 if readout == "amplitudes" else None
    compare(ANSATZE[name](5, 2, entangler), n_features, encoding, readout, n_readouts)


@pytest.mark.parametrize("n_wires", [1, 2, 3, 4, 6, 7, 8, 9])
@pytest.mark.parametrize("name", ANSATZE)
def test_widths_agree(name, n_wires):
    compare(ANSATZE[name](n_wires), max(1, 2**n_wires - n_wires), "amplitude", "pauli_z")


def test_every_gate_agrees():
    gates, n_angles = [Gate("H", (wire,)) for wire in range(3)], 0
    for repeat in range(2):
        for name, spec in GATES.items():
            wires = (n_angles % 3, (n_angles + 1 + repeat) % 3)[: spec.n_wires]
            gates.append(Gate(name, wires, n_angles if spec.has_angle else None))
            n_angles += spec.has_angle
    for readout in ("probabilities", "amplitudes"):
        compare(Circuit(3, tuple(gates)), 7, "amplitude", readout)
