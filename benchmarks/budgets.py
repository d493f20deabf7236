"""All methods at small budgets on one data set: one table and one picture out of several comparisons.

Each budget is a comparison of its own (`ketune compare --methods all,-full --tune-lr`): every method that fits gets as
many learning rates to choose from on the validation rows, then trains with each seed for the same steps on the same
rows. What stands is never run again, so a killed run goes on with the same command.

    python benchmarks/budgets.py --model ../shared/data/model-gpt-neo-tinystories-3m --data ../shared/data/e2e-nlg
    python benchmarks/budgets.py --data ../shared/data/fairytaleqa --budgets 0.01% 0.05% --steps 40 --seeds 3
    python benchmarks/budgets.py --data ../shared/data/e2e-nlg --only-report     # from the results that stand
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from matplotlib.ticker import LogLocator
from peft import LoraConfig

from ketune.adapters import METHODS
from ketune.cli._progress import comparison_progress
from ketune.comparison import ComparisonSpec, run_comparison
from ketune.comparison.arms import Arm, read_comparison
from ketune.comparison.figure_labels import label_line_ends
from ketune.comparison.figure_style import colour, dashes, marker, short_number
from ketune.pictures import drawing, new_axes, to_png

SHARED = Path(__file__).parents[2] / "shared" / "data"
OURS = {n for n, method in METHODS.items() if type(method.config(1)).__module__.startswith("ketune.")}
SMALLEST_LORA = "lora-r1"
INVENTED_HERE = ("compass", "compass_circuit")


def run(options: argparse.Namespace, folder: Path, budget: str) -> None:
    """One budget's comparison, or the rest of it; LoRA of rank 1 joins one of them, whatever it needs."""
    smallest_lora = folder.parent / SMALLEST_LORA
    LoraConfig(task_type="CAUSAL_LM", r=1, lora_alpha=2, target_modules=["q_proj", "v_proj"]).save_pretrained(
        str(smallest_lora)
    )
    spec = ComparisonSpec(
        model=str(options.model),
        data=str(options.data),
        methods=tuple(options.methods.split(",")),
        experiments=(str(smallest_lora),) if budget == options.lora_at else (),
        budget=budget,
        seeds=tuple(range(options.seeds)),
        tune_lr=True,
        lr_trials=options.lr_trials,
        n_train=2000,
        n_validation=64,
        n_test=128,
        n_generate=0,
        training={
            "max_steps": options.steps,
            "batch_size": options.batch_size,
            "eval_steps": options.steps,
            "eval_limit": 16,
            "save_steps": 0,
        },
    )
    with comparison_progress() as on_event:
        run_comparison(spec, folder, on_event, jobs=options.jobs)


def table(found: dict[str, list[Arm]], base: float | None) -> str:
    """Methods by rows, budgets by columns: test loss, half a 95 % interval over seeds, and what was trained."""
    arms: dict[str, dict[str, Arm]] = {}
    for budget, its in found.items():
        for arm in its:
            if arm.mean("loss") is not None:
                arms.setdefault(arm.label, {})[budget] = arm
    best = {
        budget: min((m.mean for a in its if (m := a.mean("loss")) and a.budget), default=0.0)
        for budget, its in found.items()
    }
    lines = ["| Method | " + " | ".join(f"{budget}" for budget in found) + " |", "| --- |" + " ---: |" * len(found)]
    order = sorted(arms, key=lambda label: (-len(arms[label]), _last(arms[label])))
    for label in order:
        cells = []
        for budget in found:
            arm = arms[label].get(budget)
            mean = None if arm is None else arm.mean("loss")
            if arm is None or mean is None:
                cells.append("–")
                continue
            number = f"{mean.mean:.3f}"
            number = f"**{number}**" if mean.mean == best[budget] else number
            half = "" if mean.half_width is None else f" ± {mean.half_width:.3f}"
            cells.append(f"{number}{half} ({arm.n_trainable:,})")
        name = f"{label} (ours)" if next(iter(arms[label].values())).method in INVENTED_HERE else label
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    if base is not None:
        lines.append("| Base model, untouched | " + " | ".join([f"{base:.3f}"] * len(found)) + " |")
    return "\n".join(lines)


def _last(arms: dict[str, Arm]) -> float:
    mean = list(arms.values())[-1].mean("loss")
    return mean.mean if mean is not None else 0.0


def picture(found: dict[str, list[Arm]], base: float | None, path: Path) -> None:
    """Test loss against trained parameters, a line for each method, up to what the untouched base has."""
    lines: dict[str, list[tuple[int, float, Arm]]] = {}
    for its in found.values():
        for arm in its:
            mean, n = arm.mean("loss"), arm.n_trainable
            if mean is not None and n:
                lines.setdefault(arm.label, []).append((n, mean.mean, arm))
    with drawing():
        figure, axes = new_axes("trainable parameters (log scale)", "test loss (nats per token)", (8.2, 6.6))
        axes.set_xscale("log")
        ends = []
        for label, points in lines.items():
            points.sort(key=lambda point: point[0])
            arm = points[0][2]
            style = {"color": colour(arm), "marker": marker(arm), "markersize": 6}
            style |= {"linestyle": dashes(arm), "linewidth": 2.4 if arm.method in OURS else 1.2}
            axes.plot([n for n, _, _ in points], [loss for _, loss, _ in points], **style)
            ends.append((*points[-1][:2], label, colour(arm)))
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(short_number)
        axes.minorticks_off()
        lowest = min(loss for points in lines.values() for _, loss, _ in points)
        if base is not None and base > lowest:
            axes.set_ylim(lowest - 0.12 * (base - lowest), base)
        label_line_ends(axes, ends)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(to_png(figure))


def _named(arm: Arm) -> Arm:
    """The arm under the name that the table has for it."""
    return replace(arm, label="LoRA of rank 1") if arm.experiment == SMALLEST_LORA else arm


def rates(found: dict[str, list[Arm]]) -> Sequence[str]:
    """A line for each budget with the learning rates that the trials chose."""
    lines = []
    for budget, its in found.items():
        chosen = [f"{arm.label} {arm.results[0].ketune.learning_rate:g}" for arm in its if arm.results]
        lines.append(f"- {budget}: {', '.join(chosen)}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=SHARED / "model-gpt-neo-tinystories-3m")
    parser.add_argument("--data", type=Path, default=SHARED / "e2e-nlg")
    parser.add_argument("--methods", default="all,-full")
    parser.add_argument("--budgets", nargs="+", default=["0.01%", "0.05%", "0.1%", "0.5%"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--lr-trials", type=int, default=4)
    parser.add_argument("--lora-at", default="0.05%", help="the budget whose table LoRA of rank 1 joins")
    parser.add_argument("--jobs", type=int, default=None)
    parser.add_argument("--out", type=Path, default=Path("runs/budgets"))
    parser.add_argument("--only-report", action="store_true", help="run nothing; write the table of what stands")
    options = parser.parse_args()
    folders = {b: options.out / f"{options.data.name}-{b.removesuffix('%')}" for b in options.budgets}
    if not options.only_report:
        for budget, folder in folders.items():
            run(options, folder, budget)
    comparisons = {budget: read_comparison(folder) for budget, folder in folders.items() if folder.is_dir()}
    if not comparisons:
        parser.error(f"no results stand in {options.out}; run without --only-report")
    found = {budget: [_named(arm) for arm in c.finished] for budget, c in comparisons.items()}
    base = next((c.base_scores.get("loss") for c in comparisons.values() if c.base_scores), None)
    text = "\n".join([table(found, base), "", "Learning rates chosen:", "", *rates(found)]) + "\n"
    page = options.out / f"{options.data.name}.md"
    page.write_text(text, encoding="utf-8")
    picture(found, base, options.out / f"{options.data.name}.png")
    print(text)
    print(f"table: {page}, picture: {page.with_suffix('.png')}")


if __name__ == "__main__":
    main()
