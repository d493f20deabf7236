"""The compiled simulator: what the forms of `test_plan` do not reach."""

import ctypes
import math

import pytest
import torch

from ketune.circuits import Circuit, Gate, run, rxryrz_ring, ry_ring, ryrz_ring_ry, simulate
from ketune.circuits._gates import elementary_steps
from ketune.circuits._layers import draft_layers
from ketune.circuits._plan import program
from ketune.circuits.observables import pauli_z_words, word_signs

native = pytest.importorskip("ketune.circuits._native")
MOST_WRITTEN_OUT = pytest.importorskip("ketune.circuits._native_record_book").MOST_WRITTEN_OUT


def plan_of(circuit, readout="pauli_z", n_features=None):
    steps = [step for gate in circuit.gates for step in elementary_steps(gate)]
    drafts = draft_layers(circuit.n_wires, steps)
    return native.NativePlan(drafts, circuit.n_wires, circuit.n_angles, readout, n_features or 2**circuit.n_wires)


def readouts(circuit, x, angles, words):
    """Expectations from the plain simulation."""
    padded = torch.nn.functional.pad(x, (0, 2**circuit.n_wires - x.shape[-1]))
    squares = simulate(circuit, angles, padded).abs().square()
    return squares @ word_signs(words, torch.arange(2**circuit.n_wires)).to(squares) / squares.sum(1, keepdim=True)


def draw(circuit, n_samples, n_features=None, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n_samples, n_features or 2**circuit.n_wires, generator=generator, dtype=torch.float64)
    angles = (2 * torch.rand(circuit.n_angles, generator=generator, dtype=torch.float64) - 1) * math.pi
    return x.to(dtype).requires_grad_(), angles.to(dtype).requires_grad_()


def check(circuit, x, angles, words, tolerance=1e-12, **arguments):
    expected = readouts(circuit, x.double(), angles.double(), words)
    out = run(circuit, x, angles, **arguments)
    weights = torch.linspace(-1, 1, out.numel()).to(out).view(out.shape)
    wanted = torch.autograd.grad(expected, (x, angles), weights.double())
    got = torch.autograd.grad(out, (x, angles), weights)
    for ours, theirs in zip((out, *got), (expected, *wanted)):
        scale = max(1.0, float(theirs.detach().abs().max()))
        torch.testing.assert_close(ours.double(), theirs.double(), atol=tolerance * scale, rtol=0)


@pytest.mark.parametrize("ansatz", [ry_ring, ryrz_ring_ry, rxryrz_ring])
@pytest.mark.parametrize("angle", [0.0, math.pi / 2, -math.pi / 2, math.pi, 2 * math.pi])
def test_angles_where_turns_are_flips_or_nothing_have_exact_gradients(ansatz, angle):
    circuit = ansatz(4, 2)
    x, angles = draw(circuit, 5)
    with torch.no_grad():
        angles.fill_(angle)
    check(circuit, x, angles, pauli_z_words(4))


@pytest.mark.parametrize("n_samples", [1, 7, 8, 9, 16, 17, 33])
@pytest.mark.parametrize("n_features", [1, 5, 31, 32])
def test_any_number_of_samples_and_features(n_samples, n_features):
    circuit = rxryrz_ring(5, 1)
    check(circuit, *draw(circuit, n_samples, n_features), pauli_z_words(5))
    if n_features > 1:  # with one, the gradient of the normalised feature is zero, up to rounding over a small number
        check(circuit, *draw(circuit, n_samples, n_features, torch.float32), pauli_z_words(5), tolerance=3e-6)


def test_more_words_than_are_written_out():
    circuit = rxryrz_ring(6, 2)
    words = [format(k, "06b").replace("0", "I").replace("1", "Z") for k in range(1, 2 * MOST_WRITTEN_OUT)]
    check(circuit, *draw(circuit, 11), words, readout=words)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n_wires", "n_samples"), [(7, 900), (9, 301)])
def test_results_do_not_depend_on_threads_to_the_last_bit(dtype, n_wires, n_samples):
    circuit = ryrz_ring_ry(n_wires, 2)
    x, angles = draw(circuit, n_samples, dtype=dtype)
    results, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2, 3, 2):
            torch.set_num_threads(count)
            out = run(circuit, x, angles)
            results.append((out, *torch.autograd.grad(out.sin().sum(), (x, angles))))
    finally:
        torch.set_num_threads(threads)
    for same in zip(*results):
        assert all(torch.equal(same[0], other) for other in same[1:])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_features_of_half_precision_are_lifted_in_pieces(dtype):
    circuit = ry_ring(5, 2)
    x, angles = draw(circuit, 700, dtype=torch.float32)
    x = x.detach().to(dtype).requires_grad_()
    out = run(circuit, x, angles)
    assert out.dtype == torch.float32
    expected = run(circuit, x.detach().float().requires_grad_(), angles)
    torch.testing.assert_close(out, expected, atol=1e-6, rtol=0)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    assert gradient.dtype == dtype
    assert gradient.shape == x.shape


def test_angle_encoding_in_several_pieces():
    circuit = rxryrz_ring(4, 1)
    x, angles = draw(circuit, 600, 4)
    encoding = Circuit(4, tuple(Gate("RY", (w,), w) for w in range(4)))
    start = simulate(encoding, x)
    expected = simulate(circuit, angles, start).abs().square() @ word_signs(pauli_z_words(4), torch.arange(16))
    out = run(circuit, x, angles, encoding="angle")
    torch.testing.assert_close(out, expected, atol=1e-12, rtol=0)
    for ours, theirs in zip(
        torch.autograd.grad(out.sin().sum(), (x, angles)), torch.autograd.grad(expected.sin().sum(), (x, angles))
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-11, rtol=0)


@pytest.mark.parametrize("ansatz", [ry_ring, ryrz_ring_ry, rxryrz_ring])
def test_cotangents_that_nobody_wants_do_not_change_the_others(ansatz):
    circuit = ansatz(5, 2)
    x, angles = draw(circuit, 20)
    both = torch.autograd.grad(run(circuit, x, angles).sin().sum(), (x, angles))
    (only_x,) = torch.autograd.grad(run(circuit, x, angles.detach()).sin().sum(), x)
    (only_angles,) = torch.autograd.grad(run(circuit, x.detach(), angles).sin().sum(), angles)
    torch.testing.assert_close(only_x, both[0], atol=1e-13, rtol=0)
    torch.testing.assert_close(only_angles, both[1], atol=1e-13, rtol=0)


@pytest.mark.parametrize("ansatz", [ry_ring, rxryrz_ring])
def test_deep_circuits_neither_overflow_nor_vanish(ansatz):
    circuit = ansatz(6, 120)
    x, angles = draw(circuit, 3, dtype=torch.float32)
    check(circuit, x, angles, pauli_z_words(6), tolerance=1e-4)


@pytest.mark.parametrize("n_wires", [10, 12, 14])
def test_float32_errors_stay_small_on_many_wires(n_wires):
    circuit = rxryrz_ring(n_wires, 2)
    check(circuit, *draw(circuit, 2, dtype=torch.float32), pauli_z_words(n_wires), tolerance=5e-6)


def test_angles_that_changed_in_place_are_seen():
    circuit = ry_ring(3, 1)
    x, angles = draw(circuit, 2)
    before = run(circuit, x, angles).detach()
    with torch.no_grad():
        angles.add_(1.0)
    torch.testing.assert_close(run(circuit, x, angles), readouts(circuit, x, angles, pauli_z_words(3)))
    assert not torch.allclose(before, run(circuit, x, angles))


def test_a_layer_of_rotations_and_a_ring_is_one_stage():
    plan = plan_of(rxryrz_ring(6, 3))
    assert [len(stage.turns) for stage in plan.passes.stages] == [6, 6, 6]
    assert plan.components == 2
    assert plan_of(ry_ring(6, 3)).components == 1


def test_phases_alone_need_no_stage():
    circuit = Circuit(3, (Gate("RZ", (0,), 0), Gate("CNOT", (0, 1)), Gate("CPHASE", (1, 2), 1)))
    assert plan_of(circuit).passes.stages == []
    x, angles = draw(circuit, 4)
    out = run(circuit, x, angles)
    assert torch.autograd.grad(out.sum(), angles)[0].abs().max() == 0
    torch.testing.assert_close(out, readouts(circuit, x, angles, pauli_z_words(3)))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch's own forward mode calls it
@pytest.mark.parametrize(
    "surroundings",
    [
        lambda f, x, a: f(x, a),
        lambda f, x, a: torch.func.vmap(lambda row: f(row, a))(x),
        lambda f, x, a: torch.func.jvp(lambda t: f(x, t), (a,), (a,))[0],
    ],
)
def test_the_first_call_may_come_inside_any_mode(surroundings):
    program.cache_clear()
    circuit = ryrz_ring_ry(3, 1)
    x, angles = (tensor.detach() for tensor in draw(circuit, 4))
    with torch.device("meta"), torch.inference_mode(False):
        got = surroundings(lambda x, a: run(circuit, x, a), x, angles)
    torch.testing.assert_close(got, readouts(circuit, x, angles, pauli_z_words(3)))


@pytest.mark.parametrize("word", ["XIY", "YYZ", "IXX"])
def test_reflections_and_phases_of_a_basis_change_are_exact(word):
    circuit = rxryrz_ring(3, 1)
    x, angles = draw(circuit, 5)
    letters = {"X": [[0, 1], [1, 0]], "Y": [[0, -1j], [1j, 0]], "Z": [[1, 0], [0, -1]], "I": [[1, 0], [0, 1]]}
    matrix = torch.eye(1, dtype=torch.complex128)
    for letter in word:
        matrix = torch.kron(matrix, torch.tensor(letters[letter], dtype=torch.complex128))
    states = simulate(circuit, angles, x / x.norm(dim=1, keepdim=True))
    expected = (states.conj() * (states @ matrix.T)).sum(1, keepdim=True).real
    torch.testing.assert_close(run(circuit, x, angles, readout=[word]), expected, atol=1e-13, rtol=0)


@pytest.mark.parametrize("lanes", [1, 8])
def test_sines_cosines_and_arguments_are_good_to_the_last_digits(lanes):
    emitter = pytest.importorskip("ketune.circuits._native_emitter")
    code = pytest.importorskip("ketune.circuits._native_code")
    trigonometry = pytest.importorskip("ketune.circuits._native_trigonometry")
    e = emitter.Emitter(64, 8)
    e.kernel("circle")  # rows of the workspace: x, cos x, sin x, argument of (cos x + i sin x) 7
    t = trigonometry.Trigonometry(e, lanes)

    def row(first):
        places = [e.b.gep(e.workspace, [e.b.add(first, emitter.I64(8 * k))], source_etype=e.scalar) for k in range(4)]
        cosine, sine = t.cos_sin(e.b.load(places[0], typ=t.type, align=8))
        seven = t.constant(7.0)
        values = (cosine, sine, t.argument(e.b.fmul(cosine, seven), e.b.fmul(sine, seven)))
        for value, place in zip(values, places[1:]):
            e.b.store(value, place, align=8)

    e.loop(emitter.I64(8 // lanes), lambda i: row(e.b.mul(i, emitter.I64(lanes))))
    e.b.ret_void()
    address = code._compile(e).get_function_address("circle")
    circle = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 4)(address)
    generator = torch.Generator().manual_seed(lanes)
    for scale in (1e-9, 1.0, 3.2, 100.0, 1e6):
        values = torch.zeros(4, 8, dtype=torch.float64)
        values[0] = (2 * torch.rand(8, generator=generator, dtype=torch.float64) - 1) * scale
        values[0, :3] = torch.tensor([0.0, math.pi, -math.pi / 2])
        circle(values.data_ptr(), 0, 0, 0)
        x, cosine, sine, argument = values.tolist()
        for k in range(8):
            assert abs(cosine[k] - math.cos(x[k])) < 3e-16
            assert abs(sine[k] - math.sin(x[k])) < 3e-16
            turns = (argument[k] - math.atan2(sine[k], cosine[k])) / math.tau
            assert abs(turns - round(turns)) < 1e-16 * 3
