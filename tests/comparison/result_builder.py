"""Realistic results for the tests of the report, with numbers that follow from the method and the seed alone."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

from ketune.comparison.results import KetuneInfo, Result, RunInfo, TrainInfo

N_TOTAL = 1_313_280
#: method, control -> experiment, trainable parameters, mean test loss, peak memory in MiB, median step in seconds
CELLS: dict[tuple[str, str | None], tuple[str, int, float, int, float]] = {
    ("full", None): ("full", 1_313_280, 1.31, 930, 0.081),
    ("lora", None): ("r4", 20_480, 1.40, 640, 0.055),
    ("prefix", None): ("v16", 20_480, 1.62, 610, 0.051),
    ("sora", None): ("r4", 20_512, 1.43, 645, 0.060),
    ("qaa", "trained"): ("recommended", 20_520, 1.46, 655, 0.066),
    ("qaa", "frozen"): ("recommended-frozen", 20_480, 1.465, 650, 0.064),
    ("qaa", "classical"): ("recommended-classical", 20_520, 1.45, 650, 0.060),
    ("qaa", "none"): ("recommended-none", 20_480, 1.47, 640, 0.058),
}


def build_result(
    method: str, control: str | None = None, seed: int = 0, *, n_steps: int = 60, **changes: Any
) -> Result:
    """One finished cell. `changes` replace fields of the `ketune` section (or `loss` its test loss) by name."""
    experiment, n_trainable, mean_loss, memory_mib, step_seconds = CELLS[method, control]
    noise = random.Random(f"{method}/{control}/{seed}")
    shared = random.Random(seed).gauss(0, 0.02)
    loss = changes.pop("loss", mean_loss + shared + noise.gauss(0, 0.006))
    tokens_per_step = 16 * 61
    history = []
    for step in range(1, n_steps + 1):
        entry = {
            "step": step,
            "tokens": step * tokens_per_step,
            "seconds": step * step_seconds,
            "loss": loss + 1.9 * math.exp(-step / 12) + noise.gauss(0, 0.05),
            "learning_rate": 1e-3,
        }
        if step % 20 == 0:
            entry["eval_loss"] = loss + 1.9 * math.exp(-step / 12) + 0.01
        history.append(entry)
    peft_config = None if method == "full" else {"peft_type": method.upper(), "target_modules": ["q_proj", "v_proj"]}
    quantum = method == "qaa"
    fields: dict[str, Any] = {
        "method": method,
        "control": control,
        "experiment": experiment,
        "seed": seed,
        "budget": None if method == "full" else 20_480,
        "learning_rate": 1e-3,
        "lr_trials": [
            {"learning_rate": 1e-3, "eval_loss": loss + 0.02},
            {"learning_rate": 5e-3, "eval_loss": loss + 0.3},
        ],
        "history": history,
        "test": scores(loss),
        "base_test": scores(3.2),
        "speed": {"step_seconds_median": step_seconds, "tokens_per_second": tokens_per_step / step_seconds},
        "memory": {"peak_bytes": memory_mib * 2**20, "baseline_bytes": 420 * 2**20, "kind": "max_rss"},
        "capacity": {
            "hidden": spectrum(decay=0.5 if method == "full" else 0.9 if quantum else 0.7),
            "weights": {"model.layers.0.self_attn.q_proj": spectrum(1.0, 4)} if method in ("lora", "sora") else None,
        },
        "circuit": {
            "n_wires": 7,
            "n_gates": 14,
            "n_angles": 7,
            "depth": 8,
            "n_two_qubit": 7,
            "expressibility": 0.213,
            "entangling_capability": 0.61,
        }
        if quantum and control in ("trained", "frozen")
        else None,
        "samples": [
            {
                "prompt": "name: The Crooked Kettle | food: stew | price: cheap",
                "references": ["The Crooked Kettle serves cheap stew.", "Cheap stew is sold at The Crooked Kettle."],
                "prediction": f"The Crooked Kettle serves stew ({method} {control} {seed}).",
            }
        ],
        "notes": [],
    } | changes
    return Result(
        run_info=RunInfo(
            created_at=f"2026-11-22T17:0{seed}:00+00:00",
            total_time=n_steps * step_seconds + 9,
            experiment_name=f"{method}/{experiment}",
            train_config={"model_id": "builtin:base", "seed": seed, "batch_size": 16, "max_steps": n_steps},
            peft_config=peft_config,
        ),
        train_info=TrainInfo(
            accelerator_memory_reserved_avg=memory_mib * 2**20,
            accelerator_memory_max=memory_mib * 2**20,
            accelerator_memory_reserved_99th=memory_mib * 2**20,
            train_time=n_steps * step_seconds,
            file_size=n_trainable * 4 + 1500,
            num_trainable_params=n_trainable,
            num_total_params=N_TOTAL if method == "full" else N_TOTAL + n_trainable,
            status="success",
            metrics=[
                {"step": n_steps // 2, "train loss": loss + 0.4, "train samples": n_steps * 8},
                {
                    "step": n_steps,
                    "test accuracy": None,
                    "train loss": loss,
                    "train samples": n_steps * 16,
                    "train total tokens": n_steps * tokens_per_step,
                },
            ],
        ),
        meta_info={
            "model_info": {"id": "builtin:base", "n_params": N_TOTAL},
            "dataset_info": {"name": "builtin:inns", "train": 2000, "validation": 100, "test": 200},
            "package_info": {
                "ketune-version": "0.1.0",
                "peft-version": "0.21.2",
                "transformers-version": "5.23.0",
                "datasets-version": "5.2.0",
                "torch-version": "2.13.0",
                "bitsandbytes-version": None,
            },
            "system_info": {
                "system": "Linux",
                "machine": "x86_64",
                "processor": "test cpu",
                "cores": 2,
                "accelerator": None,
            },
            "pytorch_info": "PyTorch built with: ...",
        },
        ketune=KetuneInfo(**fields),
    )


def scores(loss: float) -> dict[str, float]:
    """Test scores that belong to a loss in nats per token."""
    return {
        "loss": loss,
        "perplexity": math.exp(loss),
        "bits_per_byte": loss / math.log(2) / 3.1,
        "bleu": 80.0 / loss,
        "rouge1": 0.9 / loss,
        "rouge2": 0.5 / loss,
        "rougeL": 0.8 / loss,
        "exact_match": 0.0,
    }


def spectrum(decay: float, n: int = 24) -> dict[str, Any]:
    """Singular values (k+1)^(-2 decay) with the ranks that belong to them."""
    values = [(k + 1) ** (-2 * decay) for k in range(n)]
    shares = [value / sum(values) for value in values]
    return {
        "singular_values": values,
        "effective_rank": math.exp(-sum(share * math.log(share) for share in shares)),
        "stable_rank": sum(value**2 for value in values) / max(values) ** 2,
    }


def failed_result(method: str = "sora", seed: int = 2, error: str = "RuntimeError: loss is nan at step 3") -> Result:
    """A cell that broke: no scores, no history, an error."""
    result = build_result(
        method, seed=seed, history=[], test={}, base_test=None, capacity=None, samples=[], memory={}, speed={}
    )
    result.run_info.error_msg = error
    result.train_info = TrainInfo(status="failed")
    return result


def write_folder(folder: Path, results: list[Result]) -> Path:
    """Write the results where the report looks for them and return the comparison's folder."""
    for result in results:
        result.save(folder / "results" / result.file_name)
    return folder
