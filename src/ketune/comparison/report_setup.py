"""The sections of a report that say what was run and how it was measured."""

from __future__ import annotations

from typing import Any

from ketune.comparison.arms import SAME_SIZE, Comparison
from ketune.comparison.document import Block, Bullets, Code, Section, Table
from ketune.comparison.report_command import command
from ketune.comparison.report_text import count

_TRAINING = (
    ("max_steps", "steps"),
    ("batch_size", "sequences per batch"),
    ("max_seq_length", "tokens per sequence at most"),
    ("lr_scheduler", "schedule"),
    ("warmup_ratio", "warm-up"),
    ("weight_decay", "weight decay"),
    ("dtype", "dtype"),
)


def what_was_run(comparison: Comparison) -> Section:
    """Model, data, size, seeds, machine, versions, and the command that does it again."""
    asked, some = comparison.asked, comparison.any_result
    rows: list[tuple[str, str]] = []
    if some is not None:
        rows += _model_and_data(comparison)
    rows.append(("Methods", "; ".join(dict.fromkeys(arm.label for arm in comparison.arms)) or "none yet"))
    seeds = sorted({r.ketune.seed for arm in comparison.arms for r in (*arm.results, *arm.failed)})
    rows.append(("Seeds", ", ".join(map(str, seeds)) or "none"))
    budget = (asked.get("resolved") or {}).get("budget") or next((a.budget for a in comparison.arms if a.budget), None)
    rows.append(
        ("Budget", f"{count(budget)} trainable parameters (full fine-tuning is exempt)" if budget else "none set")
    )
    rows.append(("Cells", _cells(comparison)))
    if some is not None:
        rows += _training_and_machine(some.run_info.train_config, some.meta_info)
        dates = sorted(r.run_info.created_at for arm in comparison.arms for r in arm.results if r.run_info.created_at)
        if dates:
            first, last = dates[0][:16].replace("T", " "), dates[-1][:16].replace("T", " ")
            rows.append(("Run", first if first == last else f"{first} to {last}"))
    blocks: list[Block] = [Table(("What", "Value"), rows, n_text=2)]
    if line := command(asked, comparison.folder):
        blocks.append(Code(line))
    return Section("What was run", blocks)


def _model_and_data(comparison: Comparison) -> list[tuple[str, str]]:
    some = comparison.any_result
    assert some is not None
    n_base = next((n for arm in comparison.finished if (n := arm.n_base)), None)
    model = some.run_info.train_config.get("model_id") or comparison.asked.get("model") or "not recorded"
    rows = [("Base model", str(model) + (f", {count(n_base)} parameters" if n_base else ""))]
    data = comparison.asked.get("data") or some.run_info.train_config.get("data")
    names = [str(data)] if data else list(some.meta_info.get("dataset_info") or {})
    n_tokens = comparison.base_scores.get("n_tokens")
    scored = f"; test loss over {count(int(n_tokens))} tokens" if n_tokens else ""
    rows.append(("Data", (", ".join(names) or "not recorded") + scored))
    return rows


def _cells(comparison: Comparison) -> str:
    finished = sum(len(arm.results) for arm in comparison.arms)
    failed = sum(len(arm.failed) for arm in comparison.arms)
    planned = len((comparison.asked.get("resolved") or {}).get("experiments") or ()) * len(
        comparison.asked.get("seeds") or ()
    )
    text = f"{finished} finished, {failed} failed"
    open_cells = planned - finished - failed
    return text + (f", {open_cells} not yet run" if open_cells > 0 else "")


def _training_and_machine(config: dict[str, Any], meta: dict[str, Any]) -> list[tuple[str, str]]:
    training = [f"{name} {config[key]}" for key, name in _TRAINING if config.get(key) is not None]
    system = meta.get("system_info") or {}
    processor = system.get("accelerator") or system.get("gpu") or system.get("processor") or "cpu"
    machine = [str(processor), *(str(system[key]) for key in ("machine", "system") if system.get(key))]
    for key, name in (("cpu_cores", "cores"), ("threads", "threads per cell"), ("cells_at_once", "cells at once")):
        if system.get(key):
            machine.append(f"{name}: {system[key]}")
    packages = meta.get("package_info") or {}
    versions = [
        f"{name} {packages[f'{name}-version']}"
        for name in ("ketune", "peft", "transformers", "trl", "torch", "datasets")
        if packages.get(f"{name}-version")
    ]
    if system.get("python"):
        versions.append(f"Python {system['python']}")
    rows = [("Training", ", ".join(training)), ("Machine", ", ".join(machine)), ("Versions", ", ".join(versions))]
    return [(name, value) for name, value in rows if value]


def how_measured(comparison: Comparison) -> Section:
    """What each number means and how it came about."""
    kinds = {r.ketune.memory.get("kind") for arm in comparison.finished for r in arm.results}
    memory = {
        "max_rss": "Peak memory is the largest resident set of the cell's own process, libraries and base model "
        "included; the pale part of its bar was in use before training began.",
        "cuda_allocated": "Peak memory is the most that PyTorch's CUDA allocator had given out in the cell's own "
        "process; the pale part of its bar was in use before training began.",
    }
    items = [
        "Test loss is the mean over the completion tokens of the test split in nats per token, prompt and padding "
        "masked; perplexity is its exponential, bits per byte the same loss in bits over the bytes of the completions.",
        "BLEU is sacrebleu's corpus BLEU against all references, ROUGE-L the mean F1 against the best one, both in "
        "points from 0 to 100 on greedy answers.",
        "± is half a 95 % confidence interval over seeds (Student's t). A single seed has none.",
        "Differences are paired by seed; p values are of two-sided paired t tests, Holm-adjusted over all methods "
        "(and, apart from them, over the controls of one method). Better and worse mean an adjusted p below 0.05.",
        f"Equal budget means sized to the same count, or within {SAME_SIZE:.0%} of each other.",
        *(memory[kind] for kind in sorted(kind for kind in kinds if kind in memory)),
        "A step is the median over all training steps of a cell, evaluation left out. Curves show a running mean of "
        "the logged loss, averaged over seeds; their bands reach from the lowest to the highest seed.",
        "The spectrum is that of the change of the last hidden states on validation texts (adapted minus base, one row "
        "per token), which every method has; the change of weights is listed where an update is a matrix. Effective "
        "rank is the exponential of the entropy of the normalised singular values (Roy and Vetterli 2007).",
        "Expressibility is the divergence of a circuit's fidelities from those of random states, entangling capability "
        "the mean Meyer-Wallach measure, both over random angles (Sim, Johnson and Aspuru-Guzik 2019). Circuits are "
        "simulated exactly on classical hardware.",
        "Controls: frozen keeps random angles, classical puts a trained map of about the same size in the circuit's "
        "place, none leaves the circuit out.",
    ]
    return Section("How it was measured", [Bullets(items)])
