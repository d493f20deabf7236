"""The simulator under torch.compile, torch.func, checkpointing and export."""

import pytest
import torch
from torch.func import grad, jacrev, vmap
from torch.utils.checkpoint import checkpoint

from ketune.circuits import QuantumLayer, run, rxryrz_ring, ryrz_ring_ry
from ketune.circuits.statevector import describe

CIRCUIT = ryrz_ring_ry(4)
READOUTS = ["pauli_z", "probabilities", "amplitudes", ["XXII", "ZIII", "IYZI"]]


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 5, 13, generator=generator, requires_grad=True)
    return x, torch.randn(CIRCUIT.n_angles, generator=generator, requires_grad=True)


def assert_same(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("readout", READOUTS, ids=str)
def test_compile_makes_one_graph_with_the_same_values_and_gradients(data, readout):
    torch._dynamo.reset()

    def loss(x, angles):
        return run(CIRCUIT, torch.tanh(x), angles, readout=readout).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    ours, theirs = compiled(*data), loss(*data)
    assert_same([ours], [theirs])
    assert_same(torch.autograd.grad(ours, data), torch.autograd.grad(theirs, data))


def test_a_compiled_layer_takes_batches_of_any_size():
    torch._dynamo.reset()
    layer = QuantumLayer(CIRCUIT, n_features=13)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=True)
    for n_samples in (2, 7, 33):
        x = torch.randn(n_samples, 13)
        assert_same([compiled(x)], [layer(x)])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Inductor imports deprecated parts of torch itself
def test_inductor_compiles_a_layer():
    torch._dynamo.reset()
    layer = QuantumLayer(CIRCUIT, n_features=13)
    x = torch.randn(6, 13, requires_grad=True)
    compiled = torch.compile(layer, fullgraph=True)
    inputs = (x, layer.angles)
    assert_same(torch.autograd.grad(compiled(x).sum(), inputs), torch.autograd.grad(layer(x).sum(), inputs))


def test_the_operators_meet_the_contract_of_torch_library():
    circuit = rxryrz_ring(2)
    x, angles = torch.randn(3, 4, requires_grad=True), torch.randn(circuit.n_angles, requires_grad=True)
    description = describe(circuit.text, "amplitude", "pauli_z", None, 4)
    torch.library.opcheck(torch.ops.ketune.circuit.default, (x, angles, description, 2))
    out, norms = torch.ops.ketune.circuit(x, angles, description, 2)
    arguments = (torch.ones(3, 2), x.detach(), angles.detach(), out.detach(), norms.detach(), description, True, False)
    torch.library.opcheck(torch.ops.ketune.circuit_backward.default, arguments)


def test_export_keeps_the_circuit():
    layer = QuantumLayer(CIRCUIT, n_features=13)
    x = torch.randn(4, 13)
    assert_same([torch.export.export(layer, (x,)).module()(x)], [layer(x)])


def test_vmap_over_angles_is_a_loop_over_angles(data):
    x, _ = data
    several = torch.randn(6, CIRCUIT.n_angles, requires_grad=True)
    mapped = vmap(lambda angles: run(CIRCUIT, x, angles))(several)
    looped = torch.stack([run(CIRCUIT, x, angles) for angles in several])
    assert_same([mapped], [looped])
    assert_same(
        torch.autograd.grad(mapped.sin().sum(), (several, x)), torch.autograd.grad(looped.sin().sum(), (several, x))
    )


def test_vmap_of_grad_gives_gradients_per_sample(data):
    x, angles = data

    def loss(angles, x):
        return run(CIRCUIT, x, angles).square().sum()

    per_sample = vmap(grad(loss), in_dims=(None, 0))(angles, x)
    expected = torch.stack([torch.autograd.grad(loss(angles, sample), angles)[0] for sample in x])
    assert_same([per_sample], [expected])


def test_jacrev_gives_the_jacobian(data):
    x, angles = data
    jacobian = jacrev(lambda a: run(CIRCUIT, x[0, 0], a))(angles)
    rows = [torch.autograd.grad(value, angles, retain_graph=True)[0] for value in run(CIRCUIT, x[0, 0], angles)]
    assert_same([jacobian], [torch.stack(rows)])


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpointing_changes_nothing(data, use_reentrant):
    def loss(x, angles):
        return run(CIRCUIT, x, angles).square().sum()

    expected = torch.autograd.grad(loss(*data), data)
    checkpoint(loss, *data, use_reentrant=use_reentrant).backward()
    assert_same([tensor.grad for tensor in data], expected)


def test_tables_made_in_inference_mode_serve_training_later():
    layer = QuantumLayer(rxryrz_ring(3, n_layers=3), n_features=5)
    with torch.inference_mode():
        layer(torch.randn(2, 5))
    layer(torch.randn(2, 5)).sum().backward()
    assert layer.angles.grad is not None
