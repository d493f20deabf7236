"""`ketune evaluate --circuits-on`: prints what it will take, asks before machines run, prints what came out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer

from ketune.cli import _options as options
from ketune.cli import _output as output

if TYPE_CHECKING:
    from ketune.finetuning.on_devices import DeviceEvaluation, DevicePlan


def evaluate_on_device(
    adapter: str | None,
    model: str | None,
    data: str,
    *,
    shots: Sequence[float],
    noise: Sequence[float],
    as_json: bool,
    yes: bool,
    out: str | None,
    **arguments: Any,
) -> None:
    """Plan, ask, run, print; `arguments` are those of `plan_saved`."""
    from ketune.finetuning.on_devices import noise_figure, plan_saved

    with output.working("loading and counting"), output.libraries_quiet():
        plan = plan_saved(
            adapter, model, data, shots=[int(number) or None for number in shots], noise=list(noise), **arguments
        )
    for estimate in plan.estimates.values():
        output.say(str(estimate), to=output.messages())
    output.say(f"{plan.n_circuits:,} circuits in all", to=output.messages(), style="dim")
    _ask(plan, yes)
    with output.working("running circuits"), output.libraries_quiet():
        found = plan.run()
    if out is not None:
        from ketune.pictures import to_png

        options.write_file(out, to_png(noise_figure(found)))
    if as_json:
        output.print_json({**found.to_dict(), "estimates": [each.to_dict() for each in plan.estimates.values()]})
        return
    _print(found)


def _ask(plan: DevicePlan, yes: bool) -> None:
    if not plan.is_hardware or yes:
        return
    if not sys.stdin.isatty():
        raise options.OptionError("--circuits-on names a real machine: look at the estimate above, then pass --yes")
    typer.confirm("Run this on a real machine?", abort=True, err=True)


def _print(found: DeviceEvaluation) -> None:
    for note in found.notes:
        output.say(note, to=output.messages(), style="dim")
    output.say(f"{found.model} on {found.data}, {found.split} split, circuits on {found.device}", style="bold")
    output.say(f"{found.n_rows} rows, {found.n_tokens} tokens; loss of the simulator {found.exact_loss:.4f}")
    table = output.plain_table("Noise", "Shots", "Loss", "Change", "Time", numbers=5)
    for point in found.points:
        shots = "exact" if point.shots is None else f"{point.shots:,}"
        cells = (f"{point.noise:g}", shots, f"{point.loss:.4f}", f"{point.change:+.4f}")
        table.add_row(*cells, output.duration(point.seconds))
    output.results().print(table)
