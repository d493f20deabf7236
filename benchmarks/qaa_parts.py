"""QAA on a small language model: where its angles start, what emits them, which circuit it has.

Starts: random, data (the readout spreads), FLIP and Q-MAML (meta-trained on other data sets). Angles: free, or all from
one tensor train (TensorHyper). Circuits: the default one by hand, and one that CL-QAS chose on the model's own hidden
states (is a sentence positive or negative?). Controls: frozen random angles, and no circuit. Every arm chooses its
learning rate from one grid with one more seed on validation rows, and is tested with each seed. What stands is never
run again.

    python benchmarks/qaa_parts.py
    python benchmarks/qaa_parts.py --steps 40 --seeds 3 --starts random flip
    python benchmarks/qaa_parts.py --only-report
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ketune import QAAConfig
from ketune.comparison.statistics import mean_interval, paired_t_test
from ketune.files import write_atomically
from ketune.finetuning import (
    MetaTraining,
    TrainingParams,
    evaluate_loss,
    finetune,
    load_base,
    load_task,
    meta_train_starts,
)
from ketune.vqc import LabelledData, Rows
from ketune.vqc.architecture_search import ClassifierTraining, ContinualSearch, SearchSettings
from ketune.vqc.circuit_file import CircuitFile

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
MODEL, DATA, TEMPLATE = SHARED / "model-gpt-neo-tinystories-3m", SHARED / "e2e-nlg", "{mr} -> {ref}"
META_DATA = ("webnlg-2017", "dolly-3k", "scitldr-a")
STARTS = ("random", "data", "flip", "q_maml")
ANGLES = ("free", "tensor_train")
CIRCUITS = ("by hand", "searched")
CONTROLS = {"frozen angles": {"control": "frozen"}, "no circuit": {"control": "none"}}
RATES = (0.01, 0.03)
TUNING_SEED = 1000


@torch.no_grad()
def hidden_states(n_rows: int) -> LabelledData:
    """Rows of sentence-polarity as the model's mean hidden state after half of its blocks, with their two classes."""
    model, tokenizer = load_base(MODEL, "float32")
    rows = [json.loads(line) for line in (SHARED / "sentence-polarity" / "train.jsonl").read_text().splitlines()]
    rows = rows[:: max(1, len(rows) // n_rows)][:n_rows]
    label = next(key for key in rows[0] if key != "text" and not isinstance(rows[0][key], list))
    names = sorted({str(row[label]) for row in rows})
    states = []
    for row in rows:
        tokens = tokenizer(row["text"], return_tensors="pt", truncation=True, max_length=128)
        layers = model(**tokens, output_hidden_states=True).hidden_states
        states.append(layers[len(layers) // 2][0].mean(0))
    x, y = torch.stack(states), torch.tensor([names.index(str(row[label])) for row in rows])
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    first, second = int(0.7 * len(y)), int(0.85 * len(y))
    mean, deviation = x[:first].mean(0), x[:first].std(0)
    x = (x - mean) / deviation
    parts = [Rows(x[a:b], y[a:b]) for a, b in ((0, first), (first, second), (second, len(y)))]
    return LabelledData("polarity", *parts, n_classes=len(names), shape=(x.shape[1],))


def searched_circuit(out: Path, n_rows: int, evaluations: int) -> str:
    """The content of the circuit file that the search ends with."""
    file = out / "circuit.json"
    if not file.is_file():
        settings = SearchSettings(
            n_evaluations=evaluations, max_rank=None, training=ClassifierTraining(epochs=4), final_epochs=8
        )
        found = ContinualSearch([hidden_states(n_rows)], "reinforce", settings, out / "search").run()[-1]
        print(f"searched: {found.architecture.text}, test {found.final.test.balanced_accuracy:.3f}", flush=True)
        write_atomically(file, found.circuit_file.text + "\n")
    return CircuitFile.from_text(file.read_text()).text


def base_config(circuit: str, out: Path, options: argparse.Namespace) -> QAAConfig:
    config = QAAConfig(task_type="CAUSAL_LM")
    if circuit == "searched":
        config = replace(config, circuit=searched_circuit(out, options.search_rows, options.evaluations))
    return config


def learned_start(kind: str, circuit: str, out: Path, options: argparse.Namespace) -> str:
    """The file of a start, meta-trained once; the seeds of the arms that begin there differ in all else."""
    file = out / "starts" / f"{kind}-{circuit.replace(' ', '-')}.safetensors"
    if not file.is_file():
        limit = {"train": 400, "validation": 8, "test": 8}
        tasks = [load_task(str(SHARED / name), limit=limit) for name in META_DATA]
        settings = MetaTraining(n_steps=options.meta_steps, batch_size=4, inner_steps=3)
        result = meta_train_starts(MODEL, tasks, base_config(circuit, out, options), kind, settings)
        result.initialiser.save(file)
        first, last = result.losses[:5], result.losses[-5:]
        print(f"{file.name}: meta-loss {sum(first) / 5:.3f} to {sum(last) / 5:.3f}", flush=True)
    return str(file)


def run_arm(
    start: str, angles: str, circuit: str, more: dict[str, Any], lr: float, seed: int, out: Path, options: Any
) -> dict[str, Any]:
    config = replace(base_config(circuit, out, options), angles=angles, **more)
    if start in ("flip", "q_maml"):
        config = replace(config, init_angles=learned_start(start, circuit, out, options))
    elif start == "data":
        config = replace(config, init_angles="data")
    task = load_task(DATA, template=TEMPLATE, limit={"train": 2000, "validation": 64, "test": options.test_rows})
    params = TrainingParams(
        max_steps=options.steps,
        batch_size=8,
        max_length=128,
        learning_rate=lr,
        eval_steps=options.steps // 4,
        eval_limit=32,
        save_steps=0,
        device="cpu",
    )
    with tempfile.TemporaryDirectory() as folder:
        done = finetune(MODEL, task, config, output_dir=folder, params=params, seed=seed, progress=False)
        rows = task.validation if seed == TUNING_SEED else task.test
        loss = evaluate_loss(done.model, done.tokenizer, rows)["loss"]
    curve = [entry["eval_loss"] for entry in done.history if "eval_loss" in entry]
    return {"loss": loss, "curve": curve, "seconds": done.train_seconds, "n_trainable": done.n_trainable}


def cell(out: Path, key: str, make: Any) -> dict[str, Any]:
    file = out / "cells" / f"{key.replace(' ', '-').replace(',', '')}.json"
    if not file.is_file():
        write_atomically(file, json.dumps(make()) + "\n")
        print(f"{key}: {json.loads(file.read_text())['loss']:.4f}", flush=True)
    return json.loads(file.read_text())


def arms(options: argparse.Namespace) -> dict[str, tuple[str, str, str, dict[str, Any]]]:
    found = {
        f"{start}, {angles}, {circuit}": (start, angles, circuit, {})
        for circuit in CIRCUITS
        for angles in ANGLES
        for start in options.starts
    }
    return found | {name: ("random", "free", "by hand", more) for name, more in CONTROLS.items()}


def table(out: Path, options: argparse.Namespace) -> str:
    """A row for each arm; p is of a paired t-test against random starts, free angles, the circuit by hand."""
    lines = ["| start, angles, circuit | trained | rate | test loss | p |", "| --- |" + " ---: |" * 4]
    reference: dict[int, float] = {}
    for name, arm in arms(options).items():
        tried = {lr: cell(out, f"{name} lr{lr} tuning", partial(run_arm, *arm, lr, TUNING_SEED, out, options))["loss"]
                 for lr in RATES}  # fmt: skip
        best = min(tried, key=tried.__getitem__)
        runs = {
            seed: cell(out, f"{name} lr{best} seed{seed}", partial(run_arm, *arm, best, seed, out, options))
            for seed in range(options.seeds)
        }
        losses = {seed: run["loss"] for seed, run in runs.items()}
        reference = reference or losses
        p = paired_t_test(losses, reference).p_value if losses is not reference else None
        mean = mean_interval(list(losses.values()))
        shown = f"{mean.mean:.4f} ± {mean.half_width or 0:.4f}"
        lines.append(
            f"| {name} | {runs[0]['n_trainable']:,} | {best:g} | {shown} | {'' if p is None else f'{p:.2f}'} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=list(STARTS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--meta-steps", type=int, default=60)
    parser.add_argument("--test-rows", type=int, default=128)
    parser.add_argument("--search-rows", type=int, default=600)
    parser.add_argument("--evaluations", type=int, default=30)
    parser.add_argument("--out", type=Path, default=Path("runs/qaa-parts"))
    parser.add_argument("--only-report", action="store_true", help="run nothing; print the table that stands")
    options = parser.parse_args()
    if not MODEL.is_dir():
        parser.error(f"{MODEL} is not there: this benchmark needs the shared model and data")
    file = options.out / "table.md"
    if options.only_report:
        if not file.is_file():
            parser.error(f"no table stands in {options.out}; run without --only-report")
        print(file.read_text())
        return
    text = table(options.out, options)
    write_atomically(file, text + "\n")
    print(text)
    print(f"table: {file}")


if __name__ == "__main__":
    main()
