"""Write an adapter as a plain one that PEFT and servers such as vLLM load without Ketune.

With --to lora, the best LoRA of a rank for any adapter that is a change of weights, and how far it is from it. With
--to plain, exactly what a QPA adapter generates: LoRA, DoRA or a prefix. A SoRA adapter loses its closed gates with
`ketune merge --prune`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ketune.cli import _options as options
from ketune.cli import _output as output

if TYPE_CHECKING:
    from ketune.adapters import ConvertedLora

EXAMPLES = (
    "ketune export --adapter runs/compass --out runs/compass-as-lora",
    "ketune export --adapter runs/quanta --rank 16 --out served/quanta-16",
    "ketune export --adapter runs/quic --rank 0.99 --out served/quic --json",
    "ketune export --adapter runs/qpa --to plain --out served/qpa",
)


def run(
    adapter: Annotated[
        str,
        typer.Option("--adapter", "-a", metavar="DIR", help="What `ketune finetune --out` wrote, or any PEFT adapter."),
    ],
    out: Annotated[str, typer.Option("--out", "-o", metavar="DIR", help="A new folder.")],
    to: Annotated[
        str,
        typer.Option(
            metavar="KIND", help="lora (the best of a rank, with its error) or plain (QPA only, without an error)."
        ),
    ] = "lora",
    rank: Annotated[
        str | None,
        typer.Option(
            metavar="N|SHARE",
            help="Rank of every layer (16), or the share of the squared singular values to keep (0.99). "
            "Left out: each layer's smallest rank without an error.",
        ),
    ] = None,
    model: options.BaseOption = None,
    dtype: options.DtypeOption = "auto",
    device: options.DeviceOption = "auto",
    trust_remote_code: options.TrustOption = False,
    as_json: options.JsonOption = False,
) -> None:
    wanted = options.parse_rank(rank)
    from ketune.finetuning.exporting import export_adapter

    source, target, base = options.expand(adapter), options.expand(out), options.expand_optional(model)
    with output.working("exporting"), output.libraries_quiet():
        done = export_adapter(
            source, target, to, wanted, base, dtype=dtype, device=device, trust_remote_code=trust_remote_code
        )
    if as_json:
        output.print_json(done.to_dict())
        return
    if done.conversion is not None:
        _print_errors(done.conversion)
    output.say(f"{done.method} -> {done.kind} adapter, {output.size(done.n_bytes)}")
    output.say(f"saved: {done.folder}", style="bold")


def _print_errors(conversion: ConvertedLora) -> None:
    """Ranks and errors of the layers of one name together, and of all; a model has hundreds of layers."""
    table = output.plain_table("Layers", "Number", "Rank", "Largest error", numbers=3)
    kinds: dict[str, list[str]] = {}
    for name in conversion.ranks:
        kinds.setdefault(name.rsplit(".", 1)[-1], []).append(name)
    for kind, names in kinds.items():
        least, most = (choose(conversion.ranks[name] for name in names) for choose in (min, max))
        largest = max(conversion.errors[name] for name in names)
        table.add_row(kind, str(len(names)), str(most) if least == most else f"{least}–{most}", f"{largest:.1e}")
    output.results().print(table)
    output.say(
        f"error of all together {conversion.error:.1e}, relative to the change of weights; "
        f"{conversion.n_parameters:,} parameters",
        style="dim",
    )
