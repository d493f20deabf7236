"""CUDA graphs: the path on a GPU neither waits for the device nor copies from the host, and a graph can be captured.

Without a GPU the same path runs on torch's "meta" device, which knows shapes only: an operation whose shape depends on
values fails there, and a mode refuses all that would wait or copy.
"""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ketune.circuits import (
    Circuit,
    Gate,
    QuantumLayer,
    _apart,
    _plan,
    _reference,
    run,
    rxryrz_ring,
    ry_ring,
    ryrz_ring_ry,
    statevector,
    transverse_ising,
)
from ketune.circuits._plan import Plan

WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "unique", "item", "equal", "to_sparse")
SIGNED = Circuit(3, (Gate("RX", (0,), 0), Gate("CZ", (0, 1)), Gate("CNOT", (2, 0)), Gate("RY", (1,), 1)))


class OnOneDevice(TorchDispatchMode):
    """Refuses operations that wait for a device, whose tensors are on several, or that read what came from the host.

    What comes from the host shows no operation of its own: torch makes a tensor of a list, say, behind the scenes. So
    each tensor that an operation reads must be the result of one before it, or have been there already in an earlier
    run.

    Args:
        earlier: the mode of an earlier run; without one, what was there before is not known and anything may be read.
    """

    def __init__(self, earlier=None):
        super().__init__()
        self.earlier, self.made, self.read, self.alive = earlier, set(), set(), []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name = str(func)
        assert not any(f"aten.{word}." in name for word in WAITING), name
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        assert {tensor.device.type for tensor in given + made} <= {"meta"}, f"{name}: a tensor of the host"
        for tensor in given:
            storage = tensor.untyped_storage()._cdata
            if storage not in self.made:
                self.read.add(storage)
                assert self.earlier is None or storage in self.earlier.read, f"{name}: a tensor from the host"
        self.made |= {tensor.untyped_storage()._cdata for tensor in made}
        self.alive += given + made  # so that no storage takes another's place
        return result


class Forbidden(AssertionError):
    """A table is made where all should be there."""


def _no_tables(make):
    raise Forbidden("a table is made after the first call")


CASES = {
    "layers": (rxryrz_ring(8), 3, 256, {}),
    "matrix": (rxryrz_ring(3), 500, 8, {}),
    "real": (ry_ring(8), 3, 200, {"readout": "probabilities"}),
    "phases": (ryrz_ring_ry(5), 3, 20, {"readout": "probabilities"}),
    "signs": (SIGNED, 3, 8, {"readout": "probabilities"}),
    "amplitudes": (rxryrz_ring(4), 3, 16, {"readout": "amplitudes", "n_readouts": 5}),
    "words": (rxryrz_ring(4), 3, 16, {"readout": ["XIIZ", "ZZII", "IYIX"]}),
    "energy": (rxryrz_ring(4), 3, 16, {"readout": transverse_ising(4)}),
    "angle": (rxryrz_ring(4), 3, 3, {"encoding": "angle"}),
    "basis": (rxryrz_ring(4), 3, 4, {"encoding": "basis"}),
    "iqp": (rxryrz_ring(4), 3, 4, {"encoding": "iqp", "n_repeats": 2}),
    "tf32x3": (rxryrz_ring(4), 3, 16, {"matmul_precision": "tf32x3"}),
}


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_nothing_waits_or_copies_after_the_first_call(case, half, monkeypatch):
    circuit, n_samples, n_features, options = CASES[case]
    x = torch.empty(n_samples, n_features, device="meta", dtype=torch.bfloat16 if half else torch.float32)
    x.requires_grad_(case != "basis")
    angles = torch.empty(circuit.n_angles, device="meta", requires_grad=True)
    run(circuit, x, angles, **options).sum().backward()  # makes the tables
    with OnOneDevice() as earlier:
        run(circuit, x, angles, **options).sum().backward()
    for module in (_apart, _plan, _reference, statevector):
        if hasattr(module, "apart"):
            monkeypatch.setattr(module, "apart", _no_tables)
    with OnOneDevice(earlier):
        run(circuit, x, angles, **options).sum().backward()
    assert angles.grad.shape == angles.shape


def test_sets_of_angles_neither_wait_nor_copy():
    circuit = rxryrz_ring(3)
    x = torch.empty(2, 5, 8, device="meta", requires_grad=True)
    angles = torch.empty(2, 1, circuit.n_angles, device="meta", requires_grad=True)
    run(circuit, x, angles).sum().backward()
    with OnOneDevice() as earlier:
        run(circuit, x, angles).sum().backward()
    with OnOneDevice(earlier):
        run(circuit, x, angles).sum().backward()


@pytest.mark.parametrize("readout", ["pauli_z", transverse_ising(4)])
def test_a_layer_neither_waits_nor_copies(readout):
    layer = QuantumLayer(rxryrz_ring(4), readout=readout, device="meta")
    x = torch.empty(3, 16, device="meta", requires_grad=True)
    layer(x).sum().backward()
    with OnOneDevice() as earlier:
        layer(x).sum().backward()
    with OnOneDevice(earlier):
        layer(x).sum().backward()


def test_the_mode_refuses_what_it_should():
    x = torch.empty(3, device="meta")
    with OnOneDevice(), pytest.raises(AssertionError, match="a tensor of the host"):
        x.copy_(torch.zeros(3))
    with OnOneDevice(), pytest.raises((AssertionError, RuntimeError)):
        x.sum().item()
    with OnOneDevice(), pytest.raises((AssertionError, RuntimeError)):
        x[x > 0].sum()
    with OnOneDevice() as earlier:
        x[[0, 2]].sum()
    with OnOneDevice(earlier), pytest.raises(AssertionError, match="a tensor from the host"):
        x[[0, 2]].sum()


def test_a_layer_keeps_its_coefficients_in_full_when_its_type_changes():
    readout = transverse_ising(2, coupling=1 / 3, field=1 / 7)
    layer = QuantumLayer(ry_ring(2), readout=readout).to(torch.bfloat16).to(torch.float64)
    with torch.no_grad():
        layer.angles.zero_()
    # |00>: the coupling alone, -1/3 in float64
    torch.testing.assert_close(layer(torch.tensor([1.0, 0, 0, 0])), torch.tensor([-1 / 3], dtype=torch.float64))
    assert not layer.state_dict().keys() - {"angles"}


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
FORMS = ["layers", "matrix", "triton"]


@pytest.fixture(params=FORMS)
def form(request, monkeypatch):
    monkeypatch.setattr(Plan, "form", lambda plan, *_: request.param)
    return request.param


def _layer_and_features(n_samples=64, readout="pauli_z"):
    generator = torch.Generator().manual_seed(0)
    layer = QuantumLayer(rxryrz_ring(8), readout=readout, generator=generator).cuda()
    return layer, torch.randn(n_samples, 256, generator=generator).cuda()


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("precision", ["highest", "tf32x3", "tf32"])
def test_a_captured_graph_replays_forward_and_backward(form, precision):
    layer, features = _layer_and_features()
    layer.matmul_precision = precision
    static = features.clone().requires_grad_()

    def step():
        layer.zero_grad(set_to_none=False)
        static.grad.zero_()
        out = layer(static)
        out.square().sum().backward()
        return out

    static.grad, layer.angles.grad = torch.zeros_like(static), torch.zeros_like(layer.angles)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        static.copy_(2 * features.flip(0))
    graph.replay()
    got = [captured.clone(), static.grad.clone(), layer.angles.grad.clone()]
    expected = [step().detach(), static.grad, layer.angles.grad]
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)  # a library may add in another order


@pytest.mark.gpu
@needs_cuda
def test_graphed_callables_agree_with_the_layer(form):
    layer, features = _layer_and_features()
    sample = features.clone().requires_grad_()
    expected = layer(sample)
    gradients = torch.autograd.grad(expected.square().sum(), (sample, layer.angles))
    graphed = torch.cuda.make_graphed_callables(layer, (sample.detach().clone().requires_grad_(),))
    out = graphed(sample)
    torch.testing.assert_close(out, expected)
    for ours, theirs in zip(torch.autograd.grad(out.square().sum(), (sample, layer.angles)), gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("readout", ["pauli_z", transverse_ising(8)])
def test_compiled_with_reduced_overhead_agrees_with_the_layer(form, readout):
    layer, features = _layer_and_features(readout=readout)
    compiled = torch.compile(layer, mode="reduce-overhead", fullgraph=True)
    for scale in (1, 2, 3):
        x = (scale * features).requires_grad_()
        torch.compiler.cudagraph_mark_step_begin()
        out = compiled(x)
        gradients = torch.autograd.grad(out.square().sum(), (x, layer.angles))
        expected = layer(x)
        wanted = torch.autograd.grad(expected.square().sum(), (x, layer.angles))
        torch.testing.assert_close(out, expected)
        for ours, theirs in zip(gradients, wanted, strict=True):
            torch.testing.assert_close(ours, theirs)


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("precision", ["highest", "tf32x3", "tf32"])
def test_a_gpu_has_the_error_of_the_precision_whatever_the_setting(form, precision):
    layer, features = _layer_and_features()
    layer.matmul_precision = precision
    exact = run(layer.circuit, features.cpu().double(), layer.angles.detach().cpu().double())
    for setting in ("highest", "high"):
        torch.set_float32_matmul_precision(setting)
        try:
            out = layer(features).detach().cpu().double()
        finally:
            torch.set_float32_matmul_precision("highest")
        error = float((out - exact).norm() / exact.norm())
        low, high = {"highest": (0, 2e-6), "tf32x3": (0, 1e-5), "tf32": (1e-5, 2e-2)}[precision]
        assert low <= error < high
