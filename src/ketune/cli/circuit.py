"""Draw a circuit and count its gates: one by its ansatz and wires, or the ones of a quantum method on a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ketune.cli import _options as options
from ketune.cli import _output as output

if TYPE_CHECKING:
    from torch import Tensor

    from ketune.circuits import Circuit

EXAMPLES = (
    "ketune circuit --ansatz ry_ring --wires 4 --layers 2",
    "ketune circuit --model ./my-model --method qaa --set ansatz=rxryrz_ring --expressibility",
    "ketune circuit --in-features 768 --draw mpl --out circuit.png",
    "ketune circuit --wires 3 --qasm > circuit.qasm",
    "ketune circuit --adapter runs/qaa --layer 0.self_attn.q_proj --qasm --out trained.qasm",
)
_ANSATZ, _LAYERS, _ENTANGLER, _WIRES, _METHOD = "ryrz_ring_ry", 1, "ring", 4, "qaa"


def run(
    ansatz: Annotated[
        str | None, typer.Option(metavar="NAME", help=rf"ry_ring, ryrz_ring_ry or rxryrz_ring. \[default: {_ANSATZ}]")
    ] = None,
    wires: Annotated[int | None, typer.Option(metavar="N", help=rf"Number of qubits. \[default: {_WIRES}]")] = None,
    layers: Annotated[
        int | None, typer.Option(metavar="N", help=rf"How often the layer repeats. \[default: {_LAYERS}]")
    ] = None,
    entangler: Annotated[
        str | None, typer.Option(metavar="NAME", help=rf"ring, linear, brick, all or none. \[default: {_ENTANGLER}]")
    ] = None,
    in_features: Annotated[
        int | None, typer.Option(metavar="N", help="Instead of --wires: as many as hold N amplitudes.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", metavar="MODEL", help="A method's circuits on this model; a config is enough."),
    ] = None,
    adapter: Annotated[
        str | None,
        typer.Option("--adapter", "-a", metavar="DIR", help="A trained circuit of a saved adapter, with its angles."),
    ] = None,
    layer: Annotated[
        str | None, typer.Option(metavar="NAME", help=r"With --adapter: which layer's. \[default: the first]")
    ] = None,
    method: Annotated[
        str | None, typer.Option(metavar="NAME", help=rf"A quantum method, with --model. \[default: {_METHOD}]")
    ] = None,
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
    own = options.given(**{"--ansatz": ansatz, "--wires": wires, "--layers": layers, "--entangler": entangler})
    own |= options.given(**{"--in-features": in_features})
    of_model = options.given(**{"--method": method, "--preset": preset, "--set": settings or None})
    _check(own, of_model, model, draw, qasm, out)
    if adapter is not None and (model is not None or own or of_model):
        raise options.OptionError("--adapter has its circuit and model; leave out what describes another one")
    if layer is not None and adapter is None:
        raise options.OptionError("--layer chooses a layer of an adapter; name it with --adapter")

    from ketune.circuits.description import describe

    with output.working("counting"), output.libraries_quiet():
        angles = None
        if adapter is not None:
            from ketune.finetuning.trained import saved_circuit

            name, circuit, angles = saved_circuit(options.expand(adapter), layer, trust_remote_code=trust_remote_code)
            found = [(circuit, {"in_features": 2**circuit.n_wires, "layers": [name], "angles": angles.tolist()})]
        elif model is not None:
            from ketune.adapters.layer_circuits import model_circuits

            items = model_circuits(
                options.expand(model),
                method or _METHOD,
                preset=preset,
                settings=settings or (),
                trust_remote_code=trust_remote_code,
            )
            found = [(item.circuit, {"in_features": item.in_features, "layers": list(item.layers)}) for item in items]
        else:
            from ketune.circuits.build import build_circuit

            n_wires = _WIRES if wires is None and in_features is None else wires
            n_layers = _LAYERS if layers is None else layers
            circuit = build_circuit(ansatz or _ANSATZ, n_wires, n_layers, entangler or _ENTANGLER, in_features)
            found = [(circuit, {"in_features": in_features or 2**circuit.n_wires, "layers": []})]
        rows = [place | describe(circuit, sample=expressibility) for circuit, place in found]

    style = "qasm" if qasm else draw or ("text" if out is not None else None)
    if style is not None and len(found) > 1:
        widths = ", ".join(str(row["in_features"]) for row in rows)
        raise options.OptionError(f"this model has circuits for the widths {widths}; choose one with --in-features")
    drawings = [None if as_json and style is None else _render(circuit, style, out, angles) for circuit, _ in found]
    if out is not None:
        options.write_file(options.expand(out), drawings[0])
        drawings = [None] * len(found)
    if as_json:
        key = "qasm" if qasm else "drawing"
        output.print_json([row | ({} if text is None else {key: text}) for row, text in zip(rows, drawings)])
    elif qasm and out is None:
        output.say(str(drawings[0]).rstrip())  # nothing but the program, so that it can go into a file
    else:
        for row, text in zip(rows, drawings):
            _show(row, text)
        if out is not None:
            output.say(f"saved: {out}", style="bold")


def _check(
    own: dict[str, Any], of_model: dict[str, Any], model: str | None, draw: str | None, qasm: bool, out: str | None
) -> None:
    """What can be refused before any library is there; no option is silently without effect."""
    if model is not None and own:
        raise options.OptionError(
            f"{', '.join(own)} describe a circuit of its own; with --model say --set ansatz=..., --set n_layers=..."
        )
    if model is None and of_model:
        raise options.OptionError(f"{', '.join(of_model)} choose a method on a model; name the model with --model")
    if {"--wires", "--in-features"} <= own.keys():
        raise options.OptionError("--wires and --in-features both say how wide the circuit is; pass one of them")
    if qasm and draw is not None:
        raise options.OptionError(f"--qasm writes a program and --draw {draw} a drawing; pass one of them")
    if draw == "mpl" and out is None:
        raise options.OptionError("--draw mpl makes a picture; say where it goes with --out circuit.png")


def _render(circuit: Circuit, style: str | None, out: str | None, angles: Tensor | None) -> str | bytes | None:
    """The drawing that was asked for; None if nobody asked and the library for it is not there."""
    from ketune.circuits.rendering import RenderError, render

    picture = options.ending(out) if style == "mpl" and out is not None else "png"
    try:
        return render(circuit, style or "text", picture, angles)
    except RenderError as error:
        if style is not None:
            raise
        output.say(f"no drawing: {error}", to=output.messages(), style="dim")
        return None


def _show(row: dict[str, Any], drawing: str | bytes | None) -> None:
    from ketune.circuits.rendering import fold

    console = output.results()
    if row["layers"]:
        n = len(row["layers"])
        names = row["layers"][0] + (", ..." if n > 1 else "")
        head = f"{n} layer{'s' if n > 1 else ''} of input width {row['in_features']}: {names}"
        output.say(head, to=console, style="bold")
    gates = ", ".join(f"{count} {name}" for name, count in row["gates"].items()) or "none"
    kind = "real amplitudes" if row["is_real"] else "complex amplitudes"
    output.say(f"wires {row['n_wires']}, depth {row['depth']}, gates {row['n_gates']} ({gates})", to=console)
    output.say(f"two-wire gates {row['n_two_qubit']}, angles {row['n_angles']}, {kind}", to=console)
    if "expressibility" in row:
        value, entangling = row["expressibility"], row["entangling_capability"]
        output.say(f"expressibility {value:.4f} (divergence from random states; lower expresses more)", to=console)
        output.say(f"entangling capability {entangling:.4f} (0 none, 1 most)", to=console)
    if drawing is not None:
        text = str(drawing)
        output.say(f"\n{fold(text, console.width) if output.is_terminal() else text}\n", to=console)
