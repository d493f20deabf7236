"""Sets of angles: microseconds a sample, forward and backward, where every sample has angles of its own.

The work item: B sets of angles, each from |0...0> through two layers of an ansatz to the Pauli-Z expectation of every
wire, in float32, with the gradient of `sum(out * weights)` to all B sets. Every tool runs in a process of its own on
one thread; values and gradients of eight sets must agree with the plain simulation in float64 before anything is timed.
Figures are the median CPU time of a few calls, over the number of sets.

    python benchmarks/angle_sets.py                    # beside other tools; some minutes
    python benchmarks/angle_sets.py --encodings        # sets that come from features
    python benchmarks/angle_sets.py --crossover        # several samples for each set, for the cost model
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ketune.circuits import Circuit, QuantumLayer, run, rxryrz_ring, ry_ring, to_pennylane
from ketune.circuits import _batched_angles as batched

ANSATZE = {"complex": rxryrz_ring, "real": ry_ring}
TOOLS = {
    "ketune": "Ketune",
    "plain": "Ketune, plain torch",
    "pennylane": "PennyLane, torch",
    "lightning": "Lightning, set by set",
}
ENCODINGS = ("none", "reuploading", "angle", "iqp")
TOLERANCE = {"ketune": 1e-5, "plain": 1e-5, "pennylane": 1e-3, "lightning": 1e-3}
CHECKED = 8


def sets_of(tool: str, n_wires: int, wanted: int) -> int:
    """Sets of angles that a tool is given: fewer where its memory or time asks for it, which the average allows for."""
    if tool == "ketune":
        return wanted
    return min(wanted, 16 if tool == "lightning" else 1 << 21 >> n_wires)


def function_of(tool: str, circuit: Circuit) -> Callable[[Tensor], Tensor]:
    """(B, n_angles) to (B, n_wires)."""
    if tool in ("ketune", "plain"):
        return lambda angles: run(circuit, None, angles)
    import pennylane as qml

    queue, wires = to_pennylane(circuit), range(circuit.n_wires)
    name, method = ("default.qubit", "backprop") if tool == "pennylane" else ("lightning.qubit", "adjoint")

    @qml.qnode(qml.device(name, wires=circuit.n_wires), interface="torch", diff_method=method)
    def node(angles: Tensor) -> object:
        queue(angles)
        return [qml.expval(qml.PauliZ(wire)) for wire in wires]

    if tool == "pennylane":
        return lambda angles: torch.stack(node(angles), -1)  # pyright: ignore[reportArgumentType, reportCallIssue]
    return lambda angles: torch.stack([torch.stack(node(each)) for each in angles])  # pyright: ignore


def encoded(encoding: str, circuit: Circuit) -> tuple[Callable[[Tensor], Tensor], int]:
    """A function of features (B, n) with angles for all, and n; the features become angles of each sample."""
    n_wires = circuit.n_wires
    generator = torch.Generator().manual_seed(1)
    if encoding == "reuploading":
        places = [[wire, wire + circuit.n_angles // 2] for wire in range(n_wires)]
        layer = QuantumLayer(circuit, "reuploading", feature_angles=places, generator=generator)
    else:
        layer = QuantumLayer(circuit, encoding, generator=generator)
    return lambda x: layer.to(x.dtype)(x), n_wires


def gradients(function: Callable[[Tensor], Tensor], inputs: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Values and the gradient to the inputs."""
    inputs = inputs.detach().requires_grad_()
    out = function(inputs)
    return out.detach(), torch.autograd.grad(out, inputs, weights.to(out.dtype))[0]


def measure(tool: str, kind: str, n_wires: int, n_sets: int, encoding: str, seconds: float) -> dict[str, float]:
    """Microseconds a sample of one tool in this process, after a check of its results."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    circuit = ANSATZE[kind](n_wires, 2)
    if encoding == "none":
        function, width = function_of(tool, circuit), circuit.n_angles
    else:
        function, width = encoded(encoding, circuit)
    generator = torch.Generator().manual_seed(0)
    inputs = (2 * torch.rand(n_sets, width, generator=generator) - 1) * torch.pi
    weights = torch.randn(n_sets, n_wires, generator=generator)

    few, few_weights = inputs[:CHECKED], weights[:CHECKED]
    ours, compiled = gradients(function, few, few_weights), batched.sets_program
    batched.sets_program = lambda description: None
    exact = function_of("plain", circuit) if encoding == "none" else function
    wanted = gradients(exact, few.double(), few_weights)
    batched.sets_program = compiled
    error = max(float((a.double() - b).norm() / b.norm()) for a, b in zip(ours, wanted))
    if not error <= TOLERANCE[tool]:
        return {"error": error}

    times = []
    while not times or (len(times) < 9 and sum(times) < seconds):
        start = time.process_time()
        gradients(function, inputs, weights)
        times.append(time.process_time() - start)
    return {"error": error, "us": statistics.median(times[1:] or times) / n_sets * 1e6, "sets": n_sets}


def child(options: argparse.Namespace, *cell: object) -> dict[str, float]:
    """`measure` in a process of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | ({"KETUNE_NATIVE": "0"} if cell[0] == "plain" else {})
    command = [sys.executable, __file__, "--seconds", str(options.seconds), "--cell", *map(str, cell)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        print(done.stderr[-2000:], file=sys.stderr)
        return {}
    return json.loads(done.stdout.splitlines()[-1])


def figure(result: dict[str, float], best: float) -> str:
    """A cell of a table, with the ratio to Ketune."""
    if "us" not in result:
        return f"wrong: {result['error']:.0e}" if "error" in result else "failed"
    digits = ".2f" if result["us"] < 10 else ",.0f"
    ratio = result["us"] / best
    return f"{result['us']:{digits}}" + (f" ({ratio:,.0f})" if ratio != 1 else "")


def compare(options: argparse.Namespace) -> list[dict[str, object]]:
    """Prints Ketune beside the other tools, or each encoding with and without compiled code."""
    rows = []
    tools = ["ketune", "plain"] if options.encodings else options.tools
    first = "encoding" if options.encodings else "kind"
    names = ["Ketune", "without compiled code"] if options.encodings else [TOOLS[tool] for tool in tools]
    print(f"| {first} | wires | " + " | ".join(names) + " | error of Ketune |")
    print("|---|---:|" + "---:|" * (len(tools) + 1))
    for item in ENCODINGS[1:] if options.encodings else options.kinds:
        kind, encoding = ("complex", item) if options.encodings else (item, "none")
        for n_wires in options.wires:
            results = {}
            for tool in tools:
                count = sets_of(tool, n_wires, options.sets)
                results[tool] = child(options, tool, kind, n_wires, count, encoding)
                rows.append({"tool": tool, "kind": kind, "encoding": encoding, "wires": n_wires} | results[tool])
            best = results[tools[0]].get("us", 1.0)
            cells = " | ".join(figure(results[tool], best) for tool in tools)
            print(f"| {item} | {n_wires} | {cells} | {results[tools[0]].get('error', float('nan')):.1e} |", flush=True)
    return rows


def crossover(options: argparse.Namespace) -> list[dict[str, object]]:
    """Prints what several samples for each of eight sets cost, all at once and set by set, for the cost model."""
    rows, torch_threads = [], torch.get_num_threads()
    torch.set_num_threads(1)
    print("| kind | wires | samples a set | amplitudes a set | at once | set by set |\n|---|---:|---:|---:|---:|---:|")
    for kind, ansatz in ANSATZE.items():
        for n_wires in options.wires:
            circuit = ansatz(n_wires, 2)
            for power in (16, 17, 18, 19, 20):
                samples = 1 << power >> n_wires
                x, angles = torch.randn(8, samples, 2**n_wires), torch.randn(8, 1, circuit.n_angles)
                weights, us = torch.randn(8, samples, n_wires), []
                for most in (1 << 60, 1):
                    batched._MANY_AMPLITUDES["compiled"] = most
                    times = []
                    for _ in range(5):
                        start = time.process_time()
                        gradients(lambda each, c=circuit, x=x: run(c, x, each), angles, weights)
                        times.append(time.process_time() - start)
                    us.append(statistics.median(times) / 8 / samples * 1e6)
                rows.append({"kind": kind, "wires": n_wires, "samples": samples, "at_once": us[0], "set_by_set": us[1]})
                print(f"| {kind} | {n_wires} | {samples} | 2^{power} | {us[0]:.2f} | {us[1]:.2f} |", flush=True)
    torch.set_num_threads(torch_threads)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wires", type=int, nargs="+", default=[4, 6, 8, 10, 12])
    parser.add_argument("--kinds", nargs="+", choices=list(ANSATZE), default=list(ANSATZE))
    parser.add_argument("--sets", type=int, default=2048)
    parser.add_argument("--tools", nargs="+", choices=list(TOOLS), default=list(TOOLS))
    parser.add_argument("--seconds", type=float, default=6.0, help="CPU time for the calls of a tool, about")
    parser.add_argument("--encodings", action="store_true")
    parser.add_argument("--crossover", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--cell", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        tool, kind, n_wires, n_sets, encoding = options.cell
        print(json.dumps(measure(tool, kind, int(n_wires), int(n_sets), encoding, options.seconds)))
        return
    rows = crossover(options) if options.crossover else compare(options)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
