"""The compiled simulator on sets of angles, beside the plain one and closed forms."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.circuits.random_circuits import circuits
from torch.func import jacrev, vmap

from ketune.circuits import ANSATZE, Circuit, Gate, _costs, run, rxryrz_ring, ry_ring
from ketune.circuits._batched_angles import evaluate
from ketune.circuits._execute_sets import run_sets, run_sets_back
from ketune.circuits._plan import describe
from ketune.circuits._sets_plan import _make_program, sets_program

code = pytest.importorskip("ketune.circuits._native_code")
SETTINGS = settings(deadline=None, max_examples=25, database=None)
LANES = 16  # of a block at most


def draw(circuit, n_sets, n_samples, n_features, shared, seed=0):
    generator = torch.Generator().manual_seed(seed)
    lead = (1 if shared else n_sets, n_samples)
    x = torch.randn(*lead, n_features, dtype=torch.float64, generator=generator)
    return x, 2 * torch.randn(n_sets, circuit.n_angles, dtype=torch.float64, generator=generator)


def pulled(function, x, angles, weights):
    """Values, norms and gradients to features and angles, in float64."""
    x, angles = x.detach().requires_grad_(), angles.detach().requires_grad_()
    out = function(x, angles)
    slopes = torch.autograd.grad(out, (x, angles), weights.to(out), allow_unused=True)
    return [out, *(torch.zeros_like(t) if s is None else s for s, t in zip(slopes, (x, angles)))]


def check(circuit, x, angles, encoding="amplitude", readout="pauli_z", tolerance=1e-12):
    """Compares `run` with the plain simulation in float64."""
    name, _, repeats = encoding.partition(":")
    words = readout if isinstance(readout, str) else tuple(readout)
    text = describe(circuit.text, encoding, words, None, x.shape[-1])
    assert sets_program(text) is not None
    options = {"encoding": name, "readout": readout, "n_repeats": int(repeats or 1)}
    shape = (len(angles), x.shape[1])
    weights = torch.linspace(-1, 1, math.prod(shape) * sets_program(text).n_outputs).view(*shape, -1)
    ours = pulled(lambda x, angles: run(circuit, x, angles[:, None], **options), x, angles, weights)
    wanted = pulled(lambda x, angles: evaluate(text, x, angles)[0], x.double(), angles.double(), weights)
    for mine, theirs in zip(ours, wanted):
        scale = max(1.0, float(theirs.detach().abs().max())) if theirs.numel() else 1.0
        assert mine.dtype == x.dtype
        torch.testing.assert_close(mine.double(), theirs, atol=tolerance * scale, rtol=0)


@SETTINGS
@given(
    circuit=circuits(max_wires=5, max_gates=25),
    encoding=st.sampled_from(["amplitude", "angle", "iqp:1", "iqp:2"]),
    readout=st.sampled_from(["pauli_z", "probabilities", "words"]),
    shape=st.tuples(st.sampled_from([1, 3, LANES, LANES + 1]), st.integers(1, 3)),
    shared=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_random_circuits_of_every_gate_agree_with_the_plain_simulation(circuit, encoding, readout, shape, shared, seed):
    n_wires = circuit.n_wires
    if readout == "words":
        readout = ["X" * n_wires, "Z" + "I" * (n_wires - 1), "I" * (n_wires - 1) + "Y"]
    n_features = 1 + seed % (2**n_wires if encoding == "amplitude" else n_wires)
    x, angles = draw(circuit, *shape, n_features, shared, seed)
    if encoding == "amplitude":  # gradients of the normalised features grow without bound for short ones
        x = x / x.norm(dim=-1, keepdim=True)
    check(circuit, x, angles, encoding, readout)
    check(circuit, x.float(), angles.float(), encoding, readout, tolerance=2e-6)


@pytest.mark.parametrize("name", ANSATZE)
def test_every_ansatz_agrees_on_more_wires_than_a_tile_has(name):
    circuit = ANSATZE[name](7, 2)
    x, angles = draw(circuit, 5, 1, 100, False)
    check(circuit, x, angles)
    x, angles = draw(circuit, 19, 1, 7, False)
    check(circuit, x.float(), angles.float(), "angle", tolerance=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n_samples", [1, 2, 7, 8, 9, 15, 16, 17, 33])
def test_any_number_of_samples_fills_the_lanes(n_samples, dtype):
    circuit = rxryrz_ring(3)
    x, angles = draw(circuit, n_samples, 1, 8, False)
    check(circuit, x.to(dtype), angles.to(dtype), tolerance=1e-6 if dtype == torch.float32 else 1e-12)


@pytest.mark.parametrize("ansatz", [ry_ring, rxryrz_ring])
def test_float32_keeps_its_digits_on_twelve_wires(ansatz):
    circuit = ansatz(12, 2)
    x, angles = draw(circuit, 3, 1, 4096, False)
    check(circuit, (x / x.norm(dim=-1, keepdim=True)).float(), angles.float(), tolerance=1e-6)


@pytest.mark.parametrize("size", [1.0, 1e3, 1e6])
def test_expectation_after_one_turn_is_the_cosine_of_its_angle(size):
    circuit = Circuit(1, (Gate("RY", (0,), 0),))
    angles = size * torch.linspace(-math.pi, math.pi, 401, dtype=torch.float64)[:, None]
    for dtype, tolerance in ((torch.float32, 3e-7), (torch.float64, 3e-15)):
        given = angles.to(dtype).requires_grad_()
        out = run(circuit, None, given)
        (slope,) = torch.autograd.grad(out.sum(), given)
        exact = given.detach().double()
        torch.testing.assert_close(out.double(), exact.cos(), atol=tolerance, rtol=0)
        torch.testing.assert_close(slope.double(), -exact.sin(), atol=tolerance, rtol=0)


@pytest.mark.parametrize("angle", [0.0, math.pi / 2, -math.pi / 2, math.pi, 2 * math.pi])
def test_quarter_turns_and_half_turns_have_exact_gradients(angle):
    circuit = rxryrz_ring(4)
    x, angles = draw(circuit, 3, 1, 16, False)
    check(circuit, x, torch.full_like(angles, angle))


def test_angles_without_a_number_stay_so_in_their_lane_only():
    circuit = rxryrz_ring(3)
    _, angles = draw(circuit, 4, 1, 1, True)
    angles[2, 1] = math.nan
    out = run(circuit, None, angles)
    assert out[2].isnan().all()
    assert out[[0, 1, 3]].isfinite().all()


def test_two_threads_give_what_one_gives():
    circuit = rxryrz_ring(5, 1)
    x, angles = draw(circuit, 301, 1, 32, False)
    weights = torch.ones(301, 1, 5, dtype=torch.float64)
    results, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(pulled(lambda x, angles: run(circuit, x, angles[:, None]), x, angles, weights))
    finally:
        torch.set_num_threads(threads)
    for one, two in zip(*results):
        assert torch.equal(one, two)  # no sum runs over samples of several blocks


@pytest.mark.parametrize("encoding", ["amplitude", "angle", "iqp:2"])
@pytest.mark.parametrize("readout", ["pauli_z", "probabilities"])
def test_cotangents_that_nobody_wants_do_not_change_the_others(encoding, readout):
    circuit = rxryrz_ring(4)
    x, angles = draw(circuit, 6, 2, 3, False)
    name, _, repeats = encoding.partition(":")

    def out(x, angles):
        options = {"encoding": name, "readout": readout, "n_repeats": int(repeats or 1)}
        return run(circuit, x, angles[:, None], **options).sin().sum()

    x.requires_grad_(), angles.requires_grad_()
    both = torch.autograd.grad(out(x, angles), (x, angles))
    (only_x,) = torch.autograd.grad(out(x, angles.detach()), x)
    (only_angles,) = torch.autograd.grad(out(x.detach(), angles), angles)
    torch.testing.assert_close((only_x, only_angles), both, atol=1e-14, rtol=0)


def test_jacobians_by_the_angles_of_every_set_are_the_shifted_differences():
    circuit = rxryrz_ring(3, 1)
    _, angles = draw(circuit, 4, 1, 1, True)
    jacobians = vmap(jacrev(lambda each: run(circuit, None, each)))(angles)
    shifts = math.pi / 2 * torch.eye(circuit.n_angles, dtype=torch.float64)
    differences = run(circuit, None, angles[:, None] + shifts) - run(circuit, None, angles[:, None] - shifts)
    torch.testing.assert_close(jacobians, differences.mT / 2, atol=1e-13, rtol=0)


def test_a_zero_vector_reads_out_as_zeros_with_zero_gradients():
    circuit = rxryrz_ring(3)
    x, angles = draw(circuit, 3, 1, 8, False)
    x[1] = 0
    out, d_x, d_angles = pulled(
        lambda x, angles: run(circuit, x, angles[:, None]), x, angles, torch.ones(3, 1, 3, dtype=torch.float64)
    )
    for values in (out, d_x, d_angles):
        assert not values[1].any()
        assert values[0].any()


def test_without_compiled_code_the_plain_form_runs(monkeypatch):
    circuit = rxryrz_ring(3)
    _, angles = draw(circuit, 5, 1, 1, True)
    expected = run(circuit, None, angles)
    text = describe(circuit.text, "amplitude", "pauli_z", None, 1)
    assert sets_program(text) is not None
    assert sets_program(describe(circuit.text, "amplitude", "amplitudes", None, 1)) is None
    monkeypatch.setenv("KETUNE_NATIVE", "0")
    _costs.native_is_available.cache_clear()
    try:
        assert sets_program(text) is None
        torch.testing.assert_close(run(circuit, None, angles), expected, atol=1e-13, rtol=0)
    finally:
        monkeypatch.undo()
        _costs.native_is_available.cache_clear()


@pytest.mark.parametrize(("width", "registers"), [(16, 16), (32, 16)])
def test_narrower_vectors_and_fewer_registers_give_the_same(width, registers, monkeypatch):
    monkeypatch.setattr(code, "vector_bytes", lambda: width)
    monkeypatch.setattr(code, "n_registers", lambda: registers)
    for circuit in (rxryrz_ring(5), ry_ring(5)):
        x, angles = draw(circuit, 7, 2, 20, False)
        text = describe(circuit.text, "amplitude", ("XZIII", "IIZZY"), None, 20)
        program = _make_program(text)  # not a kept one, whose records are for this machine
        weights = torch.randn(7, 2, 2, dtype=torch.float64)
        out, d_x, d_angles = pulled(lambda x, angles, text=text: evaluate(text, x, angles)[0], x, angles, weights)
        ours, norms = run_sets(program, x, angles)
        slopes = run_sets_back(program, weights, x, angles, ours, norms, True, True)
        for mine, theirs in zip((ours, *slopes), (out.detach(), d_x, d_angles)):
            torch.testing.assert_close(mine, theirs, atol=1e-12, rtol=0)
