"""How far float32 results of `ketune.circuits.run` are from float64 ones, by wires and layers.

Each figure is the largest relative error, in norm, over random inputs: of the readouts, of the gradient to the features
and of the gradient to the angles. The float64 results come from the plain gate-by-gate simulation.

    python benchmarks/precision.py
    python benchmarks/precision.py --wires 4 8 12 --layers 2 16 --samples 32
"""

from __future__ import annotations

import argparse

import torch

from ketune.circuits import Circuit, run, rxryrz_ring, simulate
from ketune.circuits.observables import pauli_z_words, word_signs


def errors(circuit: Circuit, n_samples: int, seed: int) -> list[float]:
    """Relative errors of readouts and of both gradients."""
    generator = torch.Generator().manual_seed(seed)
    size = 2**circuit.n_wires
    x = torch.randn(n_samples, size, generator=generator)
    angles = (2 * torch.rand(circuit.n_angles, generator=generator) - 1) * torch.pi
    weights = torch.randn(n_samples, circuit.n_wires, generator=generator)
    signs = word_signs(pauli_z_words(circuit.n_wires), torch.arange(size))
    results = []
    for dtype in (torch.float64, torch.float32):
        inputs = x.to(dtype).requires_grad_(), angles.to(dtype).requires_grad_()
        if dtype == torch.float64:
            states = simulate(circuit, inputs[1], inputs[0] / inputs[0].norm(dim=1, keepdim=True))
            out = states.abs().square() @ signs
        else:
            out = run(circuit, *inputs)
        results.append((out.detach(), *torch.autograd.grad(out, inputs, weights.to(dtype))))
    return [float((b.double() - a).norm() / a.norm()) for a, b in zip(*results, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wires", type=int, nargs="+", default=[2, 4, 6, 8, 10, 12, 14])
    parser.add_argument("--layers", type=int, nargs="+", default=[2, 8])
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    print("float32 against float64, rxryrz_ring, relative error in norm, worst of the seeds\n")
    print("| wires | layers | readouts | to features | to angles |\n|---:|---:|---:|---:|---:|")
    for n_wires in options.wires:
        for n_layers in options.layers:
            circuit = rxryrz_ring(n_wires, n_layers)
            samples = max(2, min(options.samples, 2**18 // 2**n_wires // n_layers))
            worst = [max(column) for column in zip(*(errors(circuit, samples, s) for s in range(options.seeds)))]
            print(f"| {n_wires} | {n_layers} | " + " | ".join(f"{error:.1e}" for error in worst) + " |", flush=True)


if __name__ == "__main__":
    main()
