"""Find a circuit that loads a vector into amplitudes: one of a file, or what a layer of a model is given for a text.

Says first how loadable the vector is, then finds the shortest circuit within --max-infidelity, or the best one within
--max-cnots. With --compare all methods are shown at the same numbers of CNOTs, with a picture.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ketune.cli import _options as options
from ketune.cli import _output as output
from ketune.cli._progress import phase_progress

if TYPE_CHECKING:
    from torch import Tensor

EXAMPLES = (
    "ketune prepare-state vector.npy",
    "ketune prepare-state vector.npy --max-infidelity 0.05 --out loader.qasm",
    "ketune prepare-state vector.csv --method aqer --max-cnots 40 --basis rzz --json",
    "ketune prepare-state vector.npy --compare 10,20,40 --out loaders.png",
    "ketune prepare-state --model ./my-model --layer h.0.mlp.c_fc --text 'Once upon a time' --max-infidelity 0.1",
)


def run(
    vector: Annotated[
        str, typer.Argument(metavar="FILE", help="A vector: .npy, .safetensors, .json, .csv or .txt.")
    ] = "",
    row: Annotated[
        int, typer.Option(metavar="N", help="Which row of a file with several, or which token; -1 is the last.")
    ] = -1,
    tensor: Annotated[str | None, typer.Option(metavar="NAME", help="Which tensor of a .safetensors file.")] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", metavar="MODEL", help="Instead of a file: a model's activations.")
    ] = None,
    layer: Annotated[
        str | None, typer.Option(metavar="NAME", help="With --model: the layer whose input is loaded.")
    ] = None,
    text: Annotated[str | None, typer.Option(metavar="TEXT", help="With --model: what the model reads.")] = None,
    method: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="auto, isometry, multiplexor (both exact), low_rank, mps, aqce, aqer or hardware_efficient.",
        ),
    ] = "auto",
    max_infidelity: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Infidelity that is allowed: the shortest circuit within it.")
    ] = None,
    max_cnots: Annotated[
        int | None, typer.Option(metavar="N", help="CNOTs that are allowed: the best circuit of so many.")
    ] = None,
    basis: Annotated[str, typer.Option(metavar="NAME", help="Gates to count: cx, cz, ecr or rzz.")] = "cx",
    block: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help=r"Blocks of aqer: rzz, cz, su4 or so4. \[default: so4 for real vectors, else rzz]"
        ),
    ] = None,
    connectivity: Annotated[
        str, typer.Option(metavar="NAME", help="Pairs of wires that aqer and aqce may use: all, line or ring.")
    ] = "all",
    polish: Annotated[bool, typer.Option("--polish/--no-polish", help="Tune all angles together at the end.")] = True,
    steps: Annotated[int, typer.Option(metavar="N", help="Steps of that tuning, at most.")] = 1000,
    seed: Annotated[int, typer.Option(metavar="N", help="Of random starts.")] = 0,
    compare: Annotated[
        str | None, typer.Option(metavar="CNOTS", help="Compare all methods at these numbers of CNOTs, e.g. 10,20,40.")
    ] = None,
    out: Annotated[
        str | None,
        typer.Option("--out", "-o", metavar="FILE", help="Where it goes: .qasm, .json, or .png with --compare."),
    ] = None,
    trust_remote_code: options.TrustOption = False,
    as_json: options.JsonOption = False,
) -> None:
    ends = (".png", ".json") if compare else (".qasm", ".json")
    if out is not None and Path(out).suffix.lower() not in ends:
        raise options.OptionError(f"--out {out}: the name must end in {' or '.join(ends)}")
    if bool(vector) == (model is not None):
        raise options.OptionError("name a FILE with a vector, or a --model with --layer and --text; one of the two")
    if model is not None and (layer is None or text is None):
        raise options.OptionError("--model needs --layer, whose input is loaded, and --text, which the model reads")
    if compare is not None and (max_cnots is not None or max_infidelity is not None):
        raise options.OptionError("--compare has its own numbers of CNOTs; leave out --max-cnots and --max-infidelity")

    from ketune.state_preparation import LoadingOptions, loadability

    chosen = _vector(vector, tensor, row, model, layer, text, trust_remote_code)
    loadable = loadability(chosen)
    if not as_json:
        console = output.results()
        output.say(f"{chosen.numel()} entries on {loadable.entropies.shape[-1]} wires", to=console, style="bold")
        output.say(str(loadable), to=console)
    shared = LoadingOptions(polish=polish, block=block, connectivity=connectivity, n_steps=steps, seed=seed)
    if compare is not None:
        _compare(chosen, options.split_list("--compare", compare), basis, shared, out, as_json)
        return

    from ketune.state_preparation import prepare_state

    with phase_progress() as report:
        found = prepare_state(
            chosen,
            method,
            max_infidelity=max_infidelity,
            max_cnots=max_cnots,
            basis=basis,
            options=shared,
            on_progress=report,
        )
    record: dict[str, Any] = {
        "method": found.method,
        "infidelity": found.infidelity,
        "n_wires": found.circuit.n_wires,
        "n_two_wire": found.counts.n_two_wire,
        "n_cnots": found.counts.n_cnots,
        "depth": found.counts.depth,
        "basis": basis,
        "seconds": found.seconds,
        "entanglement": float(loadable.entanglement),
        "product_infidelity": float(loadable.product),
    }
    if out is not None:
        from ketune.circuits import to_openqasm3

        program = to_openqasm3(found.circuit, found.angles)
        is_json = Path(out).suffix.lower() == ".json"
        whole = record | {"circuit": json.loads(found.circuit.text), "angles": found.angles.tolist()}
        options.write_file(options.expand(out), json.dumps(whole, indent=1) + "\n" if is_json else program)
    if as_json:
        output.print_json(record)
        return
    output.say(str(found), to=output.results(), style="bold")
    if out is not None:
        output.say(f"saved: {out}", style="bold")


def _vector(
    file: str,
    tensor: str | None,
    row: int,
    model: str | None,
    layer: str | None,
    text: str | None,
    trust_remote_code: bool,
) -> Tensor:
    if model is None:
        from ketune.state_preparation import read_vectors

        rows = read_vectors(options.expand(file), tensor)
    else:
        from ketune.finetuning.layer_vectors import layer_vectors

        with output.working("reading the text"), output.libraries_quiet():
            rows = layer_vectors(options.expand(model), layer or "", text or "", trust_remote_code=trust_remote_code)
    if not -len(rows) <= row < len(rows):
        raise options.OptionError(f"--row {row}: there are {len(rows)} rows, 0 to {len(rows) - 1}")
    return rows[row]


def _compare(vector: Tensor, budgets: tuple[str, ...], basis: str, shared: Any, out: str | None, as_json: bool) -> None:
    from dataclasses import asdict

    from ketune.state_preparation import compare_loaders, loaders_picture

    try:
        cnots = [int(budget) for budget in budgets]
    except ValueError as error:
        raise options.OptionError(f"--compare {','.join(budgets)}: write whole numbers, e.g. 10,20,40") from error

    def show(found: Any) -> None:
        tuned = "" if found.polished else ", as built"
        line = f"{found.method}{tuned}: {found.n_cnots} CNOTs, infidelity {found.infidelity:.3g}, {found.seconds:.1f} s"
        output.say(line, to=output.messages())

    rows = compare_loaders(vector, cnots, basis=basis, options=shared, on_row=show)
    if out is not None:
        is_json = Path(out).suffix.lower() == ".json"
        content = json.dumps([asdict(found) for found in rows], indent=1) + "\n" if is_json else loaders_picture(rows)
        options.write_file(options.expand(out), content)
    if as_json:
        output.print_json([asdict(found) for found in rows])
        return
    table = output.plain_table("method", "tuned", "CNOTs", "depth", "infidelity", "seconds", numbers=4)
    for found in sorted(rows, key=lambda found: (found.max_cnots, found.infidelity)):
        tuned = "yes" if found.polished else "no"
        numbers = f"{found.n_cnots}", f"{found.depth}", f"{found.infidelity:.3g}", f"{found.seconds:.1f}"
        table.add_row(found.method, tuned, *numbers)
    output.results().print(table)
    if out is not None:
        output.say(f"saved: {out}", style="bold")
