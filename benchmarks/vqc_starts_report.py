"""Tables and pictures of `vqc_starts.py` from the cells that stand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ketune.pictures import drawing, new_axes, to_png

LABELS = {"uniform": "uniform", "zeros": "zeros", "pi": "all pi", "narrow": "narrow", "gaussian": "Gaussian"}
LABELS |= {"q_maml": "Q-MAML", "flip": "FLIP"}
LEARNED = ("q_maml", "flip")
COLOURS = dict(zip(LABELS, ("#56b4e9", "#4d5560", "#e69f00", "#cc79a7", "#009e73", "#0072b2", "#d55e00")))
RESAMPLES = 2000


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """The cells of a folder by name, in the order of `LABELS`."""
    cells = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")}
    return {name: cells[name] for name in LABELS if name in cells} | {n: c for n, c in cells.items() if n not in LABELS}


def resamples(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Seeds and tasks drawn anew, each on its own, as indices of (RESAMPLES, seeds, tasks)."""
    numbers = np.random.default_rng(0)
    seeds = numbers.integers(shape[0], size=(RESAMPLES, shape[0]))
    tasks = numbers.integers(shape[1], size=(RESAMPLES, shape[1]))
    return seeds[:, :, None], tasks[:, None, :]


def medians(steps: np.ndarray) -> np.ndarray:
    return np.median(steps[resamples(steps.shape)], axis=(1, 2))


def bounds(values: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)


def steps_text(steps: np.ndarray, limit: int) -> str:
    def text(value: float) -> str:
        return f"> {limit}" if value > limit else f"{round(value, 1):g}"

    low, high = bounds(medians(steps))
    return f"{text(float(np.median(steps)))} ({text(low)} to {text(high)})"


def ratio_text(fixed: np.ndarray, learned: np.ndarray) -> str:
    """How many times fewer iterations, on the same resamples; a start below the target counts as one iteration."""
    point = np.median(fixed) / max(1.0, np.median(learned))
    low, high = bounds(medians(fixed) / np.maximum(1.0, medians(learned)))
    return f"{point:.1f} ({low:.1f} to {high:.1f})"


def comparison(out: Path, name: str, title: str) -> list[str]:
    """Iterations to the targets, shares that got there, and last gaps, a row for each start."""
    cells = read(out / "descend" / name)
    if not cells:
        return []
    targets = list(next(iter(cells.values()))["steps"])
    unit = "" if name != "h2" else " Ha"
    shown = [f"{float(target):.1%}" if not unit else f"{float(target) * 1000:g} mHa" for target in targets]
    lines = [f"**{title}**", ""]
    lines += ["| Start | rate | gap at start | " + " | ".join(f"iterations to {t}" for t in shown)]
    lines[-1] += f" | reached {shown[-1]} | last gap |"
    lines += ["| --- | ---: | ---: |" + " ---: |" * (len(targets) + 2)]
    for start, cell in cells.items():
        steps = {target: np.array(cell["steps"][target]) for target in targets}
        limit = cell["n_iterations"]
        last, first = np.array(cell["last"]), np.array(cell["first"])
        low, high = bounds(last[resamples(last.shape)].mean((1, 2)))
        row = [LABELS[start], f"{cell['rate']:g}", f"{first.mean():.3f}"]
        row += [steps_text(steps[target], limit) for target in targets]
        row += [f"{(steps[targets[-1]] <= limit).mean():.0%}", f"{last.mean():.2g} ({low:.2g} to {high:.2g})"]
        lines.append("| " + " | ".join(row) + " |")
    lines += ["", *gains(out, name, cells, targets, shown)]
    return [*lines, ""]


def gains(out: Path, name: str, cells: dict[str, dict], targets: list[str], shown: list[str]) -> list[str]:
    lines = []
    for target, text in zip(targets, shown):
        fixed = {start: np.array(cell["steps"][target]) for start, cell in cells.items() if start not in LEARNED}
        if not fixed:
            return []
        best = min(fixed, key=lambda start: (np.median(fixed[start]), fixed[start].mean()))
        for start in LEARNED:
            if start in cells:
                its = np.array(cells[start]["steps"][target])
                gain = ratio_text(fixed[best], its)
                saved = fixed[best].mean() - its.mean()
                price = np.mean([cell["n_gradients"] for cell in trained(out, name, start)])
                pays = f"paid back after {price / saved:,.0f} tasks" if saved > 0 else "never paid back"
                lines.append(
                    f"- {LABELS[start]} to {text}: {gain} times fewer iterations than {LABELS[best]}; training took "
                    f"{price:,.0f} energies with gradients, {pays} (mean saving {saved:.0f})."
                )
    return lines


def trained(out: Path, name: str, start: str) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted((out / "learned").glob(f"{name}-{start}-[0-9]*.json"))]


def slow_table(out: Path, titles: dict[str, str]) -> list[str]:
    """Iterations at the published learning rate."""
    found = {name: read(out / "slow" / name) for name in titles}
    found = {name: cells for name, cells in found.items() if cells}
    if not found:
        return []
    lines = ["**At Adam's published rate 0.001, tuned for nobody: median iterations to the tighter target**", ""]
    lines += ["| Start | " + " | ".join(found) + " |", "| --- |" + " ---: |" * len(found)]
    for start in LABELS:
        row = []
        for cells in found.values():
            cell = cells.get(start)
            steps = None if cell is None else np.array(list(cell["steps"].values())[-1])
            row.append("–" if cell is None or steps is None else steps_text(steps, cell["n_iterations"]))
        lines.append(f"| {LABELS[start]} | " + " | ".join(row) + " |")
    return [*lines, ""]


def modes_table(out: Path) -> list[str]:
    cells: dict[str, list[dict]] = {}
    for path in sorted((out / "modes").glob("*.json")):
        cells.setdefault(path.stem.rsplit("-", 1)[0], []).append(json.loads(path.read_text()))
    if not cells:
        return []
    lines = ["**What the Learner is trained on (Heisenberg, 300 steps of 16 tasks, then Adam at 0.03)**", ""]
    lines += ["| Meta-loss | energies with gradients | seconds | gap at start | after 20 | iterations to 1.0% |"]
    lines += ["| --- | ---: | ---: | ---: | ---: | ---: |"]
    for title, its in sorted(cells.items(), key=lambda item: item[1][0]["n_gradients"]):
        mean = {
            key: np.mean([np.mean(cell[key]) for cell in its]) for key in ("n_gradients", "seconds", "first", "after")
        }
        steps = steps_text(np.array([cell["steps"] for cell in its]), 200)
        lines.append(
            f"| {title} | {mean['n_gradients']:,.0f} | {mean['seconds']:.0f} | {mean['first']:.4f} | "
            f"{mean['after']:.4f} | {steps} |"
        )
    return [*lines, ""]


def slopes_table(out: Path) -> list[str]:
    cells = read(out / "slopes")
    if not cells:
        return []
    wires = sorted({int(name.rsplit("-", 1)[1]) for name in cells})
    lines = ["**Mean square derivative by an angle over |ground energy|, and the relative gap there (Heisenberg,", ""]
    lines[0] += " as many layers as wires)**"
    lines += ["| Start | " + " | ".join(f"{n} wires" for n in wires) + " |", "| --- |" + " ---: |" * len(wires)]
    for start, label in LABELS.items():
        row = [cells.get(f"{start}-{n}") for n in wires]
        if any(row):
            lines.append(
                f"| {label} | " + " | ".join(f"{c['square']:.1e} ({c['gap']:.2f})" if c else "–" for c in row) + " |"
            )
    return [*lines, ""]


def curves_picture(out: Path, name: str, title: str, path: Path) -> None:
    """Gap against iterations: median over tasks, mean over seeds, and the band between the seeds' extremes."""
    with drawing():
        unit = "energy gap (Ha)" if name == "h2" else "energy gap over |ground energy|"
        figure, axes = new_axes("iterations of Adam", f"{unit}, median over tasks", (6.8, 4.4))
        cells = read(out / "descend" / name)
        for start, cell in cells.items():
            curve = np.maximum(np.array(cell["curve"]), 1e-9)
            shown = min(len(curve), 201)
            steps, wide = np.arange(shown), 2.4 if start in LEARNED else 1.4
            middle = np.exp(np.log(curve[:shown]).mean(1))
            axes.plot(steps, middle, color=COLOURS[start], linewidth=wide, label=LABELS[start])
            axes.fill_between(
                steps, curve[:shown].min(1), curve[:shown].max(1), color=COLOURS[start], alpha=0.15, linewidth=0
            )
        for target in next(iter(cells.values()))["steps"]:
            axes.axhline(float(target), color="#808890", linewidth=0.9, linestyle=(0, (4, 3)))
        axes.set_yscale("log")
        axes.set_title(title.split(";")[0], fontsize=10, loc="left")
        axes.legend(frameon=False, ncols=2, fontsize=9)
    path.write_bytes(to_png(figure))


def slopes_picture(out: Path, path: Path) -> None:
    cells = read(out / "slopes")
    with drawing():
        figure, axes = new_axes("wires", "mean square derivative (log scale)", (6.4, 4.2))
        for start, label in LABELS.items():
            points = sorted(
                (int(n.rsplit("-", 1)[1]), c["square"]) for n, c in cells.items() if n.startswith(f"{start}-")
            )
            points = [(n, square) for n, square in points if square > 1e-20]
            if points:
                axes.plot(*zip(*points), color=COLOURS[start], marker="o", markersize=5, label=label)
        axes.set_yscale("log")
        axes.set_xticks(sorted({int(name.rsplit("-", 1)[1]) for name in cells}))
        axes.legend(frameon=False, fontsize=9)
    path.write_bytes(to_png(figure))


def report(out: Path, titles: dict[str, str], pictures: Path) -> str:
    """All tables as Markdown; draws the pictures on the way."""
    pictures.mkdir(parents=True, exist_ok=True)
    lines: list[str] = []
    for name, title in titles.items():
        table = comparison(out, name, title)
        lines += table
        if table:
            curves_picture(out, name, title, pictures / f"starts_{name.replace('-', '_')}.png")
    lines += slow_table(out, titles) + modes_table(out) + slopes_table(out)
    if read(out / "slopes"):
        slopes_picture(out, pictures / "starts_slopes.png")
    if not lines:
        return f"no results stand in {out}; run without --only-report"
    return "\n".join([*lines, f"pictures: {pictures}"])
