"""Search for a circuit that tells the classes of some tasks apart, by CL-QAS, at random, or by trying all.

The circuits have two to four layers of RX, RY and RZ with one of four entanglers each: 336 of them. Each evaluation
trains one as a classifier; the best one is trained anew and tested. The tasks come one after another, and the strategy
reinforce carries its policy from one to the next. The circuit that was found lies in a file that circuit adapters take.
Run the same command again to go on after an interruption.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ketune.cli import _options as options
from ketune.cli import _output as output

if TYPE_CHECKING:
    from ketune.vqc.architecture_search.side_by_side import SideBySide

EXAMPLES = (
    "ketune search ecg",
    "ketune search ecg --strategy reinforce,random --evaluations 30 --tasks 3 --seed 0 --out runs/search",
    "ketune search regimes --strategy reinforce,random,exhaustive --depths 2 --tasks 2 --out runs/all-shallow --json",
)
_TRAINING = "Training of each circuit"


def run(
    data: Annotated[str, typer.Argument(metavar="DATA", help="ecg (heartbeats) or regimes (time series).")],
    strategy: Annotated[
        str,
        typer.Option(
            metavar="NAMES",
            help="With commas between them: reinforce, reinforce-alone (a new policy for each task), random, "
            "random-by-depth, exhaustive.",
        ),
    ] = "reinforce",
    evaluations: Annotated[int, typer.Option(metavar="N", help="Circuits to try for each task.")] = 30,
    tasks: Annotated[int, typer.Option(metavar="N", help="Tasks, one after another.")] = 3,
    wires: Annotated[int, typer.Option(metavar="N", help="Qubits; 8 hold the 256 features of a row.")] = 8,
    depths: Annotated[str, typer.Option(metavar="LIST", help="Numbers of layers to choose from.")] = "2,3,4",
    order: Annotated[
        str, typer.Option(metavar="NAME", help="Within a layer: rotations_first or entangler_first.")
    ] = "rotations_first",
    rank: Annotated[
        int, typer.Option(metavar="N", help="Largest rank of the tensor trains that rows are cut to; 0: not cut.")
    ] = 3,
    seed: Annotated[int, typer.Option(metavar="N", help="Of the data, the choices and the training.")] = 0,
    epochs: Annotated[int, typer.Option(metavar="N", help="Epochs of each evaluation.", rich_help_panel=_TRAINING)] = 8,
    final_epochs: Annotated[
        int, typer.Option(metavar="N", help="Epochs of the chosen circuit.", rich_help_panel=_TRAINING)
    ] = 40,
    batch_size: Annotated[int, typer.Option(metavar="N", help="Rows per step.", rich_help_panel=_TRAINING)] = 64,
    rows: Annotated[
        int | None, typer.Option(metavar="N", help="Rows of each task before they are split, 300 or more.")
    ] = None,
    out: Annotated[
        str | None,
        typer.Option("--out", "--output", "-o", metavar="DIR", help=r"Folder. \[default: runs/search-DATA]"),
    ] = None,
    as_json: options.JsonOption = False,
) -> None:
    strategies = options.split_list("--strategy", strategy)
    layers = _numbers("--depths", depths)
    folder = options.expand(out) if out is not None else f"runs/search-{data}"

    from ketune.cli._progress import phase_progress
    from ketune.vqc.architecture_search import ClassifierTraining, SearchSettings, SearchSpace
    from ketune.vqc.architecture_search.side_by_side import search_side_by_side
    from ketune.vqc.architecture_search.tasks import make_tasks

    settings = SearchSettings(
        n_evaluations=evaluations,
        n_wires=wires,
        seed=seed,
        max_rank=rank or None,
        space=SearchSpace(depths=layers, order=order),
        training=ClassifierTraining(epochs=epochs, batch_size=batch_size),
        final_epochs=final_epochs,
    )
    with phase_progress() as on_phase, output.libraries_quiet():
        found = search_side_by_side(
            make_tasks(data, tasks, seed, rows),
            strategies,
            settings,
            folder,
            lambda name, task, done, total: on_phase(f"{task}: {name}", done, total),
        )
    if as_json:
        output.print_json({"folder": str(found.folder), "results": found.rows})
    else:
        _show(found)


def _numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in options.split_list(option, text))
    except ValueError as error:
        if isinstance(error, options.OptionError):
            raise
        raise options.OptionError(
            f"{option} {text!r}: pass whole numbers with commas between them, e.g. 2,3,4"
        ) from None


def _show(found: SideBySide) -> None:
    console = output.results()
    table = output.plain_table("Task", "Strategy", "Circuit", "CNOTs", "Circuits tried", "Reward", "Test", numbers=4)
    for row in found.rows:
        table.add_row(
            row["task"],
            row["strategy"],
            row["architecture"],
            str(row["n_two_wire_gates"]),
            str(row["n_distinct"]),
            f"{row['reward']:.4f}",
            f"{100 * row['test_balanced_accuracy']:.1f} %",
        )
    console.print(table)
    output.say(
        "reward: on validation rows; test: balanced accuracy of the circuit trained anew", to=console, style="dim"
    )
    if found.drawing is not None:
        from ketune.circuits.rendering import fold

        chosen = found.chosen
        output.say(f"\n{chosen.architecture}, chosen by {chosen.search.strategy} for {chosen.task}:", to=console)
        output.say(fold(found.drawing, console.width) if output.is_terminal() else found.drawing, to=console)
    output.say(f"circuit: {found.folder / 'circuit.json'}", to=console, style="bold")
    output.say(f"results: {found.folder / 'results.json'}", to=console)
    output.say(f"picture: {found.folder / 'best_rewards.png'}", to=console)
