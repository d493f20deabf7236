"""Which form is faster on a CUDA device: what `calibrate` measured there, and the choice that follows.

Nothing is assumed of a device: until it has been measured, circuits run as matrix products on it.
"""

from __future__ import annotations

import math
import os
import statistics
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise

import torch

WIRES, SAMPLES, LAYERS = (8, 10, 12), (64, 2048), 4
"""The sizes that `measure_device` times. Both forms' times grow alike with the layers, so one depth serves."""


@dataclass(frozen=True)
class DeviceTime:
    """Milliseconds of a forward and backward pass on one device.

    Attributes:
        n_wires: of the circuit.
        components: 2 for complex states, 1 for real ones.
        matmul_precision: as `ketune.circuits.run`.
        n_samples: size of the batch.
        products_ms: by matrix products.
        triton_ms: by the Triton kernels.
    """

    n_wires: int
    components: int
    matmul_precision: str
    n_samples: int
    products_ms: float
    triton_ms: float

    def __post_init__(self) -> None:
        if not (self.products_ms > 0 and self.triton_ms > 0 and self.n_samples > 0):
            raise ValueError(f"{self}: times and samples must be positive")


def triton_setting() -> str | None:
    """What the variable KETUNE_TRITON says: "0" never, "1" wherever the kernels can run; None leaves it to measurement.

    Without Triton the answer is "0".
    """
    value = os.environ.get("KETUNE_TRITON")
    if value == "0" or find_spec("triton") is None:
        return "0"
    return "1" if value == "1" else None


def triton_is_faster(
    times: Sequence[DeviceTime], n_wires: int, components: int, matmul_precision: str, n_samples: int
) -> bool:
    """The choice: between measured batch sizes along the logarithm, outside them as at the nearest one.

    Args:
        times: what was measured on the device; sizes of circuits that were not are taken for the nearest that was.
        n_wires: of the circuit.
        components: of its states.
        matmul_precision: in which it runs.
        n_samples: size of the batch.
    """
    alike = [t for t in times if (t.components, t.matmul_precision) == (components, matmul_precision)]
    if not alike:
        return False
    nearest = min({t.n_wires for t in alike}, key=lambda wires: (abs(wires - n_wires), -wires))
    rows = sorted((t for t in alike if t.n_wires == nearest), key=lambda t: t.n_samples)
    ratios = [math.log(t.triton_ms / t.products_ms) for t in rows]
    place = math.log(max(n_samples, 1))
    sizes = [math.log(t.n_samples) for t in rows]
    if place <= sizes[0]:
        return ratios[0] < 0
    for k in range(1, len(rows)):
        if place <= sizes[k]:
            share = (place - sizes[k - 1]) / (sizes[k] - sizes[k - 1])
            return ratios[k - 1] + share * (ratios[k] - ratios[k - 1]) < 0
    return ratios[-1] < 0


def _cuda_milliseconds(work: Callable[[], object], calls: int = 9) -> float:
    """Median time of a call on the current stream, after two that compile and warm up."""
    work()
    work()
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(calls + 1)]
    marks[0].record()
    for mark in marks[1:]:
        work()
        mark.record()
    torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(stop) for start, stop in pairwise(marks))


def measure_device(
    device: torch.device,
    milliseconds: Callable[[Callable[[], object]], float] = _cuda_milliseconds,
    wires: Sequence[int] = WIRES,
    samples: Sequence[int] = SAMPLES,
    matmul_precision: str = "highest",
) -> list[DeviceTime]:
    """Times both forms on circuits of real and of complex gates; a minute or two, nearly all of it compilation.

    Args:
        device: where.
        milliseconds: what times a call.
        wires: numbers of wires, 8 to 12.
        samples: sizes of the batch.
        matmul_precision: in which to multiply.
    """
    from ketune.circuits._execute import run_once
    from ketune.circuits._plan import Plan
    from ketune.circuits.ansatz import rxryrz_ring, ry_ring

    times = []
    for n_wires in wires:
        for ansatz in (rxryrz_ring, ry_ring):
            circuit = ansatz(n_wires, LAYERS)
            plan = Plan(circuit, "amplitude", "pauli_z", n_wires, 2**n_wires, matmul_precision)
            angles = torch.linspace(-3, 3, circuit.n_angles, device=device)
            for n_samples in samples:
                x = torch.randn(n_samples, 2**n_wires, device=device)
                spent = []
                for form in (plan.product_form(n_samples), "triton"):
                    plan.forced = form
                    try:
                        spent.append(milliseconds(run_once(plan, x, angles)))
                    except Exception as error:
                        # Whatever a compiler or a driver objects to: the form is not chosen, and the user is told.
                        warnings.warn(f"form {form!r} failed on {device} and is not used: {error}", stacklevel=2)
                        break
                if len(spent) == 2:
                    row = DeviceTime(n_wires, plan.components, matmul_precision, n_samples, spent[0], spent[1])
                    times.append(row)
    return times
