"""Basis and IQP encoding; amplitude and angle encoding have their tests beside `run`."""

import pennylane as qml
import pytest
import torch
from torch.func import vmap

from ketune.circuits import Circuit, Gate, run, rxryrz_ring, ry_ring, ryrz_ring_ry, to_pennylane

PRECISE = {"atol": 1e-12, "rtol": 0}


def angles_of(circuit, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(circuit.n_angles, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("n_repeats", [1, 2, 3])
@pytest.mark.parametrize("n_wires", [1, 2, 4, 5])
def test_iqp_encoding_is_that_of_pennylane(n_wires, n_repeats):
    circuit = rxryrz_ring(n_wires)
    angles = angles_of(circuit).requires_grad_()
    x = torch.randn(3, n_wires, dtype=torch.float64, requires_grad=True)
    word = "YXZZX"[:n_wires]

    @qml.qnode(qml.device("default.qubit", wires=n_wires), interface="torch", diff_method="backprop")
    def theirs(x):
        qml.IQPEmbedding(x, wires=range(n_wires), n_repeats=n_repeats)
        to_pennylane(circuit)(angles)
        return qml.expval(qml.pauli.string_to_pauli_word(word)), qml.probs(wires=range(n_wires)), qml.state()

    values, probabilities, states = theirs(x)
    options = {"encoding": "iqp", "n_repeats": n_repeats}
    ours = run(circuit, x, angles, readout=[word], **options)[:, 0]
    torch.testing.assert_close(ours, values, **PRECISE)
    torch.testing.assert_close(run(circuit, x, angles, readout="probabilities", **options), probabilities, **PRECISE)
    torch.testing.assert_close(run(circuit, x, angles, readout="amplitudes", **options), states.real, **PRECISE)
    for mine, other in zip(
        torch.autograd.grad(ours.sin().sum(), (x, angles)), torch.autograd.grad(values.sin().sum(), (x, angles))
    ):
        torch.testing.assert_close(mine, other, **PRECISE)


def test_iqp_encoding_takes_missing_features_as_zeros():
    circuit = ryrz_ring_ry(3)
    x, angles = torch.randn(2, 2, dtype=torch.float64), angles_of(circuit)
    padded = torch.nn.functional.pad(x, (0, 1))
    torch.testing.assert_close(
        run(circuit, x, angles, encoding="iqp", n_repeats=2), run(circuit, padded, angles, encoding="iqp", n_repeats=2)
    )


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32, torch.float64])
def test_basis_encoding_is_that_of_pennylane(dtype):
    circuit = rxryrz_ring(3, 2)
    angles = angles_of(circuit)
    bits = torch.tensor([[j >> 2 & 1, j >> 1 & 1, j & 1] for j in range(8)])

    @qml.qnode(qml.device("default.qubit", wires=3), interface="torch", diff_method="backprop")
    def theirs(bits):
        qml.BasisEmbedding(bits, wires=range(3))
        to_pennylane(circuit)(angles)
        return qml.state()

    expected = torch.stack([theirs(row.numpy()) for row in bits])
    ours = run(circuit, bits.to(dtype), angles, encoding="basis", readout="amplitudes")
    torch.testing.assert_close(ours, expected.real, **PRECISE)


def test_basis_encoding_leaves_wires_without_a_bit_in_zero():
    idle = Circuit(3, ())
    out = run(idle, torch.tensor([1, 0]), torch.zeros(0), encoding="basis", readout="probabilities")
    torch.testing.assert_close(out, torch.eye(8)[0b100])


def test_basis_encoding_refuses_other_values_in_every_mode():
    circuit, angles = ry_ring(2), torch.zeros(2)
    torch._dynamo.reset()

    def encode(x):
        return run(circuit, x, angles, encoding="basis")

    compiled = torch.compile(encode, fullgraph=True, backend="aot_eager")
    good, bad = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 1.0], [1.0, 0.5]])
    for call in (encode, vmap(encode), compiled):
        torch.testing.assert_close(call(good), torch.tensor([[1.0, -1.0]]))
        with pytest.raises(ValueError, match=r"0 or 1, not 0\.5"):
            call(bad)


def test_no_gradient_reaches_bits():
    circuit = ry_ring(2)
    x = torch.ones(3, 2, requires_grad=True)
    angles = torch.zeros(2, requires_grad=True)
    out = run(circuit, x, angles, encoding="basis", readout=["XI"])
    assert torch.autograd.grad(out.sum(), x, allow_unused=True)[0] is None


def test_encodings_refuse_more_features_than_wires_and_repeats_that_they_do_not_have():
    circuit, angles = Circuit(2, (Gate("RY", (0,), 0),)), torch.zeros(1)
    for encoding in ("angle", "basis", "iqp"):
        with pytest.raises(ValueError, match=f"3 features: {encoding} encoding on 2 wires takes 1 to 2"):
            run(circuit, torch.zeros(3), angles, encoding=encoding)
    with pytest.raises(ValueError, match=r"n_repeats=2.*only for encoding='iqp'"):
        run(circuit, torch.zeros(2), angles, encoding="angle", n_repeats=2)
    with pytest.raises(ValueError, match="n_repeats=0"):
        run(circuit, torch.zeros(2), angles, encoding="iqp", n_repeats=0)
