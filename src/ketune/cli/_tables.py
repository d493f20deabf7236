"""Results as tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ketune.cli import _output as output

if TYPE_CHECKING:
    from ketune.comparison import Outcome
    from ketune.comparison.summary import SummaryRow

_NOTHING = "–"
_SCORES = (
    ("loss", "loss", ".4f"),
    ("perplexity", "perplexity", ",.3f"),
    ("bits_per_byte", "bits per byte", ".4f"),
    ("bleu", "BLEU", ".2f"),
    ("rouge1", "ROUGE-1", ".2f"),
    ("rouge2", "ROUGE-2", ".2f"),
    ("rougeL", "ROUGE-L", ".2f"),
    ("exact_match", "exact match", ".1%"),
    ("bertscore", "BERTScore", ".2f"),
)


def print_comparison(rows: Sequence[SummaryRow]) -> None:
    """The short table of a comparison; nothing if nothing has finished."""
    if not any(row.scores for row in rows):
        return
    table = output.plain_table(
        "Method", "Trainable", "Share", "Test loss", "Δ to LoRA", "p", "BLEU", "ROUGE-L", "Step", "Memory", numbers=9
    )
    for row in rows:
        style = "dim" if row.method is None or row.control not in (None, "trained") else None
        step = row.costs.get("step_seconds")
        table.add_row(
            row.label,
            _count(row.trainable_parameters),
            output.share(row.share) if row.method else _NOTHING,
            _mean(row.scores.get("loss"), 4),
            _NOTHING if row.difference is None else f"{row.difference:+.4f}" + ("" if row.equal_size else " †"),
            _p(row.p_value),
            _mean(row.scores.get("bleu"), 2, interval=False),
            _mean(row.scores.get("rougeL"), 2, interval=False),
            _NOTHING if step is None else f"{1e3 * step:.0f} ms",
            output.size(row.costs.get("peak_bytes")),
            style=style,
        )
    console = output.results()
    output.say(to=console)
    console.print(table)
    seeds = max((len(row.seeds) for row in rows), default=0)
    notes = ["lower loss is better"]
    if seeds > 1:
        notes.insert(0, "mean ± half a 95 % interval over seeds; p of the difference to LoRA, Holm-adjusted")
    if any(row.difference is not None and not row.equal_size for row in rows):
        notes.append("† LoRA has another number of parameters")
    output.say("; ".join(notes), to=console, style="dim")


def print_outcome(outcome: Outcome) -> None:
    """How a comparison ended, and where its report lies."""
    console = output.results()
    output.say(to=console)
    for cell, error in outcome.failed.items():
        output.say(f"failed: {cell}: {error}", to=console, style="red")
    if outcome.failed:
        output.say("run the same command again to try the failed cells once more", to=console)
    if outcome.report is None:
        output.say(f"no cell has finished yet, so there is no report in {outcome.out}", to=console)
    else:
        output.say(f"report: {outcome.out / 'report.html'}", to=console, style="bold")


def print_scores(scores: dict[str, float], counts: dict[str, Any]) -> None:
    """Scores one below the other, after a line of what they were taken from."""
    console = output.results()
    table = output.plain_table("", "", numbers=1)
    table.show_header = False
    for key, name, form in _SCORES:
        if key in scores:
            table.add_row(name, format(scores[key], form))
    for name, value in counts.items():
        table.add_row(name, f"{value:,}", style="dim")
    console.print(table)


def print_samples(samples: Sequence[dict[str, Any]]) -> None:
    """What a model answered, with the first reference beside it."""
    console = output.results()
    for sample in samples:
        output.say(to=console)
        output.say(f"prompt     {sample['prompt'].strip()}", to=console)
        output.say(f"reference  {sample['references'][0]}", to=console, style="dim")
        output.say(f"answer     {sample['prediction']}", to=console)


def _count(value: int | None) -> str:
    return _NOTHING if value is None else f"{value:,}"


def _p(value: float | None) -> str:
    return _NOTHING if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _mean(score: dict[str, float | None] | None, digits: int, interval: bool = True) -> str:
    if score is None or score["mean"] is None:
        return _NOTHING
    mean, half = f"{score['mean']:.{digits}f}", score["half_width"]
    return mean if half is None or not interval else f"{mean} ± {half:.{digits}f}"
