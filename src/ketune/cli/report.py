"""Write the report of a comparison anew from the results in its folder, as Markdown and as one HTML file."""

from __future__ import annotations

from typing import Annotated

import typer

from ketune.cli import _options as options
from ketune.cli import _output as output

EXAMPLES = ("ketune report runs/base-inns", "ketune report runs/base-inns --json")


def run(
    folder: Annotated[
        str, typer.Argument(metavar="DIR", help="The folder of a comparison, or of PEFT's result files.")
    ],
    as_json: options.JsonOption = False,
) -> None:
    from ketune.cli._tables import print_comparison
    from ketune.comparison.report import write_report
    from ketune.comparison.summary import summarize_comparison

    with output.libraries_quiet():
        paths = write_report(options.expand(folder))
    rows = summarize_comparison(options.expand(folder))
    if as_json:
        found = {"markdown": paths.markdown, "html": paths.html, "figures": list(paths.figures)}
        output.print_json(found | {"summary": [row.to_dict() for row in rows]})
        return
    print_comparison(rows)
    output.say(f"\nreport: {paths.html}", style="bold")
    output.say(f"        {paths.markdown}")
