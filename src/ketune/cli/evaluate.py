"""Score a model, with or without an adapter, on a data set.

Loss, perplexity and bits per byte of the answers in the data; BLEU, ROUGE and exact match of answers that it writes.

With --circuits-on, the change of the loss when the adapter's circuits run on a quantum device or its simulator.
"""

from __future__ import annotations

from typing import Annotated

import typer

from ketune.cli import _options as options
from ketune.cli import _output as output

EXAMPLES = (
    "ketune evaluate --adapter runs/qaa --data ./my-data",
    "ketune evaluate --model ./my-model --data ./my-data --n-generate 0",
    "ketune evaluate --adapter runs/qaa --split validation --limit 100 --json",
    "ketune evaluate --adapter runs/qaa --circuits-on aer --noise 0,0.001,0.01 --shots 0,1000 --out noise.png",
)

_DEVICES = "Quantum devices"


def run(
    adapter: Annotated[
        str | None,
        typer.Option("--adapter", "-a", metavar="DIR", help="What `ketune finetune --out` wrote, or any PEFT adapter."),
    ] = None,
    model: options.BaseOption = None,
    data: options.DataOption = options.DATA,
    split: Annotated[str, typer.Option(metavar="NAME", help="test, validation or train.")] = "test",
    limit: Annotated[int | None, typer.Option(metavar="N", help="At most so many rows.")] = None,
    n_generate: Annotated[int, typer.Option(metavar="N", help="Prompts to answer and score; 0 for none.")] = 64,
    max_new_tokens: Annotated[int, typer.Option(metavar="N", help="Length of an answer.")] = 64,
    batch_size: Annotated[int, typer.Option(metavar="N", help="Sequences at once.")] = 16,
    max_length: Annotated[int | None, typer.Option(metavar="N", help="Longest sequence in tokens.")] = None,
    samples: Annotated[int, typer.Option(metavar="N", help="Answers to show.")] = 0,
    bertscore_model: Annotated[str | None, typer.Option(metavar="MODEL", help="An encoder; adds BERTScore.")] = None,
    template: options.TemplateOption = None,
    column: options.ColumnOption = None,
    train: options.TrainFileOption = None,
    validation: options.ValidationFileOption = None,
    test: options.TestFileOption = None,
    dtype: options.DtypeOption = "auto",
    device: options.DeviceOption = "auto",
    trust_remote_code: options.TrustOption = False,
    circuits_on: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Run the adapter's circuits on: statevector, aer, generic:5, fake_manila, pennylane:lightning.qubit, "
            "ibm:least_busy, ...",
            rich_help_panel=_DEVICES,
        ),
    ] = None,
    shots: Annotated[
        str, typer.Option(metavar="N,N,...", help="Shots of each circuit; 0 for exact.", rich_help_panel=_DEVICES)
    ] = "0",
    noise: Annotated[
        str,
        typer.Option(
            metavar="P,P,...",
            help="Depolarising strengths after gates on two wires, on aer.",
            rich_help_panel=_DEVICES,
        ),
    ] = "0",
    prompts: Annotated[
        int | None, typer.Option(metavar="N", help="Rows to score on the device (2).", rich_help_panel=_DEVICES)
    ] = None,
    loading: Annotated[
        str,
        typer.Option(
            metavar="HOW",
            help="On aer, activations are loaded 'free' of noise or by noisy 'gates'.",
            rich_help_panel=_DEVICES,
        ),
    ] = "free",
    mitigate_readout: Annotated[
        bool, typer.Option("--mitigate-readout", help="Take readout errors out.", rich_help_panel=_DEVICES)
    ] = False,
    seed: Annotated[int, typer.Option(metavar="N", help="Of simulated shots.", rich_help_panel=_DEVICES)] = 0,
    out: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="A picture of the loss against noise (PNG).", rich_help_panel=_DEVICES),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask before a real machine runs.", rich_help_panel=_DEVICES)
    ] = False,
    as_json: options.JsonOption = False,
) -> None:
    columns = options.parse_pairs("--column", column) or None
    data_options = {
        "template": template,
        "columns": columns,
        "train": train,
        "validation": validation,
        "test": test,
    }
    if circuits_on is not None:
        from ketune.cli._evaluate_on_device import evaluate_on_device

        evaluate_on_device(
            options.expand_optional(adapter),
            options.expand_optional(model),
            options.expand(data),
            as_json=as_json,
            yes=yes,
            out=options.expand_optional(out),
            shots=options.parse_numbers("--shots", shots, int),
            noise=options.parse_numbers("--noise", noise, float),
            split=split,
            data_options=data_options,
            dtype=dtype,
            torch_device=device,
            trust_remote_code=trust_remote_code,
            device=circuits_on,
            loading=loading,
            mitigate_readout=mitigate_readout,
            seed=seed,
            **options.given(n_prompts=prompts, max_length=max_length),
        )
        return
    given = {"--shots": shots != "0", "--noise": noise != "0", "--prompts": prompts is not None, "--out": bool(out)}
    if unused := [name for name, is_given in given.items() if is_given]:
        raise options.OptionError(f"{', '.join(unused)}: say where the circuits run, e.g. --circuits-on aer")

    from ketune.finetuning.evaluation import evaluate_saved

    with output.working("loading and scoring"), output.libraries_quiet():
        found = evaluate_saved(
            options.expand_optional(adapter),
            options.expand_optional(model),
            options.expand(data),
            split=split,
            limit=limit,
            n_generate=n_generate,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            max_length=max_length,
            n_samples=samples,
            bertscore_model=options.expand_optional(bertscore_model),
            data_options=data_options,
            dtype=dtype,
            device=device,
            trust_remote_code=trust_remote_code,
        )
    if as_json:
        output.print_json(found.to_dict())
        return

    from ketune.cli._tables import print_samples, print_scores

    for note in found.notes:
        output.say(note, to=output.messages(), style="dim")
    output.say(f"{found.model} on {found.data}, {found.split} split", style="bold")
    print_scores(found.scores, {"rows": found.n_rows, "answers": found.n_generated})
    print_samples(found.samples)
