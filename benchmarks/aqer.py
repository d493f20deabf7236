"""AQER beside other approximate loaders, at equal numbers of CNOTs, with and without joint optimisation of all angles.

    table      digits (6 wires), patches of scikit-learn's photographs (10), activations of a 3M GPT-Neo (7), random
               circuits (10) and ground states of the transverse-field Ising chain (10): mean infidelity over samples
    reference  AQER's infidelity on random real vectors (8 and 10 wires) and on Ising ground states, against values
               that an implementation of ours in another form gave before
    shared     one disentangler for many activations, beside circuits of each vector's own
    trains     Ising ground states on 20, 30 and 50 wires as tensor trains (needs quimb, for the ground states)

What stands is never run again, so a killed run goes on.

    python benchmarks/aqer.py                                   # hours on two cores
    python benchmarks/aqer.py --only table --data digits activations --samples 3 --cnots 10 20 --steps 300
    python benchmarks/aqer.py --only-report
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ketune.circuits import Circuit, Gate, evolve, transverse_ising
from ketune.files import write_atomically
from ketune.state_preparation import (
    COMPARED,
    LoaderRow,
    LoadingOptions,
    aqer,
    aqer_train,
    compare_loaders,
    learn_shared_loader,
    loadability,
)

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
MODEL = SHARED / "model-gpt-neo-tinystories-3m"
METHODS = (*COMPARED[:-1], "aqer rzz", "aqer so4")
FIELDS = (0.5, 0.8, 1.0, 1.2, 1.5)
REFERENCE = {
    ("gaussian", 8): {10: 0.666, 20: 0.416, 40: 0.140},
    ("gaussian", 10): {20: 0.81, 80: 0.40},
    ("ising", 10): {20: 0.012, 80: 0.0015},
}


# --- vectors


def digits(n_samples: int) -> Tensor:
    from sklearn.datasets import load_digits

    return torch.from_numpy(load_digits().data[:: 1797 // n_samples][:n_samples])


def patches(n_samples: int) -> Tensor:
    """32 x 32 grey patches of scikit-learn's two photographs, every fourth pixel."""
    from sklearn.datasets import load_sample_images

    images = [image.mean(-1)[::4, ::4] for image in load_sample_images().images]
    generator = np.random.default_rng(0)
    found = []
    for number in range(n_samples):
        image = images[number % len(images)]
        top, left = (generator.integers(0, size - 32) for size in image.shape)
        found.append(torch.from_numpy(image[top : top + 32, left : left + 32]).flatten())
    return torch.stack(found)


def activations(n_samples: int) -> Tensor:
    """What the first layer of the fifth block's MLP is given for the last token of sentences."""
    from ketune.finetuning.layer_vectors import layer_vectors

    lines = (SHARED / "sentence-polarity" / "train.jsonl").read_text().splitlines()
    rows = [json.loads(line)["text"] for line in lines[:: len(lines) // n_samples][:n_samples]]
    return torch.stack([layer_vectors(MODEL, "h.4.mlp.c_fc", text)[-1] for text in rows])


def random_circuits(n_samples: int) -> Tensor:
    """States behind 40 gates on random wires: a rotation of each of two wires, then a CZ."""
    states = []
    for seed in range(n_samples):
        generator = torch.Generator().manual_seed(seed)
        gates: list[Gate] = []
        for number in range(40):
            pair = torch.randperm(10, generator=generator)[:2].tolist()
            gates += [Gate("RY", (wire,), 2 * number + place) for place, wire in enumerate(pair)]
            gates.append(Gate("CZ", (pair[0], pair[1])))
        angles = 2 * torch.pi * torch.rand(80, generator=generator, dtype=torch.float64)
        states.append(evolve(Circuit(10, tuple(gates)), angles))
    return torch.stack(states)


def ising(n_samples: int, n_wires: int = 10) -> Tensor:
    """Ground states of the open chain at ratios of field to coupling around the transition."""
    from scipy.sparse.linalg import LinearOperator, eigsh

    states = []
    for field in FIELDS[:n_samples]:
        hamiltonian = transverse_ising(n_wires, 1.0, field)

        def multiply(vector: np.ndarray, hamiltonian: Any = hamiltonian) -> np.ndarray:
            return hamiltonian.apply(torch.from_numpy(np.ascontiguousarray(vector.ravel()))).real.numpy()

        operator = LinearOperator((2**n_wires,) * 2, matvec=multiply, dtype=float)
        start = np.random.default_rng(0).normal(size=2**n_wires)
        states.append(torch.from_numpy(eigsh(operator, k=1, which="SA", v0=start)[1][:, 0]))
    return torch.stack(states)


def gaussian(n_samples: int, n_wires: int) -> Tensor:
    return torch.randn(n_samples, 2**n_wires, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


DATA: dict[str, Callable[[int], Tensor]] = {
    "digits": digits,
    "patches": patches,
    "activations": activations,
    "random circuits": random_circuits,
    "ising": ising,
}


# --- runs


def kept(path: Path, run: Callable[[], Any]) -> Any:
    """What stands at the path, or what the run gives, which then stands there."""
    if not path.exists():
        began = time.perf_counter()
        found = run()
        write_atomically(path, json.dumps(found) + "\n")
        print(f"{path.stem}: {time.perf_counter() - began:.1f} s", flush=True)
    return json.loads(path.read_text())


def run_table(options: argparse.Namespace, folder: Path) -> None:
    for name in options.data:
        if name == "activations" and not MODEL.is_dir():
            print(f"{MODEL} is not here: activations are left out")
            continue
        vectors = DATA[name](options.samples)
        for number, vector in enumerate(vectors):
            for method in options.methods:
                for budget in options.cnots:
                    path = folder / "table" / f"{name}--{method}--{budget}--{number}.json".replace(" ", "-")
                    kept(path, lambda v=vector, m=method, b=budget: _rows(v, m, b, options.steps))


def _rows(vector: Tensor, method: str, budget: int, n_steps: int) -> list[dict[str, Any]]:
    name, _, block = method.partition(" ")
    shared = LoadingOptions(n_steps=n_steps, lr=0.02, block=block or None)
    return [asdict(row) for row in compare_loaders(vector, [budget], [name], options=shared)]


def run_reference(options: argparse.Namespace, folder: Path) -> None:
    for (kind, n_wires), by_blocks in REFERENCE.items():
        vectors = gaussian(3, n_wires) if kind == "gaussian" else ising(5, n_wires)
        for n_blocks in by_blocks:

            def run(vectors: Tensor = vectors, n_blocks: int = n_blocks) -> list[float]:
                return [found.infidelity for found in aqer(vectors, n_blocks, n_steps=options.reference_steps)]

            kept(folder / "reference" / f"{kind}--{n_wires}--{n_blocks}.json", run)


def run_shared(options: argparse.Namespace, folder: Path) -> None:
    vectors = activations(256 + options.samples)
    for n_blocks in (5, 10, 20, 40):

        def run(n_blocks: int = n_blocks) -> dict[str, Any]:
            began = time.perf_counter()
            shared = learn_shared_loader(vectors[:256], n_blocks)
            learned = time.perf_counter() - began
            began = time.perf_counter()
            new = shared.infidelities(vectors[256:])
            each = (time.perf_counter() - began) / options.samples
            began = time.perf_counter()
            own = aqer(vectors[256:], n_blocks, n_steps=options.steps, lr=0.02)
            seconds = (time.perf_counter() - began) / options.samples
            return {
                "shared": new.tolist(),
                "built": [loader.before for loader in own],
                "own": [loader.infidelity for loader in own],
                "product": loadability(vectors[256:]).product.tolist(),
                "seconds": [learned, each, seconds],
            }

        kept(folder / "shared" / f"{n_blocks}.json", run)


def run_trains(options: argparse.Namespace, folder: Path) -> None:
    try:
        import quimb.tensor as qtn  # pyright: ignore[reportMissingImports]
    except ImportError:
        print("quimb is not installed: states of more than 10 wires are left out (pip install quimb)")
        return
    from ketune.tensor_networks import TrainState

    for n_wires in (20, 30, 50):
        for n_blocks in (4 * n_wires - 40, 200) if n_wires == 50 else (4 * n_wires - 40,):
            for field in FIELDS:

                def run(n_wires: int = n_wires, n_blocks: int = n_blocks, field: float = field) -> dict[str, Any]:
                    search = qtn.DMRG2(_chain(qtn, n_wires, field), bond_dims=[8, 16, 24], cutoffs=1e-10)
                    search.solve(tol=1e-8, verbosity=0)
                    ground = search.state
                    ground.permute_arrays("lpr")
                    arrays = [np.asarray(array) for array in ground.arrays]
                    arrays[0], arrays[-1] = arrays[0][None], arrays[-1][..., None]
                    cores = [torch.from_numpy(array).to(torch.complex128) for array in arrays]
                    loader = aqer_train(
                        TrainState(cores, max_bond=24, cutoff=1e-9), n_blocks, n_steps=options.train_steps
                    )
                    return {
                        "energy": float(np.real(search.energy)),
                        "before": loader.before,
                        "after": loader.infidelity,
                        "entanglement": loader.entanglement[[0, -1]].tolist(),
                    }

                kept(folder / "trains" / f"{n_wires}--{n_blocks}--{field}.json", run)


def _chain(qtn: Any, n_wires: int, field: float) -> Any:
    """-sum Z Z - field sum X, as an operator of quimb."""
    builder = qtn.SpinHam1D(S=1 / 2)
    builder += -4.0, "Z", "Z"
    builder += -2.0 * field, "X"
    return builder.build_mpo(n_wires)


# --- tables


def report(folder: Path) -> str:
    return "\n\n".join(part for part in (table(folder), reference(folder), shared(folder), trains(folder)) if part)


def _mean(values: Sequence[float]) -> str:
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}"


def table(folder: Path) -> str:
    found: dict[tuple[str, str, bool], dict[int, list[LoaderRow]]] = {}
    for path in sorted((folder / "table").glob("*.json")):
        name, method, budget, _ = path.stem.split("--")
        for row in json.loads(path.read_text()):
            key = name, method, row["polished"]
            found.setdefault(key, {}).setdefault(int(budget), []).append(LoaderRow(**row))
    if not found:
        return ""
    budgets = sorted({budget for by_budget in found.values() for budget in by_budget})
    heads = " | ".join(f"{budget} CNOTs" for budget in budgets)
    lines = [f"| data | method | tuned | samples | {heads} |", "|---|---|---|---:|" + "---:|" * len(budgets)]
    for (name, method, tuned), by_budget in found.items():
        cells = [_mean([row.infidelity for row in by_budget[b]]) if b in by_budget else "–" for b in budgets]
        samples = max(map(len, by_budget.values()))
        lines.append(f"| {name} | {method} | {'yes' if tuned else 'no'} | {samples} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def reference(folder: Path) -> str:
    lines = ["| vectors | wires | blocks | reference | here |", "|---|---:|---:|---:|---:|"]
    for (kind, n_wires), by_blocks in REFERENCE.items():
        for n_blocks, value in by_blocks.items():
            path = folder / "reference" / f"{kind}--{n_wires}--{n_blocks}.json"
            if path.exists():
                mean = statistics.mean(json.loads(path.read_text()))
                lines.append(f"| {kind} | {n_wires} | {n_blocks} | {value} | {mean:.4f} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def shared(folder: Path) -> str:
    lines = [
        "| blocks | product state | shared blocks | own, as built | own, tuned | learned (s) | shared (ms) | own (s) |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for path in sorted((folder / "shared").glob("*.json"), key=lambda path: int(path.stem)):
        found = json.loads(path.read_text())
        learned, each, own = found["seconds"]
        numbers = " | ".join(_mean(found[key]) for key in ("product", "shared", "built", "own"))
        lines.append(f"| {path.stem} | {numbers} | {learned:.0f} | {1e3 * each:.1f} | {own:.1f} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def trains(folder: Path) -> str:
    lines = ["| wires | blocks | field | as built | tuned | entanglement |", "|---:|---:|---:|---:|---:|---|"]
    for path in sorted((folder / "trains").glob("*.json")):
        n_wires, n_blocks, field = path.stem.split("--")
        found = json.loads(path.read_text())
        first, last = found["entanglement"]
        numbers = f"{found['before']:.4f} | {found['after']:.4f} | {first:.2f} to {last:.3f}"
        lines.append(f"| {n_wires} | {n_blocks} | {field} | {numbers} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def main() -> None:
    parts = {"table": run_table, "reference": run_reference, "shared": run_shared, "trains": run_trains}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=parts, default=list(parts))
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--cnots", nargs="+", type=int, default=[20, 40, 80])
    parser.add_argument("--samples", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1000, help="of joint optimisation")
    parser.add_argument("--reference-steps", type=int, default=2000)
    parser.add_argument("--train-steps", type=int, default=100)
    parser.add_argument("--folder", type=Path, default=Path("runs/aqer"), help="where results are kept")
    parser.add_argument("--only-report", action="store_true", help="run nothing; print the tables that stand")
    options = parser.parse_args()
    if not options.only_report:
        for name in options.only:
            parts[name](options, options.folder)
    print(report(options.folder))


if __name__ == "__main__":
    main()
