"""Draw a circuit and count its gates: one by its ansatz and wires, or the ones of a quantum method on a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ketune.cli import _options as options
from ketune.cli import _output as output

if TYPE_CHECKING:
    from ketune.adapters.layer_circuits import LayerCircuit
    from ketune.circuits import Circuit

EXAMPLES = (
    "ketune circuit --ansatz ry_ring --wires 4 --layers 2",
    "ketune circuit --model ./my-model --method qaa --set ansatz=rxryrz_ring --expressibility",
    "ketune circuit --in-features 768 --draw mpl --out circuit.png",
    "ketune circuit --wires 3 --qasm > circuit.qasm",
)


def run(
    ansatz: Annotated[str, typer.Option(metavar="NAME", help="ry_ring, ryrz_ring_ry or rxryrz_ring.")] = "ryrz_ring_ry",
    wires: Annotated[int | None, typer.Option(metavar="N", help="Number of qubits.")] = None,
    layers: Annotated[int, typer.Option(metavar="N", help="How often the layer repeats.")] = 1,
    entangler: Annotated[str, typer.Option(metavar="NAME", help="ring, linear or none.")] = "ring",
    in_features: Annotated[
        int | None, typer.Option(metavar="N", help="Instead of --wires: as many as hold N amplitudes.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", metavar="MODEL", help="The circuits of --method on this model; a config is enough."
        ),
    ] = None,
    method: Annotated[str, typer.Option(metavar="NAME", help="A quantum method, with --model.")] = "qaa",
    preset: options.PresetOption = None,
    settings: options.SetOption = None,
    draw: Annotated[
        str | None, typer.Option(metavar="STYLE", help=r"text, mpl or latex; mpl needs --out. \[default: text]")
    ] = None,
    out: Annotated[
        str | None, typer.Option("--out", "-o", metavar="FILE", help="Where the drawing or program goes.")
    ] = None,
    qasm: Annotated[bool, typer.Option("--qasm", help="Write an OpenQASM 3 program instead of a drawing.")] = False,
    expressibility: Annotated[
        bool, typer.Option("--expressibility", help="Estimate expressibility and entangling capability too.")
    ] = False,
    trust_remote_code: options.TrustOption = False,
    as_json: options.JsonOption = False,
) -> None:
    style = "qasm" if qasm else draw
    _check(wires, in_features, model, style, out)

    from ketune.adapters.layer_circuits import LayerCircuit, build_circuit, model_circuits
    from ketune.circuits.description import describe

    with output.working("counting"), output.libraries_quiet():
        if model is not None:
            found = model_circuits(
                options.expand(model),
                method,
                preset=preset,
                settings=settings or (),
                trust_remote_code=trust_remote_code,
            )
        else:
            n_wires = 4 if wires is None and in_features is None else wires
            circuit = build_circuit(ansatz, n_wires, layers, entangler, in_features)
            found = [LayerCircuit(2**circuit.n_wires if in_features is None else in_features, (), circuit)]
        numbers = [describe(item.circuit, sample=expressibility) for item in found]
    if style is not None and len(found) > 1:
        widths = ", ".join(str(item.in_features) for item in found)
        raise options.OptionError(f"this model has circuits for the widths {widths}; choose one with --in-features")
    drawing = _render(found[0].circuit, style, out) if style is not None or not as_json else None
    if out is not None:
        options.write_file(options.expand(out), drawing)
    elif qasm and not as_json:
        output.say(str(drawing).rstrip())
        return
    if as_json:
        shown = {} if style is None or out is not None else {"qasm" if qasm else "drawing": drawing}
        rows = [
            {"in_features": item.in_features, "layers": list(item.layers)} | row | shown
            for item, row in zip(found, numbers)
        ]
        output.print_json(rows)
        return
    for i, (item, row) in enumerate(zip(found, numbers)):
        if i:
            output.say()
        _show(item, row)
        if out is None and drawing is not None:
            text = drawing if i == 0 else _render(item.circuit, None, None)
            _print_drawing(str(text))
    if out is not None:
        output.say(f"saved: {out}", style="bold")


def _check(wires: int | None, in_features: int | None, model: str | None, style: str | None, out: str | None) -> None:
    """What can be refused before any library is there."""
    if sum(value is not None for value in (wires, in_features, model)) > 1:
        raise options.OptionError(
            "--wires, --in-features and --model each say how wide the circuit is; pass one of them"
        )
    if style == "mpl" and out is None:
        raise options.OptionError("--draw mpl makes a picture; say where it goes with --out circuit.png")


def _render(circuit: Circuit, style: str | None, out: str | None) -> str | bytes | None:
    """The drawing that was asked for; None if nobody asked and the library for it is not there."""
    from ketune.circuits.rendering import RenderError, render

    picture = options.ending(out) if style == "mpl" and out is not None else "png"
    try:
        return render(circuit, style or "text", picture)
    except RenderError as error:
        if style is not None:
            raise
        output.say(f"no drawing: {error}", to=output.messages(), style="dim")
        return None


def _show(item: LayerCircuit, row: dict[str, Any]) -> None:
    if item.layers:
        layers = f"{len(item.layers)} layer{'s' * (len(item.layers) > 1)} of input width {item.in_features}"
        output.say(f"{layers}: {item.layers[0]}{', ...' * (len(item.layers) > 1)}", style="bold")
    gates = ", ".join(f"{count} {name}" for name, count in row["gates"].items()) or "none"
    output.say(f"wires {row['n_wires']}, depth {row['depth']}, gates {row['n_gates']} ({gates})")
    output.say(
        f"two-wire gates {row['n_two_qubit']}, angles {row['n_angles']}, {'real' if row['is_real'] else 'complex'}"
    )
    if "expressibility" in row:
        output.say(
            f"expressibility {row['expressibility']:.4f} (KL divergence from random states, lower expresses more)"
        )
        output.say(f"entangling capability {row['entangling_capability']:.4f} (0 none, 1 most)")


def _print_drawing(drawing: str) -> None:
    from ketune.circuits.rendering import fold

    console = output.results()
    output.say(to=console)
    output.say(fold(drawing, console.width) if output.is_terminal() else drawing, to=console)
