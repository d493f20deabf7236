"""Random circuits of every gate: the fast simulator against the plain one, in both forms of execution."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.circuits.random_circuits import circuits

from ketune.circuits import Circuit, Gate, run, rxryrz_ring, ry_ring, ryrz_ring_ry, simulate
from ketune.circuits._plan import Plan, describe, program


@pytest.fixture(params=["native", "matrix", "layers"])
def form(request, monkeypatch):
    """Forces one of the ways to run a plan."""

    def forced(plan, n_samples, device_type):
        return "matrix" if plan.readout == "amplitudes" else request.param

    monkeypatch.setattr(Plan, "form", forced)
    return request.param


def compare(circuit, readout_of_states, seed, **arguments):
    """Values and both gradients of `run` against those of `simulate`."""
    generator = torch.Generator().manual_seed(seed)
    n_features = int(torch.randint(1, 2**circuit.n_wires + 1, (), generator=generator))
    x = torch.randn(3, n_features, dtype=torch.float64, generator=generator).requires_grad_()
    angles = torch.randn(circuit.n_angles, dtype=torch.float64, generator=generator).requires_grad_()
    padded = torch.nn.functional.pad(x, (0, 2**circuit.n_wires - n_features))
    expected = readout_of_states(simulate(circuit, angles, padded), padded.square().sum(-1, keepdim=True))
    out = run(circuit, x, angles, **arguments)
    torch.testing.assert_close(out, expected, atol=1e-11, rtol=1e-11)
    weights = torch.randn(out.shape, dtype=torch.float64, generator=generator)
    inputs = (x, angles) if circuit.n_angles else (x,)
    gradients = torch.autograd.grad(out, inputs, weights)
    wanted = torch.autograd.grad(expected, inputs, weights)
    # A division by a small norm enlarges rounding errors, so compare on the gradients' own scale.
    for ours, theirs in zip(gradients, wanted):
        torch.testing.assert_close(ours, theirs, atol=1e-10 * float(theirs.abs().max() + 1), rtol=0)


@settings(deadline=None, max_examples=40, database=None)
@given(circuits(), st.integers(0, 1000))
def check_probabilities(circuit, seed):
    compare(circuit, lambda states, norms: states.abs().square() / norms, seed, readout="probabilities")


@settings(deadline=None, max_examples=40, database=None)
@given(circuits(), st.integers(0, 1000))
def check_amplitudes(circuit, seed):
    compare(circuit, lambda states, norms: states.real if states.is_complex() else states, seed, readout="amplitudes")


def test_random_circuits_have_the_probabilities_of_the_plain_simulation(form):
    check_probabilities()


def test_random_circuits_have_the_amplitudes_of_the_plain_simulation():
    check_amplitudes()


def plan_of(circuit, readout="pauli_z"):
    return program(describe(circuit.text, "amplitude", readout, None, 2**circuit.n_wires)).plans[0]


def test_rotations_and_permutations_share_layers():
    assert plan_of(ry_ring(6, 3)).n_layers == 3
    assert plan_of(rxryrz_ring(6, 3)).n_layers == 3
    # The closing RY of a layer shares a product with the opening RY of the next; the phases of RZ stand alone.
    assert plan_of(ryrz_ring_ry(6, 3)).n_layers == 7


def test_only_phases_are_complex_when_the_other_gates_are_real():
    plan = plan_of(ryrz_ring_ry(6))
    assert [(layer.is_complex, layer.is_diagonal) for layer in plan.layers] == [
        (False, False),
        (True, True),
        (False, False),
    ]
    assert plan_of(ry_ring(6, 3)).is_real
    assert [layer.is_diagonal for layer in plan_of(rxryrz_ring(6)).layers] == [False]


def test_more_rotations_on_a_wire_than_a_table_holds_open_another_layer():
    circuit = Circuit(1, tuple(Gate("RX" if k % 2 else "RY", (0,), k) for k in range(8)))
    assert plan_of(circuit).n_layers == 3
    x, angles = torch.randn(2, 2, dtype=torch.float64), torch.randn(8, dtype=torch.float64)
    states = simulate(circuit, angles, x / x.norm(dim=-1, keepdim=True))
    torch.testing.assert_close(run(circuit, x, angles, readout="probabilities"), states.abs().square())


def test_the_cost_model_runs_compiled_code_unless_the_circuit_is_deep_and_the_wires_few():
    assert plan_of(rxryrz_ring(10, 2)).form(512, "cpu") == "native"
    assert plan_of(rxryrz_ring(6, 2)).form(64, "cpu") == "native"
    assert plan_of(rxryrz_ring(6, 16)).form(2048, "cpu") == "native"
    assert plan_of(rxryrz_ring(4, 64)).form(8192, "cpu") == "matrix"
    assert plan_of(rxryrz_ring(10, 2)).form(512, "cuda") == "layers"


def test_without_compiled_code_the_products_run(monkeypatch):
    from ketune.circuits import _plan

    monkeypatch.setattr(_plan, "native_is_available", lambda: False)
    assert plan_of(rxryrz_ring(10, 3)).form(64, "cpu") == "layers"
    assert plan_of(rxryrz_ring(6, 4)).form(2048, "cpu") == "matrix"


def test_the_cost_model_builds_a_matrix_for_many_samples_and_few_wires():
    assert plan_of(rxryrz_ring(6, 4)).builds_matrix(2048)
    assert not plan_of(rxryrz_ring(6, 4)).builds_matrix(8)
    assert not plan_of(rxryrz_ring(12, 4)).builds_matrix(2048)


@pytest.mark.parametrize("n_wires", [7, 8, 10])
def test_all_forms_agree_on_batches_of_several_chunks(n_wires, monkeypatch):
    circuit = ryrz_ring_ry(n_wires, 2)
    generator = torch.Generator().manual_seed(n_wires)
    x = torch.randn(300, 2**n_wires - 3, dtype=torch.float64, generator=generator).requires_grad_()
    angles = torch.randn(circuit.n_angles, dtype=torch.float64, generator=generator).requires_grad_()
    results = []
    for form in ("native", "matrix", "layers"):
        monkeypatch.setattr(Plan, "form", lambda plan, n, device, value=form: value)
        out = run(circuit, x, angles)
        results.append((out, *torch.autograd.grad(out.sin().sum(), (x, angles))))
    for native, by_matrix, by_layers in zip(*results):
        torch.testing.assert_close(by_matrix, by_layers, atol=1e-12, rtol=1e-10)
        torch.testing.assert_close(native, by_layers, atol=1e-12, rtol=1e-10)


def test_a_gradient_of_amplitudes_leaves_the_tables_as_they_are():
    circuit = Circuit(3, (Gate("RY", (0,), 0), Gate("CZ", (0, 1)), Gate("RY", (1,), 1), Gate("CZ", (1, 2))))
    x, angles = torch.randn(4, 8, dtype=torch.float64), torch.randn(2, dtype=torch.float64, requires_grad=True)
    first, again = (
        torch.autograd.grad(run(circuit, x, angles, readout="amplitudes").sin().sum(), angles) for _ in range(2)
    )
    assert torch.equal(first[0], again[0])
