"""What `test_triton.py` runs in a process of its own, in which Triton's interpreter takes the place of its compiler.

The interpreter has to be chosen before Triton is imported, and then holds for the process.
"""

import numpy as np
import torch
from hypothesis import given, settings
from tests.circuits.random_circuits import circuits

from ketune.circuits import Circuit, run, rxryrz_ring, ry_ring, ryrz_ring_ry, simulate
from ketune.circuits._plan import Plan
from ketune.circuits._triton_tables import fits_triton
from ketune.circuits.observables import pauli_z_words, word_signs

ANSATZE = {"complex": rxryrz_ring, "real": ry_ring, "phases": ryrz_ring_ry}
Z_WORDS = ["ZZIIIIII", "IIIIIIIZ", "ZIZIZIZI", "IIIIIIII", "ZZZZZZZZ"]
MIXED_WORDS = ["XIIIIIIZ", "ZZIIIIII", "IYIIIIXI", "IIIIZIIZ"]


def outputs(form, circuit, x, angles, weights, **arguments):
    """Readouts and both gradients of `run` in one of its forms."""
    chosen = Plan.form
    Plan.form = lambda plan, *_: form if form != "triton" or fits_triton(plan) else plan.product_form(1)
    try:
        inputs = x.detach().clone().requires_grad_(), angles.detach().clone().requires_grad_()
        out = run(circuit, *inputs, **arguments)
        return [out.detach(), *torch.autograd.grad(out, inputs, weights.to(out.dtype))]
    finally:
        Plan.form = chosen


def off(ours, exact):
    return [float((a.double() - b).norm() / b.norm()) for a, b in zip(ours, exact, strict=True)]


def errors(kind, n_wires, readout, n_samples, n_features, encoding="amplitude", half=False):
    """Relative errors of values, gradients to features and to angles against float64 matrix products."""
    generator = torch.Generator().manual_seed(n_wires + n_samples)
    circuit = ANSATZE[kind](n_wires, 2)
    x = torch.randn(n_samples, n_features, generator=generator)
    x = x.to(torch.bfloat16 if half else torch.float32)
    angles = 3 * torch.randn(circuit.n_angles, generator=generator)
    k = {"pauli_z": n_wires, "probabilities": 2**n_wires}.get(readout if isinstance(readout, str) else "", len(readout))
    weights = torch.randn(n_samples, k, generator=generator)
    options = {"readout": readout, "encoding": encoding}
    exact = outputs("layers", circuit, x.double(), angles.double(), weights, **options)
    ours = outputs("triton", circuit, x, angles, weights, **options)
    assert ours[1].dtype == x.dtype
    return off(ours, exact)


def errors_against_gates(kind, n_wires):
    """The same against the gate-by-gate simulation in float64, through torch's autograd."""
    generator = torch.Generator().manual_seed(n_wires)
    circuit = ANSATZE[kind](n_wires, 2)
    x = torch.randn(3, 2**n_wires, generator=generator)
    angles = 3 * torch.randn(circuit.n_angles, generator=generator)
    weights = torch.randn(3, n_wires, generator=generator)
    inputs = x.double().requires_grad_(), angles.double().requires_grad_()
    states = simulate(circuit, inputs[1], inputs[0] / inputs[0].norm(dim=1, keepdim=True))
    signs = word_signs(pauli_z_words(n_wires), torch.arange(2**n_wires))
    out = states.abs().square() @ signs
    exact = [out.detach(), *torch.autograd.grad(out, inputs, weights.double())]
    return off(outputs("triton", circuit, x, angles, weights), exact)


def random_circuits():
    """Compares circuits of any gates, permutations with signs among them."""
    _compare()


@settings(deadline=None, max_examples=8, database=None, derandomize=True)
@given(circuits(min_wires=8, max_wires=8, max_gates=30))
def _compare(circuit: Circuit):
    generator = torch.Generator().manual_seed(len(circuit.gates))
    x = torch.randn(2, 256, generator=generator)
    angles = torch.randn(max(circuit.n_angles, 1), generator=generator)[: circuit.n_angles]
    for readout, k in ((Z_WORDS, len(Z_WORDS)), ("probabilities", 256)):
        weights = torch.randn(2, k, generator=generator)
        exact = outputs("layers", circuit, x.double(), angles.double(), weights, readout=readout)
        ours = outputs("triton", circuit, x, angles, weights, readout=readout)
        for a, b in zip(ours, exact, strict=True):
            np.testing.assert_allclose(a.double(), b, atol=2e-6 * float(b.abs().max() + 1) if b.numel() else 0)


def parts_alone():
    """Gradients to the features alone and to the angles alone, and those of both."""
    circuit = rxryrz_ring(8)
    generator = torch.Generator().manual_seed(3)
    x, angles = torch.randn(3, 256, generator=generator), torch.randn(circuit.n_angles, generator=generator)
    weights = torch.randn(3, 8, generator=generator)
    both = outputs("triton", circuit, x, angles, weights)
    chosen = Plan.form
    Plan.form = lambda plan, *_: "triton"
    try:
        alone = []
        for index, need in enumerate((x, angles)):
            inputs = [x, angles]
            inputs[index] = need.clone().requires_grad_()
            alone.append(torch.autograd.grad(run(circuit, *inputs), inputs[index], weights)[0])
    finally:
        Plan.form = chosen
    return [torch.equal(a, b) for a, b in zip(alone, both[1:], strict=True)]


def several_programs():
    """Whether runs on five programs agree with themselves to the bit, and their distance from those on one."""
    from ketune.circuits import _triton

    circuit = rxryrz_ring(8)
    generator = torch.Generator().manual_seed(4)
    x, angles = torch.randn(22, 256, generator=generator), torch.randn(circuit.n_angles, generator=generator)
    weights = torch.randn(22, 8, generator=generator)
    one = outputs("triton", circuit, x, angles, weights)
    _triton._PROGRAMS_FORWARD, _triton._PROGRAMS_BACK = 5, 5
    several = [outputs("triton", circuit, x, angles, weights) for _ in range(2)]
    same = [torch.equal(a, b) for a, b in zip(*several, strict=True)]
    return same, off(several[0], [tensor.double() for tensor in one])


def little_memory():
    """Errors when product states are made a few at a time and few programs may keep gradients."""
    from ketune.circuits import _triton

    _triton._STATE_BYTES, _triton._GRADIENT_BYTES = 1, 1
    return errors("complex", 8, "pauli_z", 5, 8, encoding="angle")


def zero_features():
    circuit = ry_ring(8)
    x = torch.zeros(2, 256)
    x[1, 0] = 2
    out, d_x, d_angles = outputs("triton", circuit, x, torch.zeros(circuit.n_angles), torch.ones(2, 8))
    return out[0].abs().max().item(), out[1].tolist(), d_x[0].abs().max().item(), bool(d_angles.isfinite().all())


def float64_and_empty():
    """Types and shapes where the kernels cannot run: the matrix products do."""
    circuit = ry_ring(8)
    angles = torch.zeros(circuit.n_angles)
    double = outputs("triton", circuit, torch.ones(2, 256).double(), angles.double(), torch.ones(2, 8))
    empty = outputs("triton", circuit, torch.ones(0, 256), angles, torch.ones(0, 8))
    return [str(t.dtype) for t in double], [list(t.shape) for t in empty]


def measured_forms():
    """What `measure_device` finds in a moment, with a clock that counts the calls."""
    from ketune.circuits._device_costs import measure_device

    calls = []

    def clock(work):
        calls.append(work())
        return float(len(calls))

    rows = measure_device(torch.device("cpu"), clock, wires=(8,), samples=(2,))
    finite = all(bool(part.isfinite().all()) for parts in calls for part in parts)
    return [(row.n_wires, row.components, row.n_samples, row.products_ms, row.triton_ms) for row in rows], finite
