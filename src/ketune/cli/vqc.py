"""Train a variational circuit on a test problem: from several starts, or behind several encoders, side by side.

Energy problems (heisenberg, transverse-ising, max-cut, hubbard, h2, lih) are minimised from every start of --init with
every seed; flip and q_maml are meta-trained on the problem's family first. Problems with classes (quantum-dots,
digits, ecg, regimes) are learned behind every encoder, with the circuit and with what --block puts in its place.
Run the same command again to go on after an interruption, or with more starts or seeds to add to what stands.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ketune.cli import _options as options
from ketune.cli import _output as output

if TYPE_CHECKING:
    from ketune.vqc.classifier_runs import ClassifierResult
    from ketune.vqc.energy_summary import Summary

EXAMPLES = (
    "ketune vqc heisenberg --init uniform,gaussian,q_maml,flip --steps 200",
    "ketune vqc h2 --set length=0.9 --init zeros,pi,gaussian --optimizer superpositional --lr 0.02",
    "ketune vqc max-cut --set n_wires=10 --set n_layers=3 --init uniform --noise 0.001 --readout-error 0.01",
    "ketune vqc transverse-ising --set ansatz=hardware_efficient --init uniform,narrow --variance 4,6,8,10",
    "ketune vqc quantum-dots --encoder tt,pca --block circuit,linear,none --wires 8 --epochs 10",
)
_ENERGY, _CLASSES = "Problems with an energy", "Problems with classes"
_DEFAULTS: dict[str, Any] = {"init": "uniform,gaussian", "steps": 200, "optimizer": "adam", "meta_steps": 300}
_DEFAULTS |= {"target": 0.01, "encoder": "tt", "block": "circuit,linear", "wires": 8, "layers": 2, "epochs": 12}
_DEFAULTS |= {"ansatz": "rxryrz_ring", "rank": 3, "batch_size": 32}


def run(
    problem: Annotated[
        str, typer.Argument(metavar="PROBLEM", help="A name, see above; --list shows their options.")
    ] = "",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="An option of the problem, e.g. n_wires=8. Repeat for more."),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Starts: uniform, zeros, pi, narrow, gaussian, flip, q_maml, or files of learned starts."
            rf" \[default: {_DEFAULTS['init']}]",
            rich_help_panel=_ENERGY,
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(metavar="N", help=rf"Iterations. \[default: {_DEFAULTS['steps']}]", rich_help_panel=_ENERGY),
    ] = None,
    optimizer: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="adam, sgd, superpositional, or its controls superpositional-random-sign and -gaussian."
            rf" \[default: {_DEFAULTS['optimizer']}]",
            rich_help_panel=_ENERGY,
        ),
    ] = None,
    meta_steps: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help=rf"Steps of meta-training. \[default: {_DEFAULTS['meta_steps']}]",
            rich_help_panel=_ENERGY,
        ),
    ] = None,
    target: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help=rf"A run has arrived within this share of the ground energy. \[default: {_DEFAULTS['target']}]",
            rich_help_panel=_ENERGY,
        ),
    ] = None,
    variance: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Also the variance of gradients at the fixed starts for these numbers of wires.",
            rich_help_panel=_ENERGY,
        ),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help=rf"tt (tensor train), dense, pca. \[default: {_DEFAULTS['encoder']}]",
            rich_help_panel=_CLASSES,
        ),
    ] = None,
    block: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="circuit, and in its place linear (as many weights), frozen (random angles), none."
            rf" \[default: {_DEFAULTS['block']}]",
            rich_help_panel=_CLASSES,
        ),
    ] = None,
    wires: Annotated[
        int | None,
        typer.Option(metavar="N", help=rf"Qubits. \[default: {_DEFAULTS['wires']}]", rich_help_panel=_CLASSES),
    ] = None,
    layers: Annotated[
        int | None,
        typer.Option(
            metavar="N", help=rf"Layers of the circuit. \[default: {_DEFAULTS['layers']}]", rich_help_panel=_CLASSES
        ),
    ] = None,
    ansatz: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="With classes ry_ring, ryrz_ring_ry, rxryrz_ring or an architecture such as ring-linear"
            rf" \[default: {_DEFAULTS['ansatz']}]; with energies what the problem's option ansatz takes, see --list.",
        ),
    ] = None,
    rank: Annotated[
        int | None,
        typer.Option(
            metavar="N", help=rf"Rank of the tensor train. \[default: {_DEFAULTS['rank']}]", rich_help_panel=_CLASSES
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(metavar="N", help=rf"\[default: {_DEFAULTS['epochs']}]", rich_help_panel=_CLASSES),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            metavar="N", help=rf"Rows of a step. \[default: {_DEFAULTS['batch_size']}]", rich_help_panel=_CLASSES
        ),
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(metavar="RATE", help=r"Learning rate. \[default: 0.05 for energies, 0.01 for classes]"),
    ] = None,
    noise: Annotated[
        float, typer.Option(metavar="P", help="Depolarising noise after each gate, on each of its wires.")
    ] = 0.0,
    readout_error: Annotated[float, typer.Option(metavar="P", help="Probability of misreading a bit.")] = 0.0,
    trajectories: Annotated[
        int | None, typer.Option(metavar="N", help="Noisy runs that a value is the mean of.")
    ] = None,
    seeds: Annotated[str, typer.Option(metavar="N|LIST", help="How many, or the seeds themselves: 0,1,2.")] = "5",
    list_problems: Annotated[bool, typer.Option("--list", help="Show the problems and their options.")] = False,
    out: Annotated[
        str | None, typer.Option("--out", "--output", "-o", metavar="DIR", help=r"\[default: runs/vqc-PROBLEM]")
    ] = None,
    as_json: options.JsonOption = False,
) -> None:
    from ketune.vqc.problems.registry import PROBLEMS, make_problem

    if list_problems:
        _list(as_json)
        return
    if not problem:
        raise options.OptionError(f"name a problem: {', '.join(PROBLEMS)}")
    if problem not in PROBLEMS:
        make_problem(problem)  # refuses it, with the nearest name
    own = {"--init": init, "--steps": steps, "--optimizer": optimizer, "--meta-steps": meta_steps}
    own |= {"--target": target, "--variance": variance}
    others = {"--encoder": encoder, "--block": block, "--wires": wires, "--layers": layers}
    others |= {"--rank": rank, "--epochs": epochs, "--batch-size": batch_size}
    has_energy = PROBLEMS[problem].is_energy
    if wrong := options.given(**(others if has_energy else own)):
        kind = "an energy" if has_energy else "classes"
        raise options.OptionError(f"{', '.join(wrong)}: without effect, {problem} is a problem with {kind}")
    chosen = {name: _value(text) for name, text in options.parse_pairs("--set", settings).items()}
    if has_energy and ansatz is not None:
        chosen["ansatz"] = ansatz
    folder = Path(options.expand(out) if out is not None else f"runs/vqc-{problem}")
    common: dict[str, Any] = {"problem": problem, "options": chosen, "seeds": options.parse_seeds(seeds)}
    common |= {"depolarising": noise, "readout_error": readout_error}
    common |= {} if trajectories is None else {"n_trajectories": trajectories}
    common |= {} if lr is None else {"lr": lr}
    if has_energy:
        fields = {"starts": _names("--init", init, "init"), "n_steps": steps, "optimiser": optimizer}
        fields |= {"meta_steps": meta_steps, "target": target}
        widths = None if variance is None else tuple(int(n) for n in options.split_list("--variance", variance))
        _energies(common | options.given(**fields), folder, widths, as_json)
    else:
        fields = {"encoders": _names("--encoder", encoder, "encoder"), "blocks": _names("--block", block, "block")}
        fields |= {"n_wires": wires, "n_layers": layers, "ansatz": ansatz, "train_rank": rank}
        fields |= {"epochs": epochs, "batch_size": batch_size}
        _classes(common | options.given(**fields), folder, as_json)


def _names(option: str, text: str | None, name: str) -> tuple[str, ...]:
    return options.split_list(option, _DEFAULTS[name] if text is None else text)


def _value(text: str) -> Any:
    """A value as JSON reads it; anything else is text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _energies(fields: dict[str, Any], folder: Path, widths: tuple[int, ...] | None, as_json: bool) -> None:
    from ketune.cli._progress import phase_progress
    from ketune.vqc.energy_runs import EnergyRuns, run_energies
    from ketune.vqc.energy_summary import gradient_variance, summarise
    from ketune.vqc.figures import energy_figure, variance_figure

    runs = EnergyRuns(**fields)
    with phase_progress() as on_phase:

        def report(start: str, seed: int, step: int, total: int) -> None:
            name = Path(start).stem
            if step < 0:
                on_phase(f"{name}, seed {seed}: meta-training", runs.meta_steps + step + 1, runs.meta_steps)
            else:
                on_phase(f"{name}, seed {seed}", step, total)

        results = run_energies(runs, folder, report)
    lines = summarise(runs, results)
    options.write_file(str(folder / "energies.png"), energy_figure(runs, results))
    pictures = [folder / "energies.png"]
    variances = None
    if widths is not None:
        with output.working("gradients"):
            variances = gradient_variance(runs, widths)
        options.write_file(str(folder / "variances.png"), variance_figure(variances, widths))
        pictures.append(folder / "variances.png")
    if as_json:
        rows = [vars(line) for line in lines]
        output.print_json({"folder": str(folder), "starts": rows, "widths": widths, "variances": variances})
        return
    _show_energies(runs.target, lines)
    _end(folder, pictures)


def _show_energies(target: float, lines: list[Summary]) -> None:
    table = output.plain_table("Start", "Runs", "First gap", "Last gap", "Arrived", "Median steps", numbers=5)
    for line in lines:
        steps = "never" if line.median_steps is None else f"{line.median_steps:g}"
        arrived = f"{line.n_arrived} of {line.n_runs}"
        table.add_row(line.start, str(line.n_runs), f"{line.first_gap:.2%}", f"{line.last_gap:.2%}", arrived, steps)
    output.results().print(table)
    output.say(
        f"gap: above the ground energy, as a share of its size, mean over runs; arrived: within {target:g}",
        to=output.results(),
        style="dim",
    )
    for line in lines:
        if line.meta_gradients:
            text = f"{line.start}: meta-training took {line.meta_gradients:,} gradients; an iteration takes one"
            output.say(text, to=output.results(), style="dim")


def _classes(fields: dict[str, Any], folder: Path, as_json: bool) -> None:
    from ketune.cli._progress import phase_progress
    from ketune.vqc.classifier_runs import ClassifierRuns, run_classifiers
    from ketune.vqc.figures import accuracy_figure

    runs = ClassifierRuns(**fields)
    with phase_progress() as on_phase:
        results = run_classifiers(
            runs, folder, lambda name, seed, done, total: on_phase(f"{name}, seed {seed}", done, total)
        )
    groups: dict[str, list[ClassifierResult]] = {}
    for result in results:
        groups.setdefault(result.name, []).append(result)
    curves = {name: [result.test for result in group] for name, group in groups.items()}
    options.write_file(str(folder / "accuracies.png"), accuracy_figure(curves))
    if as_json:
        output.print_json({"folder": str(folder), "results": [vars(result) for result in results]})
        return
    table = output.plain_table("Encoder + block", "Runs", "Angles", "Other numbers", "Test accuracy", numbers=4)
    for name, group in groups.items():
        accuracies = [result.test[-1] for result in group]
        mean = sum(accuracies) / len(accuracies)
        spread = f" ({min(accuracies):.1%} to {max(accuracies):.1%})" if len(accuracies) > 1 else ""
        first = group[0]
        table.add_row(name, str(len(group)), f"{first.n_quantum:,}", f"{first.n_classical:,}", f"{mean:.1%}{spread}")
    output.results().print(table)
    output.say("test accuracy: after the last epoch, mean and range over seeds", to=output.results(), style="dim")
    _end(folder, [folder / "accuracies.png"])


def _end(folder: Path, pictures: list[Path]) -> None:
    for picture in pictures:
        output.say(f"picture: {picture}", to=output.results())
    output.say(f"runs: {folder / 'cells'}", to=output.results(), style="bold")


def _list(as_json: bool) -> None:
    from ketune.vqc.problems.registry import PROBLEMS

    if as_json:
        shown = {
            name: {"help": entry.help, "options": {key: vars(option) for key, option in entry.options.items()}}
            for name, entry in PROBLEMS.items()
        }
        output.print_json(shown)
        return
    for name, entry in PROBLEMS.items():
        output.say(f"{name}: {entry.help}", to=output.results(), style="bold")
        for option in entry.options.values():
            output.say(f"  {option.name}={option.default}  {option.help}", to=output.results())
