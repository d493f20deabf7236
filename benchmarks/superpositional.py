"""Superpositional gradient descent beside AdamW, SGD and matched noise, on circuits and inside a language model.

Circuits: the energies of H2 (7 strongly entangling layers) and of a Heisenberg chain on 6 wires. Language model: QAA
adapters with angles of their own on the bundled model. Every optimiser chooses its learning rate from one grid by one
more seed, and trains with each of the seeds. As a bent step takes longer, each curve is also read where AdamW's time is
up. What stands is never run again.

    python benchmarks/superpositional.py
    python benchmarks/superpositional.py --only circuits --seeds 10
    python benchmarks/superpositional.py --only-report
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ketune import QAAConfig
from ketune.comparison.statistics import mean_interval, paired_t_test
from ketune.files import write_atomically
from ketune.finetuning import TrainingParams, evaluate_loss, finetune, load_task
from ketune.optim import SuperpositionalAdamW
from ketune.vqc import STARTS, minimise
from ketune.vqc.problems.registry import make_problem

BENT: dict[str, dict[str, Any]] = {
    "superpositional 0.1": {"strength": 0.1},
    "superpositional 0.5": {"strength": 0.5},
    "superpositional 0.5, all": {"strength": 0.5, "scope": "all"},
    "random sign 0.5, all": {"strength": 0.5, "scope": "all", "perturbation": "random_sign"},
    "gaussian 0.5, all": {"strength": 0.5, "scope": "all", "perturbation": "gaussian"},
}
OPTIMISERS = ("AdamW", *BENT, "SGD")
PROBLEMS: dict[str, tuple[str, dict[str, Any]]] = {
    "h2": ("h2", {"length": 0.7414}),
    "heisenberg": ("heisenberg", {"n_wires": 6, "n_layers": 3, "coupling": [1.5, -0.7, 2.0]}),
}
CIRCUIT_RATES = (0.01, 0.03, 0.1)
MODEL_RATES = (0.005, 0.015, 0.045)
TUNING_SEED = 1000
TARGET = 1.6e-3  # Hartree, what chemists call accurate; for the chain a share of the ground energy


def of_circuit(name: str, lr: float, seed: int) -> Callable[[list[torch.Tensor]], torch.optim.Optimizer]:
    if name == "SGD":
        return lambda angles: torch.optim.SGD(angles, lr=lr)
    if name == "AdamW":
        return lambda angles: torch.optim.AdamW(angles, lr=lr, weight_decay=0.0)
    return lambda angles: SuperpositionalAdamW(angles, lr=lr, seed=seed, **BENT[name])


def run_circuit(problem_name: str, optimiser: str, lr: float, seed: int, n_steps: int) -> dict[str, Any]:
    """Gaps to the ground energy (Hartree for H2, a share for the chain) and seconds of one run from a uniform start."""
    name, options = PROBLEMS[problem_name]
    problem = make_problem(name, **options)
    start = STARTS["uniform"](problem.circuit, torch.Generator().manual_seed(seed))
    trace = minimise(problem, start, of_circuit(optimiser, lr, seed), n_steps)
    unit = 1.0 if problem_name == "h2" else abs(problem.ground_energy)
    gaps = ((trace.energies - problem.ground_energy) / unit).tolist()
    return {"curve": gaps, "last": gaps[-1], "seconds": trace.seconds}


def run_model(optimiser: str, lr: float, seed: int, n_steps: int) -> dict[str, Any]:
    """Loss on 128 test rows (on validation rows while rates are chosen) after QAA on the bundled model."""
    task = load_task("builtin:inns", limit={"train": 2000, "validation": 64, "test": 128})
    name = {"AdamW": "adamw_torch", "SGD": "sgd"}.get(optimiser, "superpositional")
    params = TrainingParams(
        max_steps=n_steps,
        batch_size=8,
        learning_rate=lr * (100 if optimiser == "SGD" else 1),
        optimizer=name,
        optimizer_options=BENT.get(optimiser, {}),
        eval_steps=0,
        save_steps=0,
        device="cpu",
    )
    with tempfile.TemporaryDirectory() as folder:
        done = finetune("builtin:base", task, QAAConfig(), output_dir=folder, params=params, seed=seed, progress=False)
        rows = task.validation if seed == TUNING_SEED else task.test
        loss = evaluate_loss(done.model, done.tokenizer, rows)["loss"]
    return {"last": loss, "seconds": done.train_seconds}


def cell(out: Path, key: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    file = out / f"{key.replace(' ', '-').replace(',', '')}.json"
    if not file.is_file():
        write_atomically(file, json.dumps(make()) + "\n")
        print(f"{key}: {json.loads(file.read_text())['last']:.5f}", flush=True)
    return json.loads(file.read_text())


def rows_of(
    out: Path, kind: str, rates: tuple[float, ...], seeds: int, make: Callable[[str, float, int], dict[str, Any]]
) -> dict[str, tuple[float, list[dict[str, Any]]]]:
    """By optimiser its chosen rate and its runs."""
    found = {}
    for name in OPTIMISERS:
        tried = {
            lr: cell(out, f"{kind} {name} lr{lr} tuning", partial(make, name, lr, TUNING_SEED))["last"] for lr in rates
        }
        best = min(tried, key=tried.__getitem__)
        runs = [cell(out, f"{kind} {name} lr{best} seed{n}", partial(make, name, best, n)) for n in range(seeds)]
        found[name] = best, runs
    return found


def table(kind: str, found: dict[str, tuple[float, list[dict[str, Any]]]]) -> str:
    """One row for each optimiser; p is of a paired t-test against AdamW, not corrected for the number of rows."""
    lines = [f"| {kind} | rate | last | in AdamW's time | median steps to {TARGET:g} | seconds | p |"]
    lines.append("| --- |" + " ---: |" * 6)
    reference = {seed: run["last"] for seed, run in enumerate(found["AdamW"][1])}
    for name, (rate, runs) in found.items():
        last = mean_interval([run["last"] for run in runs])
        in_time = []
        for seed, run in enumerate(runs):
            allowed = found["AdamW"][1][seed]["seconds"]
            if "curve" in run:
                taken = len(run["curve"]) - 1
                in_time.append(run["curve"][min(taken, int(taken * allowed / run["seconds"]))])
        arrived = sorted(
            next((step for step, gap in enumerate(run["curve"]) if gap <= TARGET), math.inf)
            for run in runs
            if "curve" in run
        )
        steps = f"{arrived[len(arrived) // 2]:g}" if arrived else "–"
        timed = f"{mean_interval(in_time).mean:.2e}" if in_time else "–"
        seconds = mean_interval([run["seconds"] for run in runs]).mean
        p = paired_t_test({seed: run["last"] for seed, run in enumerate(runs)}, reference).p_value
        digits = ".2e" if in_time else ".4f"
        shown = f"{last.mean:{digits}} ± {last.half_width or 0:{digits}}"
        said = "" if name == "AdamW" or p is None else f"{p:.2f}"
        lines.append(f"| {name} | {rate:g} | {shown} | {timed} | {steps} | {seconds:.1f} | {said} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=("circuits", "model"), default=["circuits", "model"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=300, help="iterations on circuits")
    parser.add_argument("--model-steps", type=int, default=100, help="steps of the language model")
    parser.add_argument("--out", type=Path, default=Path("runs/superpositional"))
    parser.add_argument("--only-report", action="store_true", help="run nothing; print the tables that stand")
    options = parser.parse_args()
    if options.only_report:
        text = options.out / "tables.md"
        if not text.is_file():
            parser.error(f"no results stand in {options.out}; run without --only-report")
        print(text.read_text())
        return
    tables = []
    if "circuits" in options.only:
        for problem in PROBLEMS:
            make = partial(run_circuit, problem, n_steps=options.steps)
            found = rows_of(options.out, problem, CIRCUIT_RATES, options.seeds, make)
            tables.append(table(f"{problem}, {options.steps} steps", found))
    if "model" in options.only:
        make = partial(run_model, n_steps=options.model_steps)
        found = rows_of(options.out, "model", MODEL_RATES, options.seeds, make)
        tables.append(table(f"QAA, {options.model_steps} steps", found))
    write_atomically(options.out / "tables.md", "\n\n".join(tables) + "\n")
    print("\n\n".join(tables))
    print(f"tables: {options.out / 'tables.md'}")


if __name__ == "__main__":
    main()
