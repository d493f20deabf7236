"""Encoders in front of circuits and networks that emit angles, beside what has to be beaten: blocks without a circuit.

Four experiments, all offline. Test accuracies are those after the last epoch, means over seeds with 95 % intervals.

- digits: TTN-VQC and Pre+TTN-VQC. Source digits 0, 2, 4, 5, 6, 7 (all rows), target digits 1, 3, 8, 9 (140
  rows to train on), 8 wires, 2 layers; reducers TT, dense and PCA; encoders new, random and frozen, pre-trained
  and frozen, pre-trained and trained on at a tenth of the rate; circuit, equal-size linear block, frozen circuit, none.
- dots: a small convolutional network, random or pre-trained on clean quantum-dot diagrams, frozen, in front of the four
  blocks on noisy diagrams of other devices; logistic regression on pixels and Fourier features beside it.
- hyper: TensorHyper-VQC (conditioned on the input, or from a fixed latent) beside a plain circuit, started near zero or
  uniformly, with the same tensor-train front, the front alone, and the hypernetwork's own train with a linear head;
  exact, under depolarising noise in testing, and in training and testing.
- timing: one sample of 20 wires and 6 layers, forward and backward, in a process of its own.

Each cell is one JSON file, written whole or not at all; a second call goes on where the first was stopped.

    python benchmarks/vqc_encoders.py                        # half an hour on one shared core
    python benchmarks/vqc_encoders.py --only digits --seeds 10
    python benchmarks/vqc_encoders.py --only-report          # tables of what stands
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ketune.circuits import Channel, Circuit, NoiseModel, read_pauli_z, rxryrz_ring
from ketune.files import write_atomically
from ketune.vqc.classifier import CircuitClassifier
from ketune.vqc.controls import TrainOnlyClassifier
from ketune.vqc.hypernetwork import AngleHypernet
from ketune.vqc.pretraining import FrozenEncoder, pretrain_then_freeze
from ketune.vqc.problems.base import LabelledData, Rows
from ketune.vqc.problems.baselines import logistic_accuracy
from ketune.vqc.problems.digits import digits, digits_transfer
from ketune.vqc.problems.quantum_dots import quantum_dots
from ketune.vqc.reducers import DenseReducer, PCAReducer, TTReducer
from ketune.vqc.training import accuracy, train_classifier

EXPERIMENTS = ("digits", "dots", "hyper", "timing")
T_95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}
"""Factor of a 95 % interval by number of seeds (Student's t)."""

RATES = (0.01, 0.05)
"""Learning rates that every arm of "digits" tries."""

NOISE = NoiseModel(one_wire=(Channel("depolarising", 0.001),), two_wire=(Channel("depolarising", 0.01),))
Cell = tuple[str, Callable[[], dict[str, Any]]]


# --- digits: TTN-VQC and Pre+TTN-VQC


def digits_cells(seed: int) -> list[Cell]:
    plan = [("tt", "new", block) for block in ("circuit", "linear", "frozen", "none")]
    plan += [("tt", "freeze", block) for block in ("circuit", "linear", "none")]
    plan += [("tt", "unfreeze", "circuit"), ("tt", "random", "circuit")]
    plan += [(reducer, "new", block) for reducer in ("dense", "pca") for block in ("circuit", "linear")]
    plan += [("dense", "freeze", "circuit")]
    return [
        (f"digits-{reducer}-{pre}-{block}-{seed}", lambda arm=(reducer, pre, block): digits_cell(*arm, seed))
        for reducer, pre, block in plan
    ]


def digits_cell(reducer: str, pre: str, block: str, seed: int) -> dict[str, Any]:
    """Every arm is trained at each of `RATES`; what counts is the run that ends best on validation rows."""
    runs = [digits_run(reducer, pre, block, seed, lr) for lr in RATES]
    return max(runs, key=lambda run: (run["validation"], -run["loss"]))


def digits_run(reducer: str, pre: str, block: str, seed: int, lr: float) -> dict[str, Any]:
    source, target = digits_transfer(source=(0, 2, 4, 5, 6, 7), target=(1, 3, 8, 9), seed=seed)
    target = shortened(target, 140)
    generator = torch.Generator().manual_seed(seed)
    makers: dict[str, Callable[[], nn.Module]] = {
        "tt": lambda: TTReducer(64, 8, (4, 4, 4), (2, 2, 2), max_rank=2, generator=generator),
        "dense": lambda: DenseReducer(64, 8, generator),
        "pca": lambda: PCAReducer(target.train.x, 8),
    }
    circuit, encoder = rxryrz_ring(8, 2), makers[reducer]()
    if pre in ("freeze", "unfreeze"):
        model = CircuitClassifier(encoder, circuit, source.n_classes, block=block, seed=seed)
        model, before = pretrain_then_freeze(
            model,
            source,
            target.n_classes,
            mode=pre,
            seed=seed,
            epochs=10,
            batch_size=64,
            lr=lr,
            schedule="cosine",
            measure_every=10,
        )
        extra = {"source_test": before.last_test}
    else:
        encoder = FrozenEncoder(encoder) if pre == "random" else encoder
        model, extra = CircuitClassifier(encoder, circuit, target.n_classes, block=block, seed=seed), {}
    history = train_classifier(model, target, epochs=60, lr=lr, schedule="cosine", seed=seed, measure_every=60)
    found = {"test": history.last_test, "validation": history.validation[-1], "loss": history.train_loss[-1], "lr": lr}
    return {**found, **extra, **counts(model)}


# --- dots: a pre-trained network and a circuit


class SmallNet(nn.Module):
    """Three convolutions and the mean over what is left of the image: 50 x 50 pixels to 32 features."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after, size in ((1, 8, 5), (8, 16, 3), (16, 32, 3)):
            layers += [nn.Conv2d(before, after, size, stride=2), nn.BatchNorm2d(after), nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.view(-1, 1, 50, 50)).mean((-2, -1))


def dots_cells(seed: int) -> list[Cell]:
    nets = [(f"dots-{net}-{seed}", lambda net=net: dots_cell(net, seed)) for net in ("random", "pretrained")]
    return [*nets, (f"dots-logistic-{seed}", lambda: dots_baselines(seed))]


def dots_cell(net: str, seed: int) -> dict[str, Any]:
    target = quantum_dots(1000, noisy=True, seed=seed)
    found: dict[str, Any] = {}
    torch.manual_seed(seed)
    network = SmallNet()
    if net == "pretrained":
        source = quantum_dots(1000, noisy=False, seed=1000 + seed)
        whole = nn.Sequential(network, nn.Linear(32, 2))
        found["source_test"] = train_classifier(
            whole, source, epochs=10, lr=3e-3, seed=seed, measure_every=10
        ).last_test
    for block in ("circuit", "linear", "frozen", "none"):
        generator = torch.Generator().manual_seed(seed)
        encoder = FrozenEncoder(
            network, nn.Sequential(nn.LayerNorm(32, elementwise_affine=False), DenseReducer(32, 8, generator))
        )
        model = CircuitClassifier(encoder, rxryrz_ring(8, 2), 2, block=block, seed=seed)
        history = train_classifier(model, target, epochs=20, lr=0.02, schedule="cosine", seed=seed, measure_every=20)
        found[block] = {"test": history.last_test, **counts(model)}
    return found


def dots_baselines(seed: int) -> dict[str, Any]:
    target = quantum_dots(1000, noisy=True, seed=seed)
    return {features: {"test": logistic_accuracy(target, features)} for features in ("raw", "moments", "fft")}


# --- hyper: TensorHyper-VQC

HYPER = ("plain", "plain_uniform", "conditioned", "latent", "front", "train_only")


def hyper_cells(seed: int) -> list[Cell]:
    """20 wires take minutes a cell, so they see fewer rows."""
    kinds = [kind for kind in HYPER if kind != "plain_uniform"]
    cells = [(f"hyper-digits-12-{kind}-exact-{seed}", hyper_call(kind, seed, "digits", 12)) for kind in HYPER]
    noisy_kinds = [kind for kind in HYPER if kind not in ("front", "train_only")]
    cells += [(f"hyper-digits-12-{k}-noisy-{seed}", hyper_call(k, seed, "digits", 12, True)) for k in noisy_kinds]
    cells += [(f"hyper-dots-12-{kind}-exact-{seed}", hyper_call(kind, seed, "dots", 12)) for kind in kinds]
    cells += [(f"hyper-digits-20-{kind}-exact-{seed}", hyper_call(kind, seed, "digits", 20)) for kind in kinds]
    return cells


def hyper_call(kind: str, seed: int, data: str, n_wires: int, noisy: bool = False) -> Callable[[], dict[str, Any]]:
    return lambda: hyper_cell(kind, seed, data, n_wires, noisy)


def hyper_cell(kind: str, seed: int, name: str, n_wires: int, noisy: bool) -> dict[str, Any]:
    large = n_wires > 12
    data = quantum_dots(400, seed=seed) if name == "dots" else digits(300, (1, 3, 8, 9), seed)
    data = shortened(data, 48, 40) if large else data
    circuit = rxryrz_ring(n_wires, 2 if large else 6)
    model = hyper_model(kind, data, circuit, seed)
    training: dict[str, Any] = {"epochs": 8, "batch_size": 4} if large else {"epochs": 20}
    if noisy:
        training |= {"noise": NOISE, "n_trajectories": 2, "epochs": 10}
    history = train_classifier(model, data, lr=0.03, schedule="cosine", seed=seed, measure_every=100, **training)
    found: dict[str, Any] = {"test": accuracy(model, data.test), "loss": history.train_loss[-1], **counts(model)}
    if kind not in ("front", "train_only"):
        n_trajectories = 2 if large else 16
        found["test_noisy"] = accuracy(model, data.test, noise=NOISE, n_trajectories=n_trajectories, seed=seed)
    return found


def shortened(data: LabelledData, n_train: int, n_test: int | None = None) -> LabelledData:
    """Fewer rows, the first of the split's own random order."""
    train, test = (Rows(part.x[:n], part.y[:n]) for part, n in ((data.train, n_train), (data.test, n_test)))
    return LabelledData(data.name, train, data.validation, test, data.n_classes, data.shape)


def hyper_model(kind: str, data: LabelledData, circuit: Circuit, seed: int) -> nn.Module:
    """Every arm has the same tensor train in front of the wires; "train_only" has the hypernetwork's."""
    generator = torch.Generator().manual_seed(seed)
    n_modes = 3 if data.n_features == 64 else 4
    front = TTReducer(data.n_features, circuit.n_wires, max_rank=2, n_modes=n_modes, generator=generator)
    hypernet = None
    if kind in ("conditioned", "train_only"):
        hypernet = AngleHypernet(
            1, circuit.n_angles, "conditioned", n_features=data.n_features, max_rank=2, n_modes=n_modes,
            gate="none", scale=0.3, start="zeros", seed=seed,
        )  # fmt: skip
    elif kind == "latent":
        hypernet = AngleHypernet(
            1, circuit.n_angles, "latent", max_rank=2, gate="none", scale=0.3, start="zeros", seed=seed
        )
    if kind == "train_only":
        assert hypernet is not None
        return TrainOnlyClassifier(hypernet, data.n_classes, seed)
    block = "none" if kind == "front" else "circuit"
    start = "uniform" if kind == "plain_uniform" else "gaussian"
    return CircuitClassifier(front, circuit, data.n_classes, block=block, hypernet=hypernet, start=start, seed=seed)


def counts(model: nn.Module) -> dict[str, int]:
    if isinstance(model, CircuitClassifier):
        found = model.count_parameters()
        return {"quantum": found.quantum, "classical": found.classical}
    return {"quantum": 0, "classical": sum(p.numel() for p in model.parameters() if p.requires_grad)}


# --- timing


def timing_cell() -> dict[str, Any]:
    done = subprocess.run([sys.executable, __file__, "--worker"], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def timing_worker() -> None:
    circuit = rxryrz_ring(20, 6)
    generator = torch.Generator().manual_seed(0)
    x, start = torch.randn(20, generator=generator), torch.randn(circuit.n_angles, generator=generator)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    walls, cpus = [], []
    for _ in range(5):
        angles, features = start.clone().requires_grad_(), x.clone().requires_grad_()
        wall, cpu = time.perf_counter(), time.process_time()
        read_pauli_z(circuit, features, angles).sum().backward()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    found = {
        "first_s": walls[0],
        "wall_s": min(walls[1:]),
        "cpu_s": min(cpus[1:]),
        "mib": peak - before,
        "process_mib": peak,
    }
    print(json.dumps(found | {"threads": torch.get_num_threads()}))


# --- tables


def report(folder: Path) -> str:
    found = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    parts = [digits_table(found), dots_table(found), hyper_table(found)]
    if "timing" in found:
        t = found["timing"]
        parts.append(
            f"20 wires, 6 layers, one sample, forward and backward, {t['threads']} thread(s): {t['wall_s']:.2f} s of "
            f"wall time ({t['cpu_s']:.2f} s of CPU; first call {t['first_s']:.2f} s), {t['mib']:.0f} MiB beyond the "
            f"interpreter, {t['process_mib']:.0f} MiB in all."
        )
    return "\n\n".join(part for part in parts if part)


def mean_of(found: dict[str, Any], start: str, *keys: str) -> str:
    """Mean and half a 95 % interval, in percent, over the seeds of an arm."""
    values = []
    for name, cell in found.items():
        if name.rpartition("-")[0] == start:
            for key in keys:
                cell = cell.get(key, {}) if isinstance(cell, dict) else {}
            if isinstance(cell, float):
                values.append(100 * cell)
    if not values:
        return "–"
    if len(values) < 2:
        return f"{values[0]:.1f} (1)"
    half = T_95.get(len(values), 1.96) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{statistics.mean(values):.1f} ± {half:.1f} ({len(values)})"


def digits_table(found: dict[str, Any]) -> str:
    lines = [
        "| reducer | encoder | block | quantum | classical | test, % (seeds) | source test, % |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    for name, _ in digits_cells(0):
        start = name.rpartition("-")[0]
        if f"{start}-0" in found:
            _, reducer, pre, block = start.split("-")
            cell = found[f"{start}-0"]
            row = [
                reducer,
                pre,
                block,
                cell["quantum"],
                cell["classical"],
                mean_of(found, start, "test"),
                mean_of(found, start, "source_test"),
            ]
            lines.append("| " + " | ".join(map(str, row)) + " |")
    return "\n".join(lines) if len(lines) > 2 else ""


def dots_table(found: dict[str, Any]) -> str:
    lines = ["| features | block | quantum | classical | test, % (seeds) |", "|---|---|---:|---:|---:|"]
    for net in ("random", "pretrained"):
        for block in ("circuit", "linear", "frozen", "none"):
            if (cell := found.get(f"dots-{net}-0", {}).get(block)) is not None:
                test = mean_of(found, f"dots-{net}", block, "test")
                lines.append(f"| {net} network | {block} | {cell['quantum']} | {cell['classical']} | {test} |")
    if "dots-logistic-0" in found:
        tests = {name: mean_of(found, "dots-logistic", name, "test") for name in ("raw", "moments", "fft")}
        lines += [f"| {name} | logistic regression | 0 | – | {test} |" for name, test in tests.items()]
    if "dots-pretrained-0" in found:
        lines.append(f"\nThe network on its source: {mean_of(found, 'dots-pretrained', 'source_test')}.")
    return "\n".join(lines) if len(lines) > 2 else ""


def hyper_table(found: dict[str, Any]) -> str:
    lines = [
        "| data | wires | arm | trained | quantum | classical | test, exact, % (seeds) | test under noise, % |",
        "|---|---:|---|---|---:|---:|---:|---:|",
    ]
    for data, n_wires, how in (
        ("digits", 12, "exact"),
        ("digits", 12, "noisy"),
        ("dots", 12, "exact"),
        ("digits", 20, "exact"),
    ):
        for kind in HYPER:
            start = f"hyper-{data}-{n_wires}-{kind}-{how}"
            if (cell := found.get(f"{start}-0")) is not None:
                row = [
                    data,
                    n_wires,
                    kind,
                    how,
                    cell["quantum"],
                    cell["classical"],
                    mean_of(found, start, "test"),
                    mean_of(found, start, "test_noisy"),
                ]
                lines.append("| " + " | ".join(map(str, row)) + " |")
    return "\n".join(lines) if len(lines) > 2 else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/vqc_encoders"), help="where cells are kept")
    parser.add_argument("--only", nargs="+", choices=EXPERIMENTS, default=list(EXPERIMENTS), help="experiments to run")
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0, 1, ... of each arm")
    parser.add_argument("--cells", default="", help="run only cells whose names start so, such as hyper-digits-20")
    parser.add_argument("--only-report", action="store_true", help="print the tables of what stands and run nothing")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        timing_worker()
        return
    if not options.only_report:
        torch.set_num_threads(1)
        makers = {"digits": digits_cells, "dots": dots_cells, "hyper": hyper_cells}
        cells = [
            cell
            for seed in range(options.seeds)
            for name in options.only
            if name in makers
            for cell in makers[name](seed)
        ]
        cells += [("timing", timing_cell)] if "timing" in options.only else []
        cells = [cell for cell in cells if cell[0].startswith(options.cells)]
        for number, (name, run) in enumerate(cells):
            path = options.folder / f"{name}.json"
            if path.exists():
                continue
            began = time.perf_counter()
            found = run()
            found["seconds"] = time.perf_counter() - began
            write_atomically(path, json.dumps(found, indent=1) + "\n")
            print(f"[{number + 1}/{len(cells)}] {name}: {found['seconds']:.1f} s", flush=True)
    print(report(options.folder))


if __name__ == "__main__":
    main()
