"""Fine-tune a model on prompts and answers, with one method, and save the adapter.

A run that was killed goes on from its newest checkpoint when the same command is given again.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from ketune.cli import _options as options
from ketune.cli import _output as output

if TYPE_CHECKING:
    from ketune.finetuning.by_method import MethodRun

EXAMPLES = (
    "ketune finetune --method qaa --out runs/qaa",
    "ketune finetune ./my-model --data ./my-data --method lora --budget 0.1% --out runs/lora",
    "ketune finetune ./my-model --data rows.jsonl --method qaa --set readout=amplitudes --steps 500 --out runs/qaa",
    "ketune finetune ./my-model --data ./my-data --method full --quantization roste --bits w4a4kv4 --lr 1e-4",
    "ketune finetune ./my-model --data ./my-data --method lora --quantization nf4 --out runs/qlora",
    "accelerate launch -m ketune finetune ./my-model --data ./my-data --method sora --out runs/sora",
)
_TRAINING = "Training"


def run(
    model_name: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="The same as --model.", show_default=False)
    ] = None,
    model: options.ModelOption = options.MODEL,
    data: options.DataOption = options.DATA,
    method: Annotated[str, typer.Option(metavar="NAME", help="See `ketune methods`.")] = "qaa",
    out: Annotated[str | None, typer.Option("--out", "-o", metavar="DIR", help="Folder for the result.")] = None,
    budget: options.BudgetOption = None,
    size: options.SizeOption = None,
    preset: options.PresetOption = None,
    settings: options.SetOption = None,
    control: options.ControlOption = None,
    quantization: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Train a quantised model, or beside one: roste, ste, rotated, zeroqat, prequant, nf4 or int8.",
        ),
    ] = None,
    bits: options.BitsOption = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Of initial values and the order of rows.")] = 0,
    steps: options.StepsOption = None,
    epochs: Annotated[
        float | None,
        typer.Option(metavar="X", help="Passes over the rows, instead of --steps.", rich_help_panel=_TRAINING),
    ] = None,
    batch_size: options.BatchSizeOption = None,
    gradient_accumulation: Annotated[
        int | None, typer.Option(metavar="N", help="Batches per optimiser step.", rich_help_panel=_TRAINING)
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(metavar="RATE", help="Learning rate; the method's own if left out.", rich_help_panel=_TRAINING),
    ] = None,
    max_length: options.MaxLengthOption = None,
    training: options.TrainingOption = None,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Go on from a checkpoint in --out, or start over.")
    ] = True,
    template: options.TemplateOption = None,
    column: options.ColumnOption = None,
    train: options.TrainFileOption = None,
    validation: options.ValidationFileOption = None,
    test: options.TestFileOption = None,
    limit: Annotated[
        int | None, typer.Option(metavar="N", help="At most so many rows of each split.", rich_help_panel="Data")
    ] = None,
    trust_remote_code: options.TrustOption = False,
    as_json: options.JsonOption = False,
) -> None:
    if model_name is not None and model != options.MODEL:
        raise options.OptionError(f"the model is named twice, {model_name!r} and --model {model!r}; name it once")
    if steps is not None and epochs is not None:
        raise options.OptionError(f"--steps {steps} and --epochs {epochs:g} both set the length; pass one of them")
    ways = options.quantizations(quantization, bits)
    if len(ways) > 1:
        raise options.OptionError(f"--quantization {', '.join(ways)}: name one; ketune compare takes several")
    base = options.expand(model_name or model)
    columns = options.parse_pairs("--column", column) or None
    folder = options.expand(out) if out is not None else options.default_folder(base, data) + f"-{method}"

    from ketune.adapters.fields import parse_fields
    from ketune.cli._progress import training_progress
    from ketune.finetuning import TrainingParams
    from ketune.finetuning.by_method import finetune_method

    params = parse_fields(TrainingParams, training or ()) | options.given(
        max_steps=steps,
        epochs=epochs,
        batch_size=batch_size,
        gradient_accumulation=gradient_accumulation,
        learning_rate=lr,
        max_length=max_length,
    )
    with training_progress() as on_progress, output.libraries_quiet():
        done = finetune_method(
            base,
            options.expand(data),
            method,
            output_dir=folder,
            size=size,
            budget=budget,
            preset=preset,
            settings=settings or (),
            control=control,
            params=params,
            seed=seed,
            resume=resume,
            progress=on_progress,
            data_options={
                "template": template,
                "columns": columns,
                "train": train,
                "validation": validation,
                "test": test,
                "limit": limit,
            },
            trust_remote_code=trust_remote_code,
            quantization=ways[0] if ways else None,
        )
    if as_json:
        output.print_json(done.to_dict())
    else:
        _show(done)
    raise typer.Exit(1 if done.result.diverged else 0)


def _show(done: MethodRun) -> None:
    result, console = done.result, output.results()
    for note in result.notes:
        output.say(note, to=output.messages(), style="dim")
    share = output.share(result.n_trainable / max(1, done.n_base))
    output.say(
        f"{done.choice.method.title}: {result.n_trainable:,} trainable parameters ({share})", to=console, style="bold"
    )
    table = output.plain_table("", "", numbers=1)
    table.show_header = False
    for name, value in (("training loss", done.last_loss), ("validation loss", done.eval_loss)):
        if value is not None:
            table.add_row(name, f"{value:.4f}")
    table.add_row("time in steps", output.duration(result.train_seconds))
    table.add_row("tokens", f"{result.tokens_seen:,}")
    if done.size is not None:
        table.add_row("model", f"{done.size.n_bytes / 2**20:.2f} MiB, {done.size.bits_per_weight:.2f} bits per weight")
    console.print(table)
    if result.diverged:
        output.say("the loss stopped being a number; try a smaller --lr", to=console, style="red")
    output.say(f"saved: {result.adapter_dir}", to=console, style="bold")
    output.say(
        f"next:  ketune evaluate --adapter {shlex.quote(str(result.adapter_dir))} --data DATA", to=console, style="dim"
    )
