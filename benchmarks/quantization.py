"""Ways to fine-tune towards a quantised model, on one model and one data set: two tables out of several comparisons.

    full          all weights, in full precision, and what rounding (RTN) and GPTQ make of the result
    ste           straight-through training without rotations
    rotated       with rotations everywhere, as SpinQuant places them
    roste         with rotations where they lower the error
    zeroqat       two forward passes a step; its first stage alone is shown beside it
    prequant      codes, of whose outliers 0.5 % train
    nf4 + LoRA    bitsandbytes' 4 bits, LoRA beside them (needs bitsandbytes)

Every way gets as many learning rates to choose from on validation rows, and trains with each seed for the same steps on
the same rows; ZeroQAT gets `--zeroth-steps`. What stands is never run again, so a killed run goes on.

    python benchmarks/quantization.py                                       # the bundled model and its data
    python benchmarks/quantization.py --model ../shared/data/model-llama-stories-char105 --data ../shared/data/e2e-nlg
    python benchmarks/quantization.py --untie --ways ste --only through     # controls of R1, which unties the head
    python benchmarks/quantization.py --only-report
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from ketune import PreQuantConfig
from ketune.cli._progress import comparison_progress
from ketune.comparison import ComparisonSpec, run_comparison
from ketune.comparison.arms import Arm, read_comparison
from ketune.comparison.planning import load_data
from ketune.comparison.statistics import Interval, mean_interval
from ketune.files import write_atomically
from ketune.finetuning import evaluate_loss, load_base
from ketune.finetuning.encoding import Encoder
from ketune.finetuning.metrics import effective_max_length
from ketune.finetuning.quantizing import calibration_batches
from ketune.quantization import QuantizeConfig, quantize_
from ketune.quantization.gptq import convert_gptq_

BITS = ("w4a16", "w4a4kv4", "w2a16")
THROUGH = ("ste", "rotated", "roste")
TITLES = {
    "full": "Full fine-tuning, full precision",
    "rtn": "the same, rounded to nearest",
    "gptq": "the same, GPTQ",
    "ste": "Straight-through",
    "rotated": "Rotations everywhere",
    "roste": "RoSTE",
    "zeroqat-start": "ZeroQAT, first stage alone",
    "zeroqat": "ZeroQAT",
    "prequant": "PreQuant",
    "nf4": "NF4 + LoRA",
}
Numbers = dict[tuple[str, str], list[float]]
"""By row and bits, a number for each seed."""


def spec_of(options: argparse.Namespace, method: str | None, ways: Iterable[str], **fields: Any) -> ComparisonSpec:
    """One of the comparisons; `fields` over what all share."""
    training = {"max_steps": options.steps, "batch_size": options.batch_size, "eval_limit": 16, "save_steps": 0}
    shared: dict[str, Any] = {
        "model": str(options.model),
        "data": str(options.data),
        "template": options.template,
        "methods": () if method is None else (method,),
        "quantization": tuple(ways),
        "seeds": tuple(range(options.seeds)),
        "tune_lr": True,
        "lr_trials": options.lr_trials,
        "n_train": 2000,
        "n_validation": 64,
        "n_test": options.test_rows,
        "n_generate": 0,
        "training": training | {"eval_steps": options.steps},
    }
    return ComparisonSpec(**(shared | fields))


def prequant_folder(out: Path) -> Path:
    """An experiment folder of PreQuant on every linear layer of the blocks, as the paper has it."""
    folder = out / "experiments" / "prequant" / "all-layers"
    PreQuantConfig(task_type="CAUSAL_LM", target_modules="all-linear").save_pretrained(str(folder))
    return folder


def comparisons(options: argparse.Namespace, out: Path) -> dict[str, ComparisonSpec]:
    """The comparisons by the names of their folders."""
    zeroth = {"max_steps": options.zeroth_steps, "batch_size": options.batch_size, "eval_limit": 16, "save_steps": 0}
    zeroth |= {"eval_steps": options.zeroth_steps}
    ways = [f"zeroqat:{bits}" for bits in options.bits]
    start = {"tune_lr": False, "learning_rates": {"full": 1e-9}, "training": zeroth | {"max_steps": 1, "eval_steps": 1}}
    through = [f"{way}:{bits}" for bits in options.bits for way in options.ways]
    found = {
        "through": spec_of(options, "full", ["none", *through], keep_full=True),
        "prequant": spec_of(
            options, None, [f"prequant:{bits}" for bits in options.bits], experiments=(str(prequant_folder(out)),)
        ),
        "zeroqat": spec_of(options, "full", ways, training=zeroth),
        "zeroqat-start": spec_of(options, "full", ways, **start),
    }
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        print("bitsandbytes is not installed: NF4 is left out (pip install 'ketune[quantization]')")
    else:
        found["nf4"] = spec_of(options, "lora", ["nf4"])
    return found


def untied(model: str, out: Path) -> Path:
    """A copy of a model whose head is a matrix of its own, equal to the embeddings at the start."""
    folder = out / "untied"
    if not folder.is_dir():
        base, tokenizer = load_base(model, "float32")
        head = base.get_output_embeddings()
        head.weight = torch.nn.Parameter(head.weight.detach().clone())
        base.config.tie_word_embeddings = False
        beside = out / ".untied"
        base.save_pretrained(beside)
        tokenizer.save_pretrained(beside)
        beside.rename(folder)
    return folder


def round_afterwards(options: argparse.Namespace, spec: ComparisonSpec, out: Path) -> None:
    """What rounding and GPTQ make of each fully fine-tuned model: a JSON file for each."""
    data = None
    for seed in spec.seeds:
        folder = out / "through" / "cells" / f"full--default--seed{seed}" / "adapter"
        for bits in options.bits:
            for way in ("rtn", "gptq"):
                target = out / "rounded" / f"{way}-{bits}-{seed}.json"
                if target.exists() or not folder.is_dir():
                    continue
                model, tokenizer = load_base(folder, "float32")
                data = data or load_data(spec).render(tokenizer)
                quantize_(model, QuantizeConfig(bits))
                if way == "gptq":
                    encoder = Encoder(tokenizer, effective_max_length(model, None))
                    rows = encoder.encode_rows(list(zip(data.train["prompt"], data.train["completion"])))[0]
                    pad = int(tokenizer.pad_token_id)
                    convert_gptq_(model, calibration_batches(rows, pad, 128, 16, seed, torch.device("cpu")))
                loss = evaluate_loss(model, tokenizer, data.test)["loss"]
                write_atomically(target, json.dumps({"loss": loss}) + "\n")
                print(f"{way} {bits} seed {seed}: test loss {loss:.4f}")


def read(out: Path) -> tuple[Numbers, dict[tuple[str, str], Arm], float | None]:
    """Losses by row and bits, the arms that cost something, and the loss of the untouched base."""
    losses: Numbers = {}
    arms: dict[tuple[str, str], Arm] = {}
    base = None
    for folder in sorted(path for path in out.iterdir() if (path / "comparison.json").is_file()):
        comparison = read_comparison(folder)
        base = base or comparison.base_scores.get("loss")
        for arm in comparison.finished:
            way, _, bits = (arm.quantization or "full").partition(":")
            row = folder.name if folder.name == "zeroqat-start" else way
            key = row, bits or ("w4a16" if way == "nf4" else "")
            losses[key] = list(arm.values("loss").values())
            arms[key] = arm
    for file in (out / "rounded").glob("*.json"):
        way, bits, _ = file.stem.split("-")
        losses.setdefault((way, bits), []).append(json.loads(file.read_text())["loss"])
    return losses, arms, base


def loss_table(losses: Numbers, base: float | None, bits: Iterable[str]) -> str:
    """Rows by way, columns by bits; the best of a column in bold."""
    means = {key: mean_interval(values) for key, values in losses.items()}
    lines = ["| | " + " | ".join(bits) + " |", "| --- |" + " ---: |" * len(list(bits))]
    if base is not None:
        lines.append(
            "| Base model, full precision, untouched | " + " | ".join([f"{base:.3f}"] * len(list(bits))) + " |"
        )
    for row, title in TITLES.items():
        cells = []
        for column in bits:
            mean = means.get((row, column)) or (means.get((row, "")) if row == "full" else None)
            if mean is None:
                cells.append("–")
                continue
            others = [m.mean for (r, b), m in means.items() if b == column and r != "full"]
            text = f"{mean.mean:.3f}"
            text = f"**{text}**" if row != "full" and others and mean.mean == min(others) else text
            cells.append(text + _half(mean))
        if any(cell != "–" for cell in cells):
            lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cost_table(arms: dict[tuple[str, str], Arm], bits: str) -> str:
    """What training costs at one setting of bits."""
    lines = [
        f"| at {bits} | trained | learning rate | step (ms) | peak memory (MiB) | model (MiB) | bits per weight |",
        "| --- |" + " ---: |" * 6,
    ]
    for row, title in TITLES.items():
        arm = arms.get((row, bits)) or (arms.get((row, "")) if row == "full" else None)
        if arm is None or row == "zeroqat-start":
            continue
        rate = arm.results[0].ketune.learning_rate
        numbers = [
            f"{arm.n_trainable:,}",
            f"{rate:g}",
            f"{1e3 * _mean(arm, 'step_seconds'):.0f}",
            f"{_mean(arm, 'peak_bytes') / 2**20:.0f}",
            f"{_mean(arm, 'model_bytes') / 2**20:.2f}",
            f"{_mean(arm, 'bits_per_weight'):.2f}",
        ]
        lines.append(f"| {title} | " + " | ".join(numbers) + " |")
    return "\n".join(lines)


def _mean(arm: Arm, metric: str) -> float:
    mean = arm.mean(metric)
    return float("nan") if mean is None else mean.mean


def _half(mean: Interval) -> str:
    return "" if mean.half_width is None else f" ± {mean.half_width:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="builtin:base")
    parser.add_argument("--data", default="builtin:inns")
    parser.add_argument("--template", help="how rows become prompts, as of ketune compare")
    parser.add_argument("--bits", nargs="+", default=list(BITS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--zeroth-steps", type=int, default=400)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--test-rows", type=int, default=200)
    parser.add_argument("--lr-trials", type=int, default=3)
    parser.add_argument(
        "--ways", nargs="+", default=list(THROUGH), choices=THROUGH, help="of training through rounding"
    )
    parser.add_argument("--untie", action="store_true", help="give the model a head of its own first")
    parser.add_argument("--only", nargs="+", help="folders of the comparisons to run, of all: through prequant ...")
    parser.add_argument("--jobs", type=int, default=None)
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--only-report", action="store_true", help="run nothing; write the tables of what stands")
    options = parser.parse_args()
    names = (Path(str(name).replace(":", "-")).name for name in (options.model, options.data))
    out = options.out or Path("runs/quantization") / ("-".join(names) + "-untied" * options.untie)
    if options.untie:
        options.model = untied(options.model, out)
    specs = comparisons(options, out)
    if not options.only_report:
        for name, spec in specs.items():
            if options.only and name not in options.only:
                continue
            with comparison_progress() as on_event:
                run_comparison(spec, out / name, on_event, jobs=options.jobs)
        round_afterwards(options, specs["through"], out)
    if not out.is_dir():
        parser.error(f"no results stand in {out}; run without --only-report")
    losses, arms, base = read(out)
    text = "\n\n".join([loss_table(losses, base, options.bits), *(cost_table(arms, bits) for bits in options.bits)])
    write_atomically(out / "tables.md", text + "\n")
    print(text)
    print(f"tables: {out / 'tables.md'}")


if __name__ == "__main__":
    main()
