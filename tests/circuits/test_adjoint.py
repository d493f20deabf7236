import pennylane as qml
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ketune.circuits import (
    Circuit,
    Gate,
    Hamiltonian,
    evolve,
    expectation,
    heisenberg,
    rxryrz_ring,
    ry_ring,
    simulate,
    to_pennylane,
    transverse_ising,
)
from ketune.circuits._blocks import fuse
from ketune.circuits._gates import GATES


@st.composite
def circuits(draw):
    n_wires = draw(st.integers(1, 8))
    gates, n_angles = [], 0
    for _ in range(draw(st.integers(0, 20))):
        name = draw(st.sampled_from([name for name in GATES if GATES[name].n_wires <= n_wires]))
        wires = draw(st.permutations(range(n_wires)))[: GATES[name].n_wires]
        angle = draw(st.integers(0, n_angles)) if GATES[name].has_angle else None
        n_angles = n_angles if angle is None else max(n_angles, angle + 1)
        gates.append(Gate(name, tuple(wires), angle))
    return Circuit(n_wires, tuple(gates))


def random_angles(circuit, *shape):
    return torch.randn(*shape, circuit.n_angles, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@settings(deadline=None, max_examples=40)
@given(circuits(), st.sampled_from([(), (0,), (2,), (2, 3)]), st.booleans())
def test_blocks_do_what_the_gates_do_one_by_one(circuit, batch, with_state):
    angles = random_angles(circuit, *batch).requires_grad_()
    state = None
    if with_state:
        generator = torch.Generator().manual_seed(1)
        shape = (2**circuit.n_wires,) if len(batch) == 1 else (3, 2**circuit.n_wires)
        state = torch.randn(shape, dtype=torch.complex128, generator=generator).requires_grad_()
    inputs = [angles] if state is None else [angles, state]
    ours, plain = evolve(circuit, angles, state), simulate(circuit, angles, state)
    assert ours.dtype == plain.dtype
    torch.testing.assert_close(ours, plain, atol=1e-12, rtol=0)
    cotangent = torch.randn(plain.shape, dtype=plain.dtype, generator=torch.Generator().manual_seed(2))
    if plain.requires_grad:
        expected = torch.autograd.grad(plain, inputs, cotangent, materialize_grads=True)
        actual = torch.autograd.grad(ours, inputs, cotangent, materialize_grads=True)
        torch.testing.assert_close(actual, expected, atol=1e-12, rtol=0)


@settings(deadline=None)
@given(circuits(), st.integers(2, 5))
def test_blocks_are_small_and_hold_every_gate(circuit, size):
    blocks = fuse(circuit, size).blocks
    assert all(block.circuit.n_wires <= size for block in blocks)
    assert sum(len(block.circuit.gates) for block in blocks) == len(circuit.gates)


def test_a_layer_of_a_ring_takes_few_passes():
    assert len(fuse(rxryrz_ring(20, 2), 5).blocks) == 10


@pytest.mark.parametrize("n_wires", [4, 9])
def test_energies_and_gradients_are_those_of_pennylane(n_wires):
    circuit, hamiltonian = rxryrz_ring(n_wires, 2), heisenberg(n_wires, (1.0, 0.5, -0.3))
    operator = qml.dot(list(hamiltonian.coefficients), [qml.pauli.string_to_pauli_word(w) for w in hamiltonian.words])
    apply = to_pennylane(circuit)

    @qml.qnode(qml.device("default.qubit", wires=n_wires), interface="torch", diff_method="backprop")
    def energy(angles):
        apply(angles)
        return qml.expval(operator)

    angles = random_angles(circuit).requires_grad_()
    theirs, ours = energy(angles), expectation(circuit, hamiltonian, angles)
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)
    torch.testing.assert_close(
        torch.autograd.grad(ours, angles), torch.autograd.grad(theirs, angles), atol=1e-12, rtol=0
    )


def test_gradients_are_the_parameter_shift_rule_at_sixteen_wires():
    circuit, hamiltonian = ry_ring(16, 2), transverse_ising(16)
    angles = random_angles(circuit).requires_grad_()
    (gradient,) = torch.autograd.grad(expectation(circuit, hamiltonian, angles), angles)
    for index in (0, 15, 20):
        shift = torch.zeros_like(angles)
        shift[index] = torch.pi / 2
        up, down = (expectation(circuit, hamiltonian, (angles + sign * shift).detach()) for sign in (1, -1))
        torch.testing.assert_close(gradient[index], (up - down) / 2, atol=1e-11, rtol=0)


def test_float32_gradients_keep_six_digits_at_sixteen_wires():
    circuit, hamiltonian = rxryrz_ring(16, 2), transverse_ising(16)
    angles = random_angles(circuit).requires_grad_()
    single = angles.detach().float().requires_grad_()
    (exact,) = torch.autograd.grad(expectation(circuit, hamiltonian, angles), angles)
    (rounded,) = torch.autograd.grad(expectation(circuit, hamiltonian, single), single)
    assert float((rounded - exact).abs().max() / exact.abs().max()) < 5e-6


def test_second_derivatives_are_right():
    circuit, hamiltonian = rxryrz_ring(6), Hamiltonian.from_dict({"ZXIIYZ": 1.0, "ZZIIII": 0.5})
    angles = random_angles(circuit)
    state = torch.randn(64, dtype=torch.complex128, generator=torch.Generator().manual_seed(1))
    plain = torch.autograd.functional.hessian(lambda a: hamiltonian.expectation(simulate(circuit, a, state)), angles)
    ours = torch.autograd.functional.hessian(lambda a: expectation(circuit, hamiltonian, a, state), angles)
    torch.testing.assert_close(ours, plain, atol=1e-11, rtol=0)
    small = rxryrz_ring(2)
    starts = torch.randn(2, 4, dtype=torch.complex128, generator=torch.Generator().manual_seed(1)).requires_grad_()
    batch = random_angles(small, 2).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda a, s: evolve(small, a, s), (batch, starts))


def test_a_cat_state_of_twenty_wires_has_its_correlations():
    gates = (Gate("H", (0,)), *(Gate("CNOT", (wire, wire + 1)) for wire in range(19)))
    words = {"Z" + "I" * 18 + "Z": 1.0, "X" * 20: 10.0, "Z" + "I" * 19: 100.0}
    energy = expectation(Circuit(20, gates), Hamiltonian.from_dict(words), torch.zeros(0))
    assert float(energy) == pytest.approx(11.0, rel=1e-5)


def test_the_backward_pass_keeps_one_state_beside_the_first():
    circuit = rxryrz_ring(12, 3)
    saved = []

    def keep(tensor):
        saved.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        evolve(circuit, random_angles(circuit).requires_grad_())
    assert sum(numel >= 2**12 for numel in saved) == 2


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match=r"\(3,\).*\(\.\.\., 6\)"):
        evolve(rxryrz_ring(2), torch.zeros(3))
    with pytest.raises(ValueError, match=r"\(5,\).*\(\.\.\., 4\)"):
        evolve(rxryrz_ring(2), torch.zeros(6), torch.zeros(5))
    with pytest.raises(ValueError, match="on 3 wires for a circuit on 2"):
        expectation(rxryrz_ring(2), transverse_ising(3), torch.zeros(6))
