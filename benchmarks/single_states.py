"""Energies of single states of many wires and their gradients: `evolve` beside `simulate` and PennyLane.

The energy is that of the transverse-field Ising chain after two layers of an ansatz from |0...0>, in single precision,
with the gradient to the angles. Every tool runs in a process of its own, one after the other; figures are the least CPU
time of a few calls, and the memory at the highest point beyond what the process held before. Energies must agree with
the float64 value of `evolve` to 1e-3 of its size (Lightning loses digits in complex64), or the tool is reported as
wrong.

    python benchmarks/single_states.py                      # 16 and 18 wires, about a minute
    python benchmarks/single_states.py --wires 20 --tools evolve lightning.qubit
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
import warnings

import numpy as np
import torch
from torch import Tensor

from ketune.circuits import Circuit, evolve, rxryrz_ring, ry_ring, simulate, to_pennylane, transverse_ising

ANSATZE = {"ry_ring": ry_ring, "rxryrz_ring": rxryrz_ring}
TOOLS = ("evolve", "simulate", "default.qubit", "lightning.qubit")


def energy_of(tool: str, circuit: Circuit):
    """A function of the angles."""
    hamiltonian = transverse_ising(circuit.n_wires)
    if tool in ("evolve", "simulate"):
        final_state = evolve if tool == "evolve" else simulate
        return lambda angles: hamiltonian.expectation(final_state(circuit, angles))
    import pennylane as qml

    options = {"c_dtype": np.complex64} if tool == "lightning.qubit" else {}
    words = [qml.pauli.string_to_pauli_word(word) for word in hamiltonian.words]
    observable = qml.dot(list(hamiltonian.coefficients), words)
    queue = to_pennylane(circuit)
    method = "adjoint" if tool == "lightning.qubit" else "backprop"

    @qml.qnode(qml.device(tool, wires=circuit.n_wires, **options), interface="torch", diff_method=method)
    def node(angles: Tensor) -> object:
        queue(angles)
        return qml.expval(observable)

    return node


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(tool: str, ansatz: str, n_wires: int, repeats: int) -> dict[str, float]:
    """Seconds and memory of one tool in this process."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    circuit = ANSATZE[ansatz](n_wires, 2)
    angles = torch.rand(circuit.n_angles, generator=torch.Generator().manual_seed(0))
    energy, before = energy_of(tool, circuit), _peak_mib()
    forward, both, value = [], [], 0.0
    for _ in range(repeats):
        start = time.process_time()
        with torch.no_grad():
            value = float(energy(angles))
        forward.append(time.process_time() - start)
    for _ in range(repeats):
        inputs = angles.clone().requires_grad_()
        start = time.process_time()
        energy(inputs).backward()
        both.append(time.process_time() - start)
    return {"forward": min(forward), "both": min(both), "mib": _peak_mib() - before, "energy": value}


def exact_energy(ansatz: str, n_wires: int) -> float:
    """The energy in float64."""
    circuit = ANSATZE[ansatz](n_wires, 2)
    angles = torch.rand(circuit.n_angles, generator=torch.Generator().manual_seed(0)).double()
    return float(energy_of("evolve", circuit)(angles))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wires", type=int, nargs="+", default=[16, 18])
    parser.add_argument("--ansatz", nargs="+", choices=list(ANSATZE), default=list(ANSATZE))
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=list(TOOLS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cell", nargs=3, metavar=("TOOL", "ANSATZ", "WIRES"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        tool, ansatz, n_wires = options.cell
        print(json.dumps(measure(tool, ansatz, int(n_wires), options.repeats)))
        return
    print("| wires | ansatz | tool | forward, s | forward and backward, s | peak, MiB |\n|---:|---|---|---:|---:|---:|")
    for n_wires in options.wires:
        for ansatz in options.ansatz:
            wanted = exact_energy(ansatz, n_wires)
            for tool in options.tools:
                command = [sys.executable, __file__, "--repeats", str(options.repeats), "--cell", tool, ansatz]
                done = subprocess.run([*command, str(n_wires)], capture_output=True, text=True, check=False)
                cells = ["failed", "-", "-"]
                if done.returncode == 0:
                    row = json.loads(done.stdout.splitlines()[-1])
                    cells = [f"{row['forward']:.3f}", f"{row['both']:.3f}", f"{row['mib']:.0f}"]
                    if abs(row["energy"] - wanted) > 1e-3 * abs(wanted):
                        cells[0] = f"wrong: {row['energy']:.4f}, not {wanted:.4f}"
                print(f"| {n_wires} | {ansatz} | {tool} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
