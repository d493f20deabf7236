"""Turn the weights of a model into codes of a few bits, without training, and say what that costs.

By default each weight is rounded to the nearest code. With --rounding gptq the columns of a weight take over each
other's errors; with --rotations adaptive weights and activations are turned where that lowers the error, as RoSTE
chooses. Both look at training rows of --data. With --data the loss is measured before and after.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from ketune.cli import _options as options
from ketune.cli import _output as output

if TYPE_CHECKING:
    from ketune.finetuning.quantizing_saved import QuantizedModel

EXAMPLES = (
    "ketune quantize --bits w4a16 --out quantized/base-w4",
    "ketune quantize ./my-model --bits w3a16g128 --rounding gptq --data ./my-data --out quantized/my-model-w3",
    "ketune quantize ./my-model --bits w4a4kv4 --rotations adaptive --data rows.jsonl --out quantized/my-model-w4a4",
    "ketune quantize ./my-model --bits w3a16 --range mse --outliers 0.005 --out quantized/for-prequant",
    "ketune quantize ./my-model --bits w8a8 --clip 0.95 --data ./my-data --split test --out quantized/w8a8 --json",
)
_ROWS = "Data"


def run(
    out: Annotated[str, typer.Option("--out", "-o", metavar="DIR", help="A new folder.")],
    model_name: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="The same as --model.", show_default=False)
    ] = None,
    model: options.ModelOption = options.MODEL,
    bits: Annotated[
        str,
        typer.Option(
            metavar="BITS",
            help="Bits of weights, activations, and keys and values: w4a16, w4a4kv4, w2a16g128 (weights in groups of "
            "128). 16: as they are.",
        ),
    ] = "w4a16",
    rounding: Annotated[str, typer.Option(metavar="NAME", help="nearest, or gptq (needs --data).")] = "nearest",
    rotations: Annotated[
        str,
        typer.Option(metavar="NAME", help="never, adaptive (where they lower the error; needs --data) or always."),
    ] = "never",
    clip: Annotated[
        float, typer.Option(metavar="SHARE", help="Keep this part of each range, above 0 and up to 1.")
    ] = 1.0,
    range_: Annotated[
        str, typer.Option("--range", metavar="NAME", help="Of weights: minmax, or mse, the one of least squared error.")
    ] = "minmax",
    outliers: Annotated[
        float,
        typer.Option(metavar="SHARE", help="Share of each weight that stays in full precision, e.g. 0.005."),
    ] = 0.0,
    data: Annotated[
        str | None,
        typer.Option("--data", "-d", metavar="DATA", help="A data folder or file, a hub id, or builtin:inns."),
    ] = None,
    calibration: Annotated[
        int, typer.Option(metavar="N", help="Training rows for gptq and adaptive rotations.", rich_help_panel=_ROWS)
    ] = 128,
    split: Annotated[
        str, typer.Option(metavar="NAME", help="Rows to score: validation or test.", rich_help_panel=_ROWS)
    ] = "validation",
    limit: Annotated[
        int | None, typer.Option(metavar="N", help="Score at most so many rows.", rich_help_panel=_ROWS)
    ] = None,
    batch_size: Annotated[int, typer.Option(metavar="N", help="Sequences at once.", rich_help_panel=_ROWS)] = 16,
    max_length: Annotated[
        int | None, typer.Option(metavar="N", help="Longest sequence in tokens.", rich_help_panel=_ROWS)
    ] = None,
    template: options.TemplateOption = None,
    column: options.ColumnOption = None,
    train: options.TrainFileOption = None,
    validation: options.ValidationFileOption = None,
    test: options.TestFileOption = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Of the calibration rows and of signs in rotations.")] = 0,
    dtype: options.DtypeOption = "auto",
    device: options.DeviceOption = "auto",
    trust_remote_code: options.TrustOption = False,
    as_json: options.JsonOption = False,
) -> None:
    base = options.expand(options.one_model(model_name, model))
    columns = options.parse_pairs("--column", column) or None

    from ketune.cli._progress import phase_progress
    from ketune.finetuning.quantizing_saved import quantize_saved

    with phase_progress() as on_phase, output.libraries_quiet():
        done = quantize_saved(
            base,
            options.expand(out),
            bits,
            rotations=rotations,
            rounding=rounding,
            clip=clip,
            range=range_,
            outliers=outliers,
            data=options.expand_optional(data),
            n_calibration=calibration,
            split=split,
            limit=limit,
            batch_size=batch_size,
            max_length=max_length,
            data_options={
                "template": template,
                "columns": columns,
                "train": train,
                "validation": validation,
                "test": test,
            },
            seed=seed,
            dtype=dtype,
            device=device,
            trust_remote_code=trust_remote_code,
            on_phase=on_phase,
        )
    if as_json:
        output.print_json(done.to_dict())
    else:
        _show(done, data)


def _show(done: QuantizedModel, data: str | None) -> None:
    for note in done.notes:
        output.say(note, to=output.messages(), style="dim")
    output.say(f"{done.bits}, rounding: {done.rounding}, {done.rotations}", style="bold")
    table = output.plain_table("", "Before", "After", numbers=2)
    table.add_row("size", output.size(done.before.n_bytes), output.size(done.after.n_bytes))
    table.add_row("bits per weight", f"{done.before.bits_per_weight:.2f}", f"{done.after.bits_per_weight:.2f}")
    if (coded := done.after.bits_per_coded_weight) is not None:
        table.add_row("  of the quantised layers", "", f"{coded:.2f}")
    if done.loss_before is not None:
        table.add_row(f"{done.split} loss, {done.n_rows:,} rows", f"{done.loss_before:.4f}", f"{done.loss_after:.4f}")
    output.results().print(table)
    output.say(
        f"relative error of the weights: mean {done.mean_error:.2%} of {len(done.errors)} layers, worst "
        f"{done.errors[done.worst_layer]:.2%} ({done.worst_layer})"
    )
    output.say(f"saved: {done.folder}", style="bold")
    folder = shlex.quote(str(done.folder))
    scoring = f"ketune evaluate --model {folder} --data {shlex.quote(data) if data is not None else 'DATA'}"
    output.say(f"next:  {scoring}", style="dim")
