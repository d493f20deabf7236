"""Speed and memory of `ketune.circuits.run` beside PennyLane and a plain gate-by-gate simulator, in one run.

Every peer computes the same thing: Pauli-Z of every wire for a batch of amplitude-encoded real feature vectors, and the
gradients of a weighted sum of the readouts to the features and to the angles (one forward and one backward pass).
Values and gradients of all peers are compared with a float64 reference before anything is timed. Peers take turns, so
that a busy machine slows all of them alike; the figure is the least CPU time of the turns, summed over threads (on CUDA
the least wall time of a finished pass).

    python benchmarks/circuits.py               # the default grid, about a minute
    python benchmarks/circuits.py --wires 8 10 --samples 2048 --layers 2 --ansatz rxryrz_ring
    python benchmarks/circuits.py --forms       # also every way to run a plan: what the cost model chooses from
    python benchmarks/circuits.py --forms --alone --ansatz rxryrz_ring --layers 2 --wires 10 12 --samples 512 2048

With `--forms`, the last column is the rate in the operations of the form (`Plan.operations`) as a fraction of the rate
of large matrix products, which is measured between the turns.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import Tensor

from ketune.circuits import ANSATZE, Circuit, run, simulate, to_pennylane
from ketune.circuits._plan import Plan, describe, program
from ketune.circuits.observables import pauli_z_words, word_signs

Forward = Callable[[Tensor, Tensor], Tensor]
DEFAULT_GRID = [(7, 64), (7, 2048), (8, 2048), (10, 64), (10, 512), (12, 64)]


def plain_torch(circuit: Circuit) -> Forward:
    """Gate after gate over the whole batch, backward by autograd."""
    signs = word_signs(pauli_z_words(circuit.n_wires), torch.arange(2**circuit.n_wires))

    def forward(x: Tensor, angles: Tensor) -> Tensor:
        states = simulate(circuit, angles, x / x.norm(dim=-1, keepdim=True))
        return states.abs().square() @ signs.to(x)

    return forward


def pennylane(circuit: Circuit) -> Forward:
    """PennyLane's default.qubit with torch and backpropagation, the whole batch broadcast."""
    import pennylane as qml

    wires = range(circuit.n_wires)
    queue = to_pennylane(circuit)

    @qml.qnode(qml.device("default.qubit", wires=circuit.n_wires), interface="torch", diff_method="backprop")
    def node(x: Tensor, angles: Tensor) -> list[object]:
        qml.AmplitudeEmbedding(x, wires=wires, normalize=True)
        queue(angles)
        return [qml.expval(qml.PauliZ(wire)) for wire in wires]

    return lambda x, angles: torch.stack(tuple(node(x, angles)), -1)


@contextmanager
def _form(name: str) -> Iterator[None]:
    cost_model = Plan.form
    Plan.form = lambda plan, n_samples, device_type: name  # type: ignore[method-assign]
    try:
        yield
    finally:
        Plan.form = cost_model  # type: ignore[method-assign]


def forms_of(plan: Plan, device: str) -> list[str]:
    """The ways to run a plan on a device."""
    return ["matrix", "layers"] + ["native"] * (device == "cpu" and plan.native() is not None)


class Gemm:
    """A large float32 matrix product on the device."""

    SIZE = 1024

    def __init__(self, device: str) -> None:
        self.left, self.right = torch.randn(2, self.SIZE, self.SIZE, device=device)

    def __call__(self) -> None:
        torch.mm(self.left, self.right)

    def rate(self, seconds: float) -> float:
        """Operations a second."""
        return 2.0 * self.SIZE**3 / seconds


def seconds_of(work: Callable[[], object], on_cuda: bool) -> float:
    """CPU time over all threads, or wall time of finished work on CUDA."""
    clock = time.perf_counter if on_cuda else time.process_time
    if on_cuda:
        torch.cuda.synchronize()
    start = clock()
    work()
    if on_cuda:
        torch.cuda.synchronize()
    return clock() - start


class Step:
    """One forward and backward pass of one peer."""

    def __init__(self, forward: Forward, x: Tensor, angles: Tensor, weights: Tensor, form: str | None = None) -> None:
        self.forward, self.weights, self.form = forward, weights, form
        self.inputs = (x.clone().requires_grad_(), angles.clone().requires_grad_())

    def __call__(self) -> tuple[Tensor, ...]:
        if self.form is not None:
            with _form(self.form):
                return self._pass()
        return self._pass()

    def _pass(self) -> tuple[Tensor, ...]:
        out = self.forward(*self.inputs)
        gradients = torch.autograd.grad(out, self.inputs, self.weights.to(out.dtype))
        return out.detach(), *gradients

    def seconds(self) -> float:
        """Time of one pass, see `seconds_of`."""
        return seconds_of(self, self.weights.is_cuda)

    def peak_bytes(self) -> int | None:
        """Memory at the highest point of one pass beyond what was held before; None where it cannot be read."""
        if self.weights.is_cuda:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            self()
            return torch.cuda.max_memory_allocated() - before
        gc.collect()
        with suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)  # pages that malloc keeps would hide the peak
        try:
            Path("/proc/self/clear_refs").write_text("5")
            before = _resident("VmRSS:")
            self()
            return max(0, _resident("VmHWM:") - before)
        except OSError:
            return None


def _resident(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise OSError(f"no {key} in /proc/self/status")


def relative_error(ours: tuple[Tensor, ...], reference: tuple[Tensor, ...]) -> float:
    """Largest relative error, in norm, of values and of both gradients."""
    pairs = zip(ours, reference, strict=True)
    return max(float((a.double() - b.double()).norm() / b.double().norm()) for a, b in pairs)


def measure(circuit: Circuit, n_samples: int, args: argparse.Namespace) -> dict[str, object]:
    """All peers on one circuit and batch."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n_samples, 2**circuit.n_wires, generator=generator).to(args.device)
    angles = (2 * torch.rand(circuit.n_angles, generator=generator) - 1).mul(torch.pi).to(args.device)
    weights = torch.randn(n_samples, circuit.n_wires, generator=generator).to(args.device)

    def ours(x: Tensor, angles: Tensor) -> Tensor:
        return run(circuit, x, angles)

    steps = {"ketune": Step(ours, x, angles, weights)}
    plan = program(describe(circuit.text, "amplitude", "pauli_z", None, x.shape[1])).plans[0]
    operations = {}
    if args.forms:
        for form in forms_of(plan, args.device):
            steps[f"ketune, {form}"] = Step(ours, x, angles, weights, form)
            operations[f"ketune, {form}"] = plan.operations(n_samples, form)
    if not args.alone:
        steps["plain torch"] = Step(plain_torch(circuit), x, angles, weights)
    if not args.alone and not args.no_pennylane:
        steps["PennyLane"] = Step(pennylane(circuit), x, angles, weights)

    # A reference on a few samples is enough, and it must not set the memory's high-water mark.
    few = min(n_samples, 16)
    reference = Step(plain_torch(circuit), x[:few].double(), angles.double(), weights[:few])()
    errors = {
        name: relative_error(Step(step.forward, x[:few], angles, weights[:few], step.form)(), reference)
        for name, step in steps.items()
    }
    wrong = {name: error for name, error in errors.items() if not error < args.tolerance}
    if wrong:
        raise SystemExit(f"peers disagree with the float64 reference at {circuit.n_wires} wires: {wrong}")

    peaks = {name: step.peak_bytes() for name, step in steps.items()}  # the first pass also warms up
    times: dict[str, list[float]] = {name: [] for name in steps}
    gemm, gemm_times = Gemm(args.device), list[float]()
    deadline = time.perf_counter() + args.seconds
    while len(times["ketune"]) < args.repeats and (not times["ketune"] or time.perf_counter() < deadline):
        for name, step in steps.items():
            # A fast peer gets several passes per turn, so that its least time is as reliable as a slow one's.
            first = step.seconds()
            more = min(10, int(0.05 / max(first, 1e-6)))
            times[name].append(min([first, *(step.seconds() for _ in range(more))]))
        gemm_times += [seconds_of(gemm, weights.is_cuda) for _ in range(3)]
    gemm_rate = gemm.rate(min(gemm_times))
    least = {name: min(values) for name, values in times.items()}
    return {
        "n_wires": circuit.n_wires,
        "n_samples": n_samples,
        "n_gates": len(circuit.gates),
        "gemm_rate": gemm_rate,
        "peers": {
            name: {
                "milliseconds": 1e3 * least[name],
                "ratio": least[name] / least["ketune"],
                "peak_mib": None if peaks[name] is None else peaks[name] / 2**20,  # type: ignore[operator]
                "relative_error": errors[name],
                "gemm_fraction": operations[name] / least[name] / gemm_rate if name in operations else None,
            }
            for name in steps
        },
    }


def main() -> None:
    """Parses, measures, prints a table and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ansatz", default="ryrz_ring_ry", choices=sorted(ANSATZE))
    parser.add_argument("--layers", type=int, default=1, help="layers of the ansatz (default 1)")
    parser.add_argument("--wires", type=int, nargs="+", help="numbers of wires, in place of the default grid")
    parser.add_argument("--samples", type=int, nargs="+", help="batch sizes, in place of the default grid")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default 1)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--repeats", type=int, default=7, help="turns of each peer (default 7)")
    parser.add_argument("--seconds", type=float, default=5.0, help="take no more turns after this (default 5 per case)")
    parser.add_argument("--forms", action="store_true", help="measure every way to run a plan, too")
    parser.add_argument("--alone", action="store_true", help="leave all peers out")
    parser.add_argument("--no-pennylane", action="store_true", help="leave PennyLane out")
    parser.add_argument("--tolerance", type=float, default=1e-4, help="largest relative error allowed (default 1e-4)")
    parser.add_argument("--json", type=Path, default=Path("runs/benchmarks/circuits.json"), help="where to write")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    grid = DEFAULT_GRID
    if args.wires or args.samples:
        grid = [(n, b) for n in args.wires or [8] for b in args.samples or [64, 512, 2048]]

    machine = f"{platform.machine()} CPU, {args.threads} thread(s)"
    if args.device.startswith("cuda"):
        machine = torch.cuda.get_device_name()
    print(f"{args.ansatz}, {args.layers} layer(s), float32, forward + backward to features and angles")
    print(f"{machine}, torch {torch.__version__}")
    print(
        f"{'wires':>5} {'samples':>7}  {'peer':<15} {'ms':>9} {'x ketune':>9} {'peak MiB':>9} "
        f"{'rel. error':>10} {'/ GEMM':>7}"
    )
    cases = []
    for n_wires, n_samples in grid:
        case = measure(ANSATZE[args.ansatz](n_wires, args.layers), n_samples, args)
        cases.append(case)
        for name, row in case["peers"].items():  # type: ignore[attr-defined]
            peak = "-" if row["peak_mib"] is None else f"{row['peak_mib']:.1f}"
            share = "-" if row["gemm_fraction"] is None else f"{row['gemm_fraction']:.2f}"
            print(
                f"{n_wires:5d} {n_samples:7d}  {name:<15} {row['milliseconds']:9.2f} {row['ratio']:9.2f} {peak:>9} "
                f"{row['relative_error']:10.1e} {share:>7}",
                flush=True,
            )
    record = {
        "what": "circuits: forward + backward to features and angles, Pauli-Z readout, float32",
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "ansatz": args.ansatz,
        "n_layers": args.layers,
        "machine": machine,
        "torch": torch.__version__,
        "cases": cases,
    }
    args.json.parent.mkdir(parents=True, exist_ok=True)
    partial = args.json.with_suffix(".partial")
    partial.write_text(json.dumps(record, indent=1))
    partial.replace(args.json)
    print(f"written to {args.json}")


if __name__ == "__main__":
    main()
