"""Is CL-QAS better than choosing circuits at random? Both at 30 evaluations, beside controls and the ceiling.

Each seed makes new data, new starts and a new search. What stands is never run again: one file for each trained circuit
and for each strategy and task, so that a killed run goes on with the same command. Differences from the published
protocol are the options' defaults: 320 training rows instead of 640, and a learning rate of 0.03 instead of 0.003, at
which 40 steps hardly leave the start (`--learning-rate 0.003` runs that).

    python benchmarks/vqc_search.py                     # all of it
    python benchmarks/vqc_search.py --sets ecg --seeds 2
    python benchmarks/vqc_search.py --only-report       # from the results that stand
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ketune.comparison.statistics import mean_interval, paired_t_test, t_quantile
from ketune.vqc import LabelledData, Rows
from ketune.vqc.architecture import Architecture
from ketune.vqc.architecture_search import (
    ArchitecturePolicy,
    Choices,
    ClassifierTraining,
    ContinualSearch,
    Reinforce,
    ReinforceSettings,
    Score,
    SearchSettings,
    Strategy,
    backward_transfer,
    encode,
    forward_transfer,
    quality,
    train_final,
)
from ketune.vqc.architecture_search.strategies import RandomSearch, derived_seed
from ketune.vqc.architecture_search.tasks import make_tasks

STRATEGIES = ("reinforce", "reinforce-alone", "random", "random-by-depth")
CONTROLS = {"fixed": "ring, 2 layers, no search", "logistic": "logistic regression, same features"}
FIXED = Architecture(("ring", "ring"))
COLOURS = {"reinforce": "#0072b2", "reinforce-alone": "#56b4e9", "random": "#d55e00", "random-by-depth": "#e69f00"}


@dataclass(frozen=True)
class Cell:
    """One set of tasks with one seed."""

    name: str
    seed: int
    options: argparse.Namespace

    @property
    def folder(self) -> Path:
        return self.options.out / f"{self.name}-lr{self.options.learning_rate:g}-seed{self.seed}"

    @property
    def settings(self) -> SearchSettings:
        training = ClassifierTraining(epochs=self.options.epochs, learning_rate=self.options.learning_rate)
        return SearchSettings(
            n_evaluations=self.options.evaluations,
            seed=self.seed,
            training=training,
            final_epochs=self.options.final_epochs,
        )

    def tasks(self) -> list[LabelledData]:
        made = make_tasks(self.name, self.options.tasks, self.seed, self.options.rows)
        n = self.options.train_rows
        return [replace(data, train=Rows(data.train.x[:n], data.train.y[:n])) for data in made]

    def kept(self, name: str, make: Callable[[], Any]) -> Any:
        """What stands in a file of this cell, or is made and written."""
        file = self.folder / f"{name}.json"
        if not file.exists():
            if self.options.only_report:
                return None
            found = make()
            file.parent.mkdir(parents=True, exist_ok=True)
            beside = file.with_suffix(".part")
            beside.write_text(json.dumps(found))
            beside.replace(file)
        return json.loads(file.read_text())

    def search(self, strategy: str) -> dict[str, Any] | None:
        """Best reward, test score and reward so far of each task."""

        def make() -> dict[str, Any]:
            found = ContinualSearch(self.tasks(), strategy, self.settings, self.folder).run()
            print(
                f"{self.folder.name}: {strategy} " + " ".join(str(result.architecture) for result in found), flush=True
            )
            return {
                "reward": [result.search.best.score.reward for result in found],
                "test": [result.final.test.balanced_accuracy for result in found],
                "distinct": [result.search.n_distinct for result in found],
                "curves": [result.search.best_rewards for result in found],
                "fidelity": [result.fidelity for result in found],
            }

        return self.kept(f"summary-{strategy}", make)

    def controls(self) -> dict[str, list[float]] | None:
        """Test balanced accuracy of what needs no search, for each task."""
        return self.kept("controls", lambda: {"fixed": self._fixed(), "logistic": self._logistic()})

    def _fixed(self) -> list[float]:
        training = replace(self.settings.training, epochs=self.settings.final_epochs)
        found = []
        for number, data in enumerate(self.tasks()):
            seed = derived_seed(self.seed, number, "final")
            final, _ = train_final(encode(data).data, FIXED.circuit(8), training, seed)
            found.append(final.test.balanced_accuracy)
        return found

    def _logistic(self) -> list[float]:
        from sklearn.linear_model import LogisticRegression

        found = []
        for data in (encode(task).data for task in self.tasks()):
            parts = [(rows.x.double().numpy(), rows.y.numpy()) for rows in (data.train, data.validation, data.test)]
            models = [
                LogisticRegression(C=c, max_iter=3000, class_weight="balanced").fit(*parts[0])
                for c in (0.1, 1, 10, 100)
            ]
            scores = [quality(torch.tensor(m.predict(parts[1][0])), data.validation.y) for m in models]
            best = max(range(len(models)), key=lambda k: scores[k].balanced_accuracy)
            answers = torch.tensor(models[best].predict(parts[2][0]))
            found.append(quality(answers, data.test.y).balanced_accuracy)
        return found

    # --------------------------------------------------------------------------------- with the scores of all circuits

    def table(self) -> list[dict[str, float]]:
        """For each task the reward of every circuit, from the files of an exhaustive search."""
        books = [self.folder / "scores" / f"{self.name}-{k}" for k in range(self.options.tasks)]
        return [{f.stem: json.loads(f.read_text())["reward"] for f in book.glob("*.json")} for book in books]

    def replicas(self) -> dict[str, Any] | None:
        """Many searches on the scores that stand: curves of the best reward, and how policies transfer."""
        return self.kept("replicas", self._replicas)

    def _replicas(self) -> dict[str, Any]:
        table, space = self.table(), self.settings.space
        rewards = torch.tensor([[of_task[a.text] for a in space.architectures] for of_task in table])
        contexts = [encode(data).data.train.x[:192] for data in self.tasks()]
        unheld, uncounted = ReinforceSettings(elastic=0.0, divergence=0.0), ReinforceSettings(count_repeats=False)
        kinds: dict[str, Callable[[int], Strategy]] = {
            "reinforce": lambda seed: Reinforce(policy_seed=seed),
            "carried, not held": lambda seed: Reinforce(unheld, policy_seed=seed),
            "repeats not counted": lambda seed: Reinforce(uncounted, policy_seed=seed),
            "reinforce-alone": lambda seed: Reinforce(continual=False, policy_seed=seed),
            "random": lambda seed: RandomSearch(),
            "random-by-depth": lambda seed: RandomSearch(by_depth=True),
        }
        found: dict[str, Any] = {"ceiling": rewards.max(1).values.tolist(), "mean": rewards.mean(1).tolist()}
        for name, make in kinds.items():
            runs = [
                _replica(make(k), space, table, rewards, contexts, k, self.settings.n_evaluations)
                for k in range(self.options.replicas)
            ]
            found[name] = {key: [run[key] for run in runs] for key in runs[0]}
            print(f"{self.folder.name}: replicas of {name}", flush=True)
        return found

    def correlation(self) -> dict[str, Any] | None:
        """Does the reward say anything about the final model? 40 circuits of the first task, both ways."""

        def make() -> dict[str, Any]:
            data, table = encode(self.tasks()[0]).data, self.table()[0]
            training = replace(self.settings.training, epochs=self.settings.final_epochs)
            chosen = self.settings.space.sample(40, torch.Generator().manual_seed(0))
            seed = derived_seed(self.seed, 0, "final")
            finals = [train_final(data, one.circuit(8), training, seed)[0].test.balanced_accuracy for one in chosen]
            return {"reward": [table[one.text] for one in chosen], "test": finals}

        return self.kept("correlation", make)


def _replica(
    strategy: Strategy,
    space: Any,
    table: list[dict[str, float]],
    rewards: torch.Tensor,
    contexts: list[torch.Tensor],
    seed: int,
    n: int,
) -> dict[str, Any]:
    """A strategy on all tasks, with the scores looked up."""
    curves, matrix = [], []
    for k, context in enumerate(contexts):
        result = strategy.search(
            space, lambda a, k=k: Score(table[k][a.text]), n, context=context, seed=1000 * seed + k
        )
        strategy.end_task(context, 1000 * seed + k)
        best = list(result.best_rewards)
        curves.append(best + best[-1:] * (n - len(best)))
        if isinstance(strategy, Reinforce):
            matrix.append(_expected(strategy.choices, contexts, rewards))
    if not matrix or len(contexts) < 2:
        return {"curves": curves}
    new = ArchitecturePolicy(space, contexts[0].shape[-1], seed=seed)
    with torch.no_grad():
        untrained = torch.tensor(_expected(new.without_dropout, contexts, rewards))
    seen = torch.tensor(matrix)
    return {"curves": curves, "backward": backward_transfer(seen), "forward": forward_transfer(seen, untrained)}


def _expected(
    choices_for: Callable[[torch.Tensor], Choices], contexts: list[torch.Tensor], rewards: torch.Tensor
) -> list[float]:
    """The reward that a policy would get on each task in the mean, over all circuits."""
    found = []
    for context, of_task in zip(contexts, rewards):
        choices = choices_for(context)
        found.append(float(choices.log_probability(choices.space.architectures).exp() @ of_task))
    return found


def run(cells: list[Cell]) -> None:
    """Everything for one set of tasks; the first seed also gets the scores of all circuits."""
    cells[0].search("exhaustive")
    for cell in cells:
        cell.controls()
        for strategy in STRATEGIES:
            cell.search(strategy)
    cells[0].replicas()
    cells[0].correlation()


# ------------------------------------------------------------------------------------------------------------- report


def percent(values: Sequence[float]) -> str:
    """Mean and half a 95 % interval in percent."""
    found = mean_interval(list(values))
    return f"{100 * found.mean:.1f}" + ("" if found.half_width is None else f" ± {100 * found.half_width:.1f}")


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Rank correlation; equal values share their mean rank."""
    columns = [torch.tensor(values, dtype=torch.float64) for values in (a, b)]
    ranks = [((v[:, None] > v).double() + 0.5 * (v[:, None] == v).double()).sum(1) for v in columns]
    return float(torch.corrcoef(torch.stack(ranks))[0, 1])


def report(cells: dict[str, list[Cell]]) -> str:
    """Tables of what stands."""
    lines: list[str] = []
    for name, of_set in cells.items():
        lines += [
            "",
            f"### {name}, {len(of_set)} seeds",
            "",
            "| | best reward | test | circuits tried |",
            "| --- | ---: | ---: | ---: |",
        ]
        tests: dict[str, dict[int, float]] = {}
        for strategy in STRATEGIES:
            rows = {cell.seed: found for cell in of_set if (found := cell.search(strategy)) is not None}
            if rows:
                mean = {seed: sum(row["test"]) / len(row["test"]) for seed, row in rows.items()}
                reward = [sum(row["reward"]) / len(row["reward"]) for row in rows.values()]
                tried = sum(sum(row["distinct"]) / len(row["distinct"]) for row in rows.values()) / len(rows)
                tests[strategy] = mean
                lines.append(f"| {strategy} | {percent(reward)} | {percent(list(mean.values()))} | {tried:.1f} |")
        if (every := of_set[0].search("exhaustive")) is not None:
            reward, test = (sum(every[key]) / len(every[key]) for key in ("reward", "test"))
            lines.append(f"| exhaustive, seed {of_set[0].seed} only | {percent([reward])} | {percent([test])} | 336 |")
        found = {cell.seed: kept for cell in of_set if (kept := cell.controls()) is not None}
        for key, words in CONTROLS.items():
            if found:
                tests[key] = {seed: sum(kept[key]) / len(kept[key]) for seed, kept in found.items()}
                lines.append(f"| {words} | | {percent(list(tests[key].values()))} | |")
        lines.append("")
        for other in ("random", "random-by-depth", "fixed"):
            if {"reinforce", other} <= tests.keys():
                test = paired_t_test(tests["reinforce"], tests[other])
                if test.difference is not None and test.difference.half_width is not None:
                    p = "" if test.p_value is None else f", p = {test.p_value:.2f}"
                    half = 100 * test.difference.half_width
                    lines.append(
                        f"- test, reinforce minus {other}: {100 * test.difference.mean:+.1f} ± {half:.1f} points{p}"
                    )
        lines += _replica_lines(of_set[0])
    return "\n".join(lines).strip() + "\n"


def _replica_lines(cell: Cell) -> list[str]:
    found, correlation = cell.replicas(), cell.correlation()
    lines = []
    if found is not None:
        searches, last = len(found["random"]["curves"]), len(found["random"]["curves"][0][0])
        early = max(1, last // 3)
        lines += [
            "",
            f"{searches} searches on the scores of all 336 circuits of seed {cell.seed}, mean over tasks:",
            "",
        ]
        lines += [
            f"| | best reward after {early} | after {last} | backward transfer | forward transfer |",
            "| --- |" + " ---: |" * 4,
        ]
        for name, runs in found.items():
            if not isinstance(runs, dict):
                continue
            at = [[sum(c[n - 1] for c in curves) / len(curves) for curves in runs["curves"]] for n in (early, last)]
            moves = [percent(runs[key]) if key in runs else "–" for key in ("backward", "forward")]
            lines.append(f"| {name} | " + " | ".join([*(percent(values) for values in at), *moves]) + " |")
        ceiling, mean = (100 * sum(found[key]) / len(found[key]) for key in ("ceiling", "mean"))
        lines.append(f"| best of all / mean of all | {ceiling:.1f} / {mean:.1f} | | | |")
    if correlation is not None:
        rho = spearman(correlation["reward"], correlation["test"])
        lines += [
            "",
            f"Rank correlation of reward and final test accuracy over 40 circuits of the first task: {rho:+.2f}",
        ]
    return lines


def picture(cells: dict[str, list[Cell]], path: Path) -> None:
    """Best reward against evaluations, mean of many searches with its 95 % interval."""
    from ketune.pictures import drawing, to_png

    with drawing():
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        shown = {name: kept for name, of_set in cells.items() if (kept := of_set[0].replicas()) is not None}
        if not shown:
            return
        figure = Figure(figsize=(4.6 * len(shown), 3.6), layout="constrained")
        FigureCanvasAgg(figure)
        for k, (name, found) in enumerate(shown.items()):
            axes = figure.add_subplot(1, len(shown), k + 1)
            axes.set_title(f"{name}: mean over {len(found['ceiling'])} tasks", fontsize=10)
            axes.set_xlabel("evaluations")
            axes.set_ylabel("best validation reward so far")
            for strategy, colour in COLOURS.items():
                curves = torch.tensor(found[strategy]["curves"]).mean(1)  # (searches, evaluations)
                mean = curves.mean(0)
                half = t_quantile(0.95, len(curves) - 1) * curves.std(0) / len(curves) ** 0.5
                numbers = range(1, len(mean) + 1)
                axes.plot(numbers, mean, color=colour, label=strategy)
                axes.fill_between(numbers, mean - half, mean + half, color=colour, alpha=0.18, linewidth=0)
            ceiling = sum(found["ceiling"]) / len(found["ceiling"])
            axes.axhline(ceiling, color="#4d5560", linestyle=(0, (5, 2)), linewidth=1.2, label="best of all 336")
            if k == 0:
                axes.legend(frameon=False, fontsize=9, loc="lower right")
    path.write_bytes(to_png(figure))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=["ecg", "regimes"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tasks", type=int, default=2)
    parser.add_argument("--rows", type=int, default=1500, help="rows of a task, before the split")
    parser.add_argument("--train-rows", type=int, default=320)
    parser.add_argument("--evaluations", type=int, default=30)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--final-epochs", type=int, default=40)
    parser.add_argument("--learning-rate", type=float, default=0.03)
    parser.add_argument("--replicas", type=int, default=50, help="searches on the scores of all circuits, 2 or more")
    parser.add_argument("--out", type=Path, default=Path("runs/vqc_search"))
    parser.add_argument("--only-report", action="store_true", help="run nothing; write the report of what stands")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cells = {name: [Cell(name, seed, options) for seed in range(options.seeds)] for name in options.sets}
    if not options.only_report:
        for of_set in cells.values():
            run(of_set)
    text = report(cells)
    options.out.mkdir(parents=True, exist_ok=True)
    page = options.out / f"search-lr{options.learning_rate:g}.md"
    page.write_text(text)
    picture(cells, page.with_suffix(".png"))
    print(text)
    print(f"table: {page}, picture: {page.with_suffix('.png')}")


if __name__ == "__main__":
    main()
