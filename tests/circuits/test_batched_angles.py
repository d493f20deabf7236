"""Sets of angles: one per sample, or several for all samples."""

import pytest
import torch
from tests.circuits import dense_reference as dense
from tests.circuits.test_circuit_memory import MIB, LargestTensor
from torch.func import grad, vmap

from ketune.circuits import ANSATZE, Hamiltonian, run, rxryrz_ring, ry_ring, ryrz_ring_ry, simulate
from ketune.circuits import _batched_angles as batched
from ketune.circuits import _execute_sets as execute_sets
from ketune.circuits.statevector import describe

WORDS = ["XYI", "ZZI", "IIY", "YXZ", "IZZ", "III"]


@pytest.fixture(params=["compiled", "plain"])
def form(request, monkeypatch):
    """Which form runs several sets of angles."""
    if request.param == "compiled":
        pytest.importorskip("llvmlite")
    else:
        monkeypatch.setattr(batched, "sets_program", lambda description: None)
    return request.param


def data(circuit, lead_x, lead_angles, n_features=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*lead_x, n_features, dtype=torch.float64, generator=generator)
    angles = 2 * torch.randn(*lead_angles, circuit.n_angles, dtype=torch.float64, generator=generator)
    return x.requires_grad_(), angles.requires_grad_()


def looped(circuit, x, angles, **options):
    """One run for each pair of a sample and a set of angles."""
    lead = torch.broadcast_shapes(x.shape[:-1], angles.shape[:-1])
    pairs = zip(
        x.expand(*lead, x.shape[-1]).reshape(-1, x.shape[-1]),
        angles.expand(*lead, angles.shape[-1]).reshape(-1, angles.shape[-1]),
    )
    out = torch.stack([run(circuit, sample, each, **options) for sample, each in pairs])
    return out.view(*lead, out.shape[-1])


def assert_same_with_gradients(ours, theirs, arguments):
    torch.testing.assert_close(ours, theirs, atol=1e-13, rtol=0)
    weights = torch.randn_like(ours)
    for a, b in zip(torch.autograd.grad(ours, arguments, weights), torch.autograd.grad(theirs, arguments, weights)):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", ANSATZE)
def test_each_sample_with_its_angles_reads_out_as_the_gates_one_by_one(name, form):
    circuit = ANSATZE[name](3, 2)
    x, angles = data(circuit, (4,), (4,), 7)
    states = simulate(circuit, angles, torch.nn.functional.pad(x, (0, 1))).to(torch.complex128)
    states, x = states.detach(), x.detach()

    def assert_reads(readout, expected):
        torch.testing.assert_close(run(circuit, x, angles, readout=readout).detach(), expected, atol=1e-13, rtol=0)

    assert_reads("amplitudes", states.real)
    states = states / x.norm(dim=-1, keepdim=True)
    assert_reads("probabilities", states.abs().square())
    values = [(states.conj() * (states @ dense.pauli_word(word).T)).sum(-1).real for word in WORDS]
    assert_reads(WORDS, torch.stack(values, -1))
    assert_reads("pauli_z", run(circuit, x, angles, readout=["ZII", "IZI", "IIZ"]).detach())


@pytest.mark.parametrize(
    ("lead_x", "lead_angles"),
    [
        ((5,), (5,)),
        ((), (4,)),
        ((5,), (4, 1)),
        ((4, 5), (5,)),
        ((4, 1), (5,)),
        ((2, 1, 5), (2, 3, 1)),
        ((2, 3, 5), (3, 1)),
        ((3,), (1,)),
    ],
)
@pytest.mark.parametrize("encoding", ["amplitude", "angle", "iqp"])
def test_leading_dimensions_of_features_and_angles_broadcast(lead_x, lead_angles, encoding, form):
    circuit = ryrz_ring_ry(3)
    arguments = data(circuit, lead_x, lead_angles, 3)
    ours = run(circuit, *arguments, encoding=encoding)
    assert_same_with_gradients(ours, looped(circuit, *arguments, encoding=encoding), arguments)


@pytest.mark.parametrize("lead_x", [(40,), (3, 40)])
def test_many_samples_of_few_sets_run_set_by_set_with_the_same_results(lead_x, form, monkeypatch):
    circuit = ry_ring(8)
    arguments = data(circuit, lead_x, (3, 1), 200)
    monkeypatch.setitem(batched._MANY_AMPLITUDES, form, 40 * 2**8)
    ours = run(circuit, *arguments)
    assert_same_with_gradients(ours, looped(circuit, *arguments), arguments)


@pytest.mark.parametrize(("lead_x", "lead_angles"), [((0,), (0,)), ((0,), (3, 1)), ((2,), (0, 1)), ((0, 2), (2,))])
def test_empty_batches_stay_empty(lead_x, lead_angles, form):
    circuit = ry_ring(3)
    x, angles = data(circuit, lead_x, lead_angles)
    out = run(circuit, x, angles)
    assert out.shape == (*torch.broadcast_shapes(lead_x, lead_angles), 3)
    for slope, argument in zip(torch.autograd.grad(out.sum(), (x, angles)), (x, angles)):
        assert torch.equal(slope, torch.zeros_like(argument))


def test_without_features_a_circuit_starts_in_the_first_basis_state(form):
    circuit = rxryrz_ring(3)
    start = torch.tensor([1.0, 0, 0], dtype=torch.float64)
    for lead in ((), (4,), (2, 3)):
        _, angles = data(circuit, (), lead)
        ours = run(circuit, None, angles, readout=WORDS)
        assert ours.shape == (*lead, len(WORDS))
        assert_same_with_gradients(ours, looped(circuit, start, angles, readout=WORDS), (angles,))


def test_neither_the_cut_into_chunks_nor_the_choice_of_path_changes_results(form, monkeypatch):
    circuit = rxryrz_ring(4)
    monkeypatch.setattr(execute_sets, "_LEAST_SAMPLES", 1)
    for lead_x in ((9,), (7, 9)):
        arguments = data(circuit, lead_x, (7, 1), 16)
        expected = looped(circuit, *arguments)
        for budget, many in ((1 << 11, 1 << 30), (1 << 14, 1 << 30), (1 << 18, 1 << 30), (1 << 24, 1)):
            monkeypatch.setattr(batched, "_CHUNK_BYTES", {"cpu": budget, "cuda": budget})
            monkeypatch.setattr(execute_sets, "_CHUNK_BYTES", budget)
            monkeypatch.setitem(batched._MANY_AMPLITUDES, form, many)
            assert_same_with_gradients(run(circuit, *arguments), expected.clone(), arguments[1:])
            expected = looped(circuit, *arguments)


def test_hamiltonians_read_out_for_each_set_of_angles(form):
    circuit = rxryrz_ring(3)
    x, angles = data(circuit, (4,), (4,))
    first, second = Hamiltonian((0.5, -1.5), ("XYI", "ZZI")), Hamiltonian((2.0,), ("IIZ",))
    out = run(circuit, x, angles, readout=[first, second])
    words = run(circuit, x, angles, readout=["XYI", "ZZI", "IIZ"])
    torch.testing.assert_close(out, torch.stack((0.5 * words[:, 0] - 1.5 * words[:, 1], 2 * words[:, 2]), 1))
    assert run(circuit, x, angles, readout=first).shape == (4, 1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_types_are_those_of_shared_angles(dtype, form):
    circuit = ry_ring(4)
    x = torch.randn(5, 16).to(dtype).requires_grad_()
    angles = torch.randn(5, 4, dtype=dtype, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = run(circuit, x, angles)
    assert out.dtype == torch.float32
    expected = run(circuit, x.double(), angles.double())
    torch.testing.assert_close(out.double(), expected, atol=1e-6, rtol=0)
    assert [slope.dtype for slope in torch.autograd.grad(out.sum(), (x, angles))] == [dtype, dtype]


def test_memory_stays_that_of_a_chunk(form):
    circuit = rxryrz_ring(8, 2)
    x = torch.randn(3000, 256, requires_grad=True)
    angles = torch.randn(3000, circuit.n_angles, requires_grad=True)
    run(circuit, x[:2], angles[:2])  # tables are made once
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), LargestTensor(x) as largest:
        run(circuit, x, angles)
    assert sum(kept.values()) <= x.nbytes + angles.nbytes + 3000 * 9 * 4
    assert largest.size <= 2 * MIB < x.nbytes


@pytest.mark.parametrize("readout", ["pauli_z", ["XYI", "ZII"]], ids=str)
@pytest.mark.parametrize("encoding", ["amplitude", "iqp"])
def test_vmap_over_any_argument_is_a_loop(encoding, readout, form):
    circuit = ryrz_ring_ry(3)
    x, angles = data(circuit, (4, 5), (4,), 3)

    def function(x, angles):
        return run(circuit, x, angles, encoding=encoding, readout=readout)

    for in_dims in ((0, 0), (None, 0), (0, None), (1, None), (None, 1)):
        each = angles.T if in_dims[1] == 1 else angles
        one = (x if in_dims[0] is not None else x[0], each if in_dims[1] is not None else angles[0])
        count = 5 if in_dims[0] == 1 else 4
        calls = [
            function(*(a if dim is None else a.select(dim, i) for a, dim in zip(one, in_dims))) for i in range(count)
        ]
        assert_same_with_gradients(vmap(function, in_dims)(*one), torch.stack(calls), (x, angles))
    # Sets of angles inside and outside of vmap.
    sets = torch.stack((angles, angles.flip(0)))
    mapped = vmap(lambda sets: function(x.transpose(0, 1), sets))(sets)
    assert_same_with_gradients(mapped, torch.stack([function(x.transpose(0, 1), s) for s in sets]), (x, angles))


def test_gradients_per_sample_are_those_of_each_sample_alone(form):
    circuit = rxryrz_ring(3)
    x, angles = data(circuit, (6,), ())

    def loss(angles, x):
        return run(circuit, x, angles).square().sum()

    ours = vmap(grad(loss, (0, 1)), (None, 0))(angles, x)
    for i, sample in enumerate(x):
        for mine, theirs in zip(ours, grad(loss, (0, 1))(angles, sample)):
            torch.testing.assert_close(mine[i], theirs)


def test_compile_takes_sets_of_angles_in_one_graph():
    torch._dynamo.reset()
    circuit = ryrz_ring_ry(3)
    arguments = data(circuit, (5,), (5,))

    def loss(x, angles):
        return run(circuit, torch.tanh(x), angles).square().sum() + run(circuit, None, angles).sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    assert_same_with_gradients(compiled(*arguments), loss(*arguments), arguments)


def test_the_operators_meet_the_contract_of_torch_library_for_sets_of_angles():
    circuit = rxryrz_ring(2)
    x, angles = torch.randn(3, 2, 4, requires_grad=True), torch.randn(3, circuit.n_angles, requires_grad=True)
    for encoding, features in (
        ("amplitude", x),
        ("amplitude", x[:1].detach()),
        ("iqp:2", x[..., :2].detach().requires_grad_()),
    ):
        description = describe(circuit.text, encoding, "pauli_z", None, features.shape[-1])
        torch.library.opcheck(torch.ops.ketune.circuit.default, (features, angles, description, 2))
        out, norms = torch.ops.ketune.circuit(features, angles, description, 2)
        tensors = (tensor.detach() for tensor in (torch.ones(3, 2, 2), features, angles, out, norms))
        # The other checks look into tensors that torch.func has wrapped, and cannot.
        operator = torch.ops.ketune.circuit_backward.default
        arguments = (*tensors, description, True, True)
        torch.library.opcheck(operator, arguments, test_utils="test_autograd_registration")


def test_shapes_that_do_not_fit_are_refused():
    circuit = ry_ring(3)
    with pytest.raises(ValueError, match=r"features \(4,\) and angles \(5,\) do not broadcast"):
        run(circuit, torch.randn(4, 8), torch.randn(5, 3))
    with pytest.raises(ValueError, match=r"shape \(5, 4\).*takes \(\.\.\., 3\)"):
        run(circuit, torch.randn(5, 8), torch.randn(5, 4))
