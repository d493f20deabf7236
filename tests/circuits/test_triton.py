"""The Triton form: in Triton's interpreter against matrix products and gates in float64, and through its compiler."""

import os
import re
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from tests.circuits import triton_cases as cases

from ketune.circuits import rxryrz_ring, ry_ring, ryrz_ring_ry
from ketune.circuits._device_costs import measure_device
from ketune.circuits._plan import describe, program
from ketune.circuits._triton_tables import fits_triton

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="needs triton")


@pytest.fixture(scope="module")
def interpreted():
    """Calls a function in a process in which kernels are interpreted."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TRITON_INTERPRET", "1")
            pool.submit(os.getpid).result()  # starts the process, with the environment of this moment
        yield lambda function, *args, **arguments: pool.submit(function, *args, **arguments).result()


@pytest.mark.parametrize(("kind", "n_wires"), [("complex", 8), ("phases", 9), ("real", 10)])
def test_values_and_gradients_are_those_of_the_gates(interpreted, kind, n_wires):
    assert max(interpreted(cases.errors_against_gates, kind, n_wires)) < 2e-6


@pytest.mark.parametrize("readout", ["pauli_z", "probabilities", cases.Z_WORDS, cases.MIXED_WORDS])
@pytest.mark.parametrize(("kind", "n_samples", "n_features"), [("complex", 5, 256), ("real", 9, 200), ("phases", 1, 7)])
def test_every_readout_agrees_with_matrix_products(interpreted, kind, n_samples, n_features, readout):
    assert max(interpreted(cases.errors, kind, 8, readout, n_samples, n_features)) < 5e-6


def test_more_words_than_are_read_at_a_time(interpreted):
    words = ["".join("Z" if (k >> wire) & 1 else "I" for wire in range(8)) for k in range(1, 40)]
    assert max(interpreted(cases.errors, "complex", 8, words, 3, 256)) < 2e-6


@pytest.mark.parametrize("kind", ["complex", "real"])
def test_angle_encoding_reaches_the_features(interpreted, kind):
    assert max(interpreted(cases.errors, kind, 8, "pauli_z", 3, 6, encoding="angle")) < 2e-6


def test_features_in_bfloat16_are_read_as_they_are(interpreted):
    out, d_x, d_angles = interpreted(cases.errors, "complex", 8, "pauli_z", 5, 256, half=True)
    assert max(out, d_angles) < 2e-6
    assert d_x < 2**-8  # the gradient comes back in the type of the features


def test_twelve_wires(interpreted):
    assert max(interpreted(cases.errors, "complex", 12, "pauli_z", 1, 4096)) < 2e-6


def test_random_circuits_of_every_gate(interpreted):
    interpreted(cases.random_circuits)


def test_each_gradient_alone_is_the_same(interpreted):
    assert interpreted(cases.parts_alone) == [True, True]


def test_programs_share_the_work_and_repeat_themselves_to_the_bit(interpreted):
    same, distance = interpreted(cases.several_programs)
    assert same == [True, True, True]
    assert distance[:2] == [0, 0]
    assert distance[2] < 1e-6  # the angles' gradient is summed in another order


def test_little_memory_is_enough(interpreted):
    assert max(interpreted(cases.little_memory)) < 2e-6


def test_zero_features_read_out_as_zeros(interpreted):
    zero, other, gradient, finite = interpreted(cases.zero_features)
    assert zero == 0
    assert other == [1.0] * 8
    assert gradient == 0
    assert finite


def test_what_the_kernels_cannot_do_is_done_by_matrix_products(interpreted):
    dtypes, shapes = interpreted(cases.float64_and_empty)
    assert dtypes == ["torch.float64"] * 3
    assert shapes == [[0, 8], [0, 256], [8]]


def test_both_forms_are_timed(interpreted):
    rows, finite = interpreted(cases.measured_forms)
    assert rows == [(8, 2, 2, 1.0, 2.0), (8, 1, 2, 3.0, 4.0)]
    assert finite


def plan_of(circuit, readout, precision="highest"):
    return program(describe(circuit.text, "amplitude", readout, None, 2**circuit.n_wires, precision)).plans[0]


def test_which_plans_fit():
    assert fits_triton(plan_of(rxryrz_ring(8), "pauli_z"))
    assert fits_triton(plan_of(rxryrz_ring(12), "probabilities"))
    assert fits_triton(plan_of(ry_ring(13), "pauli_z"))
    assert not fits_triton(plan_of(rxryrz_ring(7), "pauli_z"))
    assert not fits_triton(plan_of(rxryrz_ring(13), "pauli_z"))
    assert not fits_triton(plan_of(rxryrz_ring(8), "amplitudes"))


def compiled_sizes(circuit, readout, precision, kernel_name, capability):
    """Bytes of shared memory, registers a thread and bytes spilled by a kernel, compiled without a GPU."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from ketune.circuits import _triton

    kernel = getattr(_triton, kernel_name)
    constants = _triton.tile_options(plan_of(circuit, readout, precision))
    options = {name: constants.pop(name) for name in ("num_warps", "num_stages")}
    constants |= {"x_column": 1} | ({"NEED_X": True, "NEED_ANGLES": True} if kernel_name == "backward" else {})
    pointers = dict.fromkeys(
        ("high", "low", "signs_high", "signs_low", "scratch", "cotangent", "out", "norms", "d_x", "d_matrices"), "*fp32"
    )
    pointers |= {"x": "*bf16"} | dict.fromkeys(("layers", "moves", "ends"), "*i32")
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else pointers.get(name, "i32") for name in names}
    aligned = {(k,): [["tt.divisibility", 16]] for k, name in enumerate(names) if name in (*pointers, "x_row")}
    source = ASTSource(kernel, signature, {(names.index(name),): value for name, value in constants.items()}, aligned)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    assembler = Path(triton.__file__).parent / "backends/nvidia/bin/ptxas"
    file = Path(os.environ["TRITON_CACHE_DIR"]) / "kernel.ptx"
    file.write_text(compiled.asm["ptx"])
    target = re.search(r"\.target (\w+)", compiled.asm["ptx"])[1]
    command = [assembler, "-v", f"--gpu-name={target}", file, "-o", os.devnull]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    registers, spilled = re.search(r"Used (\d+) registers", said)[1], re.search(r"(\d+) bytes spill stores", said)[1]
    return compiled.metadata.shared, int(registers), int(spilled)


SOME = [(ry_ring(9, 2), "pauli_z", "highest", 90), (rxryrz_ring(8, 2), "probabilities", "tf32", 80)]
MORE = [
    (circuit, "pauli_z", precision, 90)
    for circuit in (ryrz_ring_ry(9, 2), rxryrz_ring(11, 2), rxryrz_ring(12, 2), ry_ring(13, 2))
    for precision in ("highest", "tf32x3")
] + [(rxryrz_ring(10, 2), "probabilities", "tf32", 80)]


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="Triton's compiler is switched off")
@pytest.mark.parametrize("kernel", ["forward", "backward"])
@pytest.mark.parametrize(
    ("circuit", "readout", "precision", "capability"),
    [*(pytest.param(*case) for case in SOME), *(pytest.param(*case, marks=pytest.mark.slow) for case in MORE)],
    ids=lambda value: f"{value.n_wires}-wires" if hasattr(value, "n_wires") else str(value),
)
def test_the_kernels_compile_and_keep_to_registers(
    circuit, readout, precision, capability, kernel, tmp_path, monkeypatch
):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    shared, registers, spilled = compiled_sizes(circuit, readout, precision, kernel, capability)
    assert shared <= 99 * 1024  # what the smallest of these GPUs lends a program
    assert registers <= 255
    assert spilled <= 512  # a few numbers a thread, not tiles


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["highest", "tf32x3", "tf32"])
@pytest.mark.parametrize("readout", ["pauli_z", "probabilities"])
@pytest.mark.parametrize(
    ("kind", "n_wires"), [("complex", 8), ("phases", 9), ("real", 10), ("complex", 11), ("complex", 12)]
)
def test_on_a_gpu_the_kernels_agree_with_matrix_products_and_repeat_themselves(kind, n_wires, readout, precision):
    generator = torch.Generator().manual_seed(n_wires)
    circuit = cases.ANSATZE[kind](n_wires, 3)
    x = torch.randn(517, 2**n_wires, generator=generator).cuda()
    angles = (3 * torch.randn(circuit.n_angles, generator=generator)).cuda()
    weights = torch.randn(517, n_wires if readout == "pauli_z" else 2**n_wires, generator=generator).cuda()
    options = {"readout": readout, "matmul_precision": precision}
    exact = cases.outputs("layers", circuit, x.double(), angles.double(), weights, readout=readout)
    ours, again = (cases.outputs("triton", circuit, x, angles, weights, **options) for _ in range(2))
    assert max(cases.off(ours, exact)) < {"highest": 1e-5, "tf32x3": 1e-5, "tf32": 2e-2}[precision]
    assert all(torch.equal(a, b) for a, b in zip(ours, again, strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_is_measured():
    rows = measure_device(torch.device("cuda"), wires=(8,), samples=(64,))
    assert [(row.n_wires, row.components) for row in rows] == [(8, 2), (8, 1)]


def test_triton_is_imported_only_where_it_runs():
    """A circuit on a CPU imports none of the modules that import Triton, and runs as if there were none."""
    code = """
import sys, torch
from importlib.abc import MetaPathFinder

class Refused(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.startswith("ketune.circuits._triton") and name != "ketune.circuits._triton_tables":
            raise AssertionError(name)

sys.meta_path.insert(0, Refused())
from ketune.circuits import QuantumLayer, calibrate, rxryrz_ring
layer = QuantumLayer(rxryrz_ring(8))
x = torch.ones(3, 256, requires_grad=True)
layer(x).sum().backward()
torch.compile(layer, backend="aot_eager")(x).sum().backward()
calibrate(keep=False)
"""
    variables = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=variables)
    assert done.returncode == 0, done.stderr
