"""How far results of `ketune.circuits.run` are from those of float64, by wires, layers and precision.

Each figure is the largest relative error, in norm, over random inputs: of the readouts, of the gradient to the features
and of the gradient to the angles. The float64 results come from the plain gate-by-gate simulation.

    python benchmarks/precision.py
    python benchmarks/precision.py --wires 4 8 12 --layers 2 16 --samples 32
    KETUNE_NATIVE=0 python benchmarks/precision.py --ways highest tf32x3 tf32 bfloat16
    python benchmarks/precision.py --device cuda --ways highest tf32x3 tf32 bfloat16

"tf32x3" and "tf32" are values of `matmul_precision`. A CPU multiplies in float32 then, on numbers that are rounded as
tensor cores do; `--device cuda` measures the real ones. "bfloat16" is full precision with features in bfloat16: their
rounding counts as error, and so does that of the features' gradient. KETUNE_NATIVE=0 leaves the compiled simulator out.
"""

from __future__ import annotations

import argparse

import torch

from ketune.circuits import Circuit, run, rxryrz_ring, simulate
from ketune.circuits.observables import pauli_z_words, word_signs

WAYS = ("highest", "tf32x3", "tf32", "bfloat16")
"""The values of `matmul_precision`, and features in bfloat16."""


def errors(circuit: Circuit, n_samples: int, seed: int, ways: list[str], device: str) -> list[list[float]]:
    """Relative errors of readouts and of both gradients, for each way."""
    generator = torch.Generator().manual_seed(seed)
    size = 2**circuit.n_wires
    x = torch.randn(n_samples, size, generator=generator)
    angles = (2 * torch.rand(circuit.n_angles, generator=generator) - 1) * torch.pi
    weights = torch.randn(n_samples, circuit.n_wires, generator=generator)
    signs = word_signs(pauli_z_words(circuit.n_wires), torch.arange(size))
    inputs = x.double().requires_grad_(), angles.double().requires_grad_()
    states = simulate(circuit, inputs[1], inputs[0] / inputs[0].norm(dim=1, keepdim=True))
    out = states.abs().square() @ signs
    exact = (out.detach(), *torch.autograd.grad(out, inputs, weights.double()))
    results = []
    for way in ways:
        half = way == "bfloat16"
        features = x.to(device, torch.bfloat16 if half else torch.float32).requires_grad_()
        trained = angles.to(device, copy=True).requires_grad_()
        out = run(circuit, features, trained, matmul_precision="highest" if half else way)
        ours = (out.detach(), *torch.autograd.grad(out, (features, trained), weights.to(device)))
        results.append([float((b.cpu().double() - a).norm() / a.norm()) for a, b in zip(exact, ours, strict=True)])
    return results


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wires", type=int, nargs="+", default=[2, 4, 6, 8, 10, 12, 14])
    parser.add_argument("--layers", type=int, nargs="+", default=[2, 8])
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ways", nargs="+", default=["highest"], choices=WAYS, help="default highest")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    options = parser.parse_args()
    print(
        "against float64, rxryrz_ring, relative error in norm, worst of the seeds: readouts, to features, to angles\n"
    )
    print("| wires | layers | " + " | ".join(options.ways) + " |\n|---:|---:|" + "---:|" * len(options.ways))
    for n_wires in options.wires:
        for n_layers in options.layers:
            circuit = rxryrz_ring(n_wires, n_layers)
            samples = max(2, min(options.samples, 2**18 // 2**n_wires // n_layers))
            seeds = [errors(circuit, samples, s, options.ways, options.device) for s in range(options.seeds)]
            worst = [[max(column) for column in zip(*of_way)] for of_way in zip(*seeds)]
            cells = [", ".join(f"{error:.1e}" for error in row) for row in worst]
            print(f"| {n_wires} | {n_layers} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
