import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.circuits import dense_reference as dense

from ketune.circuits import ANSATZE, ENTANGLERS, Circuit, Gate, run, rxryrz_ring, ry_ring, ryrz_ring_ry

WORDS = ["XYI", "ZZI", "IIY", "YXZ", "IZZ", "III"]


def batch(n_samples, n_features, circuit, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n_samples, n_features, dtype=dtype, generator=generator)
    angles = (2 * torch.rand(circuit.n_angles, dtype=dtype, generator=generator) - 1) * math.pi
    return x.requires_grad_(), angles.requires_grad_()


@pytest.mark.parametrize("readout", ["pauli_z", "probabilities", "amplitudes", WORDS], ids=str)
@pytest.mark.parametrize("name", ANSATZE)
@pytest.mark.parametrize("entangler", ENTANGLERS)
def test_readouts_are_those_of_the_dense_matrices(name, entangler, readout):
    circuit = ANSATZE[name](3, 2, entangler)
    x, angles = batch(4, 7, circuit)
    expected = dense.readouts(circuit, x.detach(), angles.detach(), readout)
    torch.testing.assert_close(run(circuit, x, angles, readout=readout).detach(), expected, atol=1e-13, rtol=0)


@pytest.mark.parametrize("readout", ["pauli_z", "probabilities", "amplitudes", WORDS], ids=str)
@pytest.mark.parametrize(("encoding", "n_features"), [("amplitude", 6), ("angle", 3), ("angle", 2)])
def test_gradients_pass_gradcheck(readout, encoding, n_features):
    circuit = ryrz_ring_ry(3)
    x, angles = batch(2, n_features, circuit)
    n_readouts = 5 if readout == "amplitudes" else None
    assert torch.autograd.gradcheck(
        lambda x, angles: run(circuit, x, angles, encoding=encoding, readout=readout, n_readouts=n_readouts),
        (x, angles),
    )


@pytest.mark.parametrize("readout", ["pauli_z", "probabilities", WORDS], ids=str)
def test_angle_gradients_follow_the_parameter_shift_rule(readout):
    circuit = rxryrz_ring(3, 2)
    x, angles = batch(3, 8, circuit)
    out = run(circuit, x, angles, readout=readout)
    weights = torch.randn_like(out)
    (gradient,) = torch.autograd.grad(out, angles, weights)
    with torch.no_grad():
        shifts = math.pi / 2 * torch.eye(circuit.n_angles, dtype=torch.float64)
        shifted = [
            (run(circuit, x, angles + s, readout=readout) - run(circuit, x, angles - s, readout=readout)) / 2
            for s in shifts
        ]
    expected = torch.stack([(weights * change).sum() for change in shifted])
    torch.testing.assert_close(gradient, expected, atol=1e-13, rtol=0)


def test_angle_encoding_turns_each_wire_by_its_feature():
    x = torch.tensor([[0.3, -1.1]], dtype=torch.float64)
    out = run(ry_ring(3, entangler="none"), x, torch.zeros(3, dtype=torch.float64), encoding="angle")
    torch.testing.assert_close(out, torch.tensor([[math.cos(0.3), math.cos(1.1), 1.0]], dtype=torch.float64))


def test_wire_zero_is_the_most_significant_bit():
    flip_first = Circuit(3, (Gate("X", (0,)),))
    out = run(flip_first, torch.eye(8)[:1], torch.zeros(0), readout="probabilities")
    assert out.argmax().item() == 0b100


@settings(deadline=None, max_examples=30)
@given(
    n_wires=st.integers(1, 7),
    name=st.sampled_from(sorted(ANSATZE)),
    seed=st.integers(0, 10**6),
    scale=st.floats(1e-3, 1e3),
)
def test_laws_of_quantum_states_hold(n_wires, name, seed, scale):
    circuit = ANSATZE[name](n_wires, 2)
    x, angles = batch(2, 2**n_wires, circuit, seed)
    x, angles = x.detach(), angles.detach()
    probabilities = run(circuit, x, angles, readout="probabilities")
    assert (probabilities >= 0).all()
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(2, dtype=torch.float64))
    values = run(circuit, x, angles)
    assert (values.abs() <= 1 + 1e-12).all()
    # A state has neither length nor overall sign.
    torch.testing.assert_close(run(circuit, -scale * x, angles), values)
    # The first amplitudes keep both: they are linear.
    a, b = x
    amplitudes = run(circuit, torch.stack((a, b, a - scale * b)), angles, readout="amplitudes")
    torch.testing.assert_close(amplitudes[2], amplitudes[0] - scale * amplitudes[1])
    # A circuit keeps lengths; its real parts can only be shorter.
    assert (amplitudes[:2].norm(dim=-1) <= x.norm(dim=-1) * (1 + 1e-12)).all()
    if circuit.is_real:
        torch.testing.assert_close(amplitudes[:2].norm(dim=-1), x.norm(dim=-1))


def test_angles_outside_the_light_cone_of_a_readout_have_no_gradient():
    # Without entangler, wire 2 never meets wire 0; with one linear chain, wire 0 feels only itself.
    for entangler, wire in (("none", 1), ("linear", 0)):
        circuit = rxryrz_ring(4, 1, entangler)
        x, angles = batch(5, 16, circuit)
        (gradient,) = torch.autograd.grad(run(circuit, x, angles)[:, wire].sum(), angles)
        inside = gradient.view(4, 3)[wire, :2].abs()
        outside = gradient.view(4, 3)[torch.arange(4) != wire].abs()
        assert inside.min() > 1e-3
        assert outside.max() < 1e-14
    # An RZ right before a Z readout turns only the phase.
    assert gradient.view(4, 3)[:, 2].abs().max() < 1e-14


def test_a_zero_vector_reads_out_as_zeros_with_zero_gradients():
    circuit = ryrz_ring_ry(3)
    _, angles = batch(1, 8, circuit, dtype=torch.float32)
    for readout in ("pauli_z", "probabilities", "amplitudes", WORDS):
        x = torch.zeros(2, 8, requires_grad=True)
        out = run(circuit, x, angles, readout=readout)
        assert torch.equal(out, torch.zeros_like(out))
        d_x, d_angles = torch.autograd.grad(out.sum(), (x, angles))
        assert d_x.isfinite().all()
        assert torch.equal(d_angles, torch.zeros_like(d_angles))
        if readout != "amplitudes":
            assert torch.equal(d_x, torch.zeros_like(d_x))


@pytest.mark.parametrize("lead", [(), (3,), (2, 3), (0,), (2, 0, 3)])
@pytest.mark.parametrize("readout", ["pauli_z", "probabilities", "amplitudes", WORDS], ids=str)
def test_any_leading_dimensions_are_a_batch(lead, readout):
    circuit = rxryrz_ring(3)
    x, angles = torch.randn(*lead, 7, requires_grad=True), torch.randn(circuit.n_angles, requires_grad=True)
    out = run(circuit, x, angles, readout=readout)
    assert out.shape[:-1] == lead
    d_x, d_angles = torch.autograd.grad(out.sum(), (x, angles))
    assert d_x.shape == x.shape
    if x.numel() == 0:
        assert torch.equal(d_angles, torch.zeros_like(d_angles))
    else:
        flat = run(circuit, x.reshape(-1, 7), angles, readout=readout)
        torch.testing.assert_close(out.reshape(flat.shape), flat)


def test_features_may_be_any_view():
    circuit = ry_ring(3)
    x, angles = torch.randn(8, 5), torch.randn(3)
    torch.testing.assert_close(run(circuit, x.T, angles), run(circuit, x.T.contiguous(), angles))
    row = torch.randn(1, 8)
    torch.testing.assert_close(run(circuit, row.expand(4, 8), angles), run(circuit, row, angles).expand(4, 3))


@pytest.mark.parametrize("n_wires", [1, 2, 3, 7, 10, 12, 14])
def test_float32_stays_near_float64_up_to_14_wires(n_wires):
    circuit = rxryrz_ring(n_wires, 2)
    x, angles = batch(3, 2**n_wires, circuit)
    precise = run(circuit, x, angles)
    gradients = torch.autograd.grad(precise.sum(), (x, angles))
    x, angles = x.detach().float().requires_grad_(), angles.detach().float().requires_grad_()
    out = run(circuit, x, angles)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.double(), precise, atol=5e-6, rtol=0)
    for ours, theirs in zip(torch.autograd.grad(out.sum(), (x, angles)), gradients):
        assert (ours - theirs).norm() < 1e-5 * theirs.norm()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_features_are_lifted_to_float32(dtype):
    circuit = rxryrz_ring(5)
    x, angles = batch(6, 32, circuit, dtype=torch.float32)
    x = x.detach().to(dtype).requires_grad_()
    out = run(circuit, x, angles)
    assert out.dtype == torch.float32
    assert torch.equal(out, run(circuit, x.float(), angles))
    d_x, d_angles = torch.autograd.grad(out.sum(), (x, angles))
    assert (d_x.dtype, d_angles.dtype) == (dtype, torch.float32)


@pytest.mark.parametrize("readout", ["pauli_z", "amplitudes"])
def test_autocast_does_not_reach_the_circuit(readout):
    circuit = rxryrz_ring(5)
    x, angles = batch(6, 32, circuit, dtype=torch.float32)
    expected = run(circuit, x, angles, readout=readout)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = run(circuit, x, angles, readout=readout)
        gradients = torch.autograd.grad(out.sum(), (x, angles))
    assert torch.equal(out, expected)
    for ours, theirs in zip(gradients, torch.autograd.grad(expected.sum(), (x, angles))):
        assert torch.equal(ours, theirs)


def test_only_asked_gradients_are_computed():
    circuit = rxryrz_ring(4)
    x, angles = batch(3, 16, circuit)
    both = torch.autograd.grad(run(circuit, x, angles).sum(), (x, angles))
    (alone,) = torch.autograd.grad(run(circuit, x, angles.detach()).sum(), x)
    torch.testing.assert_close(alone, both[0])
    (alone,) = torch.autograd.grad(run(circuit, x.detach(), angles).sum(), angles)
    torch.testing.assert_close(alone, both[1])


def test_wrong_arguments_are_refused_with_what_is_allowed():
    circuit, x, angles = ry_ring(3), torch.randn(2, 8), torch.zeros(3)
    with pytest.raises(ValueError, match=r"9 features: amplitude encoding on 3 wires takes 1 to 8"):
        run(circuit, torch.randn(2, 9), angles)
    with pytest.raises(ValueError, match=r"4 features: angle encoding on 3 wires takes 1 to 3"):
        run(circuit, torch.randn(2, 4), angles, encoding="angle")
    with pytest.raises(ValueError, match=r"shape \(4,\).*takes \(\.\.\., 3\)"):
        run(circuit, x, torch.zeros(4))
    with pytest.raises(ValueError, match=r"encoding='qft'.*'amplitude', 'angle'"):
        run(circuit, x, angles, encoding="qft")
    with pytest.raises(ValueError, match=r"15 wires.*at most 14"):
        run(ry_ring(15), x, torch.zeros(15))
    with pytest.raises(ValueError, match=r"floating-point.*int64"):
        run(circuit, torch.ones(2, 8, dtype=torch.int64), angles)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("n_wires", [3, 8, 10])
def test_a_gpu_gives_what_the_cpu_gives(n_wires):
    circuit = ryrz_ring_ry(n_wires, 2)
    x, angles = batch(300, 2**n_wires - 1, circuit)
    expected = run(circuit, x, angles)
    out = run(circuit, x.cuda(), angles.cuda())
    torch.testing.assert_close(out.cpu(), expected)
    for ours, theirs in zip(
        torch.autograd.grad(out.sum(), (x, angles)), torch.autograd.grad(expected.sum(), (x, angles))
    ):
        torch.testing.assert_close(ours, theirs)
