"""Compare ways to adapt a model: train each with the same budget, data and seeds, and write a report.

The folder of a comparison keeps every finished cell. Run the same command again to go on after an interruption.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from ketune.cli import _options as options
from ketune.cli import _output as output

EXAMPLES = (
    "ketune compare",
    "ketune compare --model ./my-model --data ./my-data --budget 0.1% --controls --out runs/mine",
    "ketune compare --methods lora,qaa --seeds 0,1,2,3,4 --tune-lr --steps 500",
    "ketune compare --methods all,-full --budget 0.05% --tune-lr --lr-trials 5",
    "ketune compare --methods full,lora --quantization none,ste,roste --bits w4a4kv4 --tune-lr",
    "ketune compare --methods lora --experiment ./dora --lr lora=2e-3 --json",
)
_SIZES = "How much is measured"


def run(
    model: options.ModelOption = options.MODEL,
    data: options.DataOption = options.DATA,
    methods: Annotated[
        str,
        typer.Option(
            metavar="NAMES",
            help="Methods, with commas between them, or all that fit: all, or all,-full; see `ketune methods`.",
        ),
    ] = "full,lora,prefix,sora,qaa",
    budget: options.BudgetOption = None,
    target_modules: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Modules that all methods adapt, e.g. q_proj,v_proj; query and value projections if left out.",
        ),
    ] = None,
    only_fitting: Annotated[
        bool, typer.Option("--only-fitting", help="Leave out methods that the budget is too small for, with a note.")
    ] = False,
    controls: Annotated[
        bool, typer.Option("--controls", help="Run the controls of quantum methods beside them, at their size.")
    ] = False,
    seeds: Annotated[str, typer.Option(metavar="N|LIST", help="How many seeds, or which: 3, or 0,1,2.")] = "3",
    tune_lr: Annotated[
        bool, typer.Option("--tune-lr", help="Choose each learning rate on the validation rows, by as many trials.")
    ] = False,
    lr_trials: Annotated[
        int | None, typer.Option(metavar="N", help=r"Learning rates that --tune-lr tries for each. \[default: 3]")
    ] = None,
    lr: Annotated[
        list[str] | None,
        typer.Option(metavar="METHOD=RATE", help="Learning rate of a method, e.g. lora=1e-3. Repeat for more."),
    ] = None,
    experiment: Annotated[
        list[str] | None,
        typer.Option(metavar="DIR", help="A folder with the adapter_config.json of any PEFT method, to be run beside."),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option("--out", "-o", metavar="DIR", help=r"Folder of the comparison. \[default: runs/MODEL-DATA]"),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(metavar="N", help="Cells at once. Chosen by the machine and the model if left out.")
    ] = None,
    steps: options.StepsOption = None,
    batch_size: options.BatchSizeOption = None,
    max_length: options.MaxLengthOption = None,
    training: options.TrainingOption = None,
    template: options.TemplateOption = None,
    column: options.ColumnOption = None,
    train: options.TrainFileOption = None,
    validation: options.ValidationFileOption = None,
    test: options.TestFileOption = None,
    limit: Annotated[
        int | None, typer.Option(metavar="N", help="At most so many training rows.", rich_help_panel=_SIZES)
    ] = None,
    n_validation: Annotated[
        int | None, typer.Option(metavar="N", help="Validation rows to score.", rich_help_panel=_SIZES)
    ] = None,
    n_test: Annotated[int | None, typer.Option(metavar="N", help="Test rows to score.", rich_help_panel=_SIZES)] = None,
    n_generate: Annotated[
        int | None, typer.Option(metavar="N", help="Test prompts to answer and score.", rich_help_panel=_SIZES)
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(metavar="N", help="Length of an answer.", rich_help_panel=_SIZES)
    ] = None,
    bertscore_model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="An encoder; adds BERTScore.", rich_help_panel=_SIZES)
    ] = None,
    quantization: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Train every method in these ways of quantising, with commas between them: roste, ste, rotated, "
            "zeroqat, prequant, nf4, int8; none is full precision. With its bits: roste:w4a4kv4.",
        ),
    ] = None,
    bits: options.BitsOption = None,
    keep_full: Annotated[
        bool, typer.Option("--keep-full", help="Keep fully fine-tuned weights, as large as the model, for each seed.")
    ] = False,
    trust_remote_code: options.TrustOption = False,
    as_json: options.JsonOption = False,
) -> None:
    # What needs no library is read first, so that a slip of the pen is answered at once.
    chosen = options.split_list("--methods", methods) if methods.strip() != "none" else ()
    seed_list, rates = options.parse_seeds(seeds), options.parse_rates("--lr", lr)
    targets = options.split_list("--target-modules", target_modules) if target_modules is not None else None
    columns = options.parse_pairs("--column", column) or None

    from ketune.adapters.fields import parse_fields
    from ketune.cli._progress import comparison_progress
    from ketune.cli._tables import print_comparison, print_outcome
    from ketune.comparison import ComparisonSpec, run_comparison
    from ketune.comparison.summary import summarize_comparison
    from ketune.finetuning import TrainingParams

    fields = {
        **parse_fields(TrainingParams, training or ()),
        **options.given(max_steps=steps, batch_size=batch_size, max_length=max_length),
    }
    sizes = options.given(
        n_train=limit,
        n_validation=n_validation,
        n_test=n_test,
        n_generate=n_generate,
        max_new_tokens=max_new_tokens,
        lr_trials=lr_trials,
    )
    spec = ComparisonSpec(
        model=options.expand(model),
        data=options.expand(data),
        methods=chosen,
        experiments=tuple(options.expand(folder) for folder in experiment or ()),
        target_modules=targets,
        budget=budget,
        seeds=seed_list,
        controls=controls,
        only_fitting=only_fitting,
        tune_lr=tune_lr,
        learning_rates=rates,
        training=fields,
        template=template,
        columns=columns,
        train=train,
        validation=validation,
        test=test,
        keep_full=keep_full,
        bertscore_model=options.expand_optional(bertscore_model),
        trust_remote_code=trust_remote_code,
        quantization=options.quantizations(quantization, bits),
        **sizes,  # pyright: ignore[reportArgumentType]
    )
    folder = options.expand(out) if out is not None else options.default_folder(spec.model, spec.data)
    with comparison_progress(to_stderr=as_json) as on_event, output.libraries_quiet():
        outcome = run_comparison(spec, folder, on_event, jobs=jobs)
    rows = summarize_comparison(folder)
    if as_json:
        found = asdict(outcome) | {"complete": outcome.complete}
        output.print_json(found | {"summary": [row.to_dict() for row in rows]})
    else:
        print_comparison(rows)
        print_outcome(outcome)
    raise typer.Exit(outcome.exit_code)
