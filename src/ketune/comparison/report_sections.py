"""The report as a document: which sections, with which tables, figures and sentences."""

from __future__ import annotations

from collections.abc import Collection

from ketune.comparison import report_tables as tables
from ketune.comparison.arms import Comparison
from ketune.comparison.document import Block, Bullets, Details, Document, Figures, Paragraph, Sample, Section, Table
from ketune.comparison.report_figures import control_figure_name
from ketune.comparison.report_findings import findings
from ketune.comparison.report_setup import how_measured, what_was_run
from ketune.comparison.report_text import seeds

_OPEN_SAMPLES = 2


def build_document(comparison: Comparison, figures: Collection[str]) -> Document:
    """Lay the report out.

    Args:
        comparison: What was read from the folder.
        figures: Names of the figures that could be drawn.
    """
    finished = comparison.finished
    n_cells = sum(len(arm.results) for arm in finished)
    n_seeds = len({seed for arm in finished for seed in arm.seeds})
    ways = "1 way" if len(finished) == 1 else f"{len(finished)} ways"
    cells = "1 finished cell" if n_cells == 1 else f"{n_cells} finished cells"
    lead = f"{ways} to adapt one language model, {seeds(n_seeds)}, {cells}"
    sections = [
        _results(comparison, figures),
        _convergence(figures),
        _efficiency(comparison, figures),
        _capacity(comparison, figures),
        _controls(comparison, figures),
        _samples(comparison),
        _learning_rates(comparison, figures),
        _others(comparison),
        _problems(comparison),
        what_was_run(comparison),
        how_measured(comparison),
    ]
    return Document(
        title="Fine-tuning comparison", lead=f"{lead}. Written by Ketune.", sections=[s for s in sections if s.blocks]
    )


def _results(comparison: Comparison, figures: Collection[str]) -> Section:
    blocks: list[Block] = []
    lines = findings(comparison)
    if lines:
        blocks += [tables.headline_table(comparison), Paragraph("What the numbers say:"), Bullets(lines)]
    else:
        blocks.append(Paragraph("No finished cell has a test loss yet."))
    items = [
        (
            "difference_to_lora",
            "Difference to LoRA in test loss. Bars are 95 % intervals of the paired difference over seeds; an interval "
            "that reaches over the line leaves it open who is better. Hollow: controls.",
        ),
        (
            "quality_vs_parameters",
            "Test loss against trainable parameters. Dashed: the Pareto front, with nothing below and left of it. "
            "Hollow: controls. Bars: 95 % intervals over seeds.",
        ),
        (
            "quality_vs_size",
            "Test loss against the size of the model as it is stored, embeddings included. Hollow: quantised. Bars: 95 "
            "% intervals over seeds.",
        ),
    ]
    return Section("Results", blocks + _figures(items, figures))


def _convergence(figures: Collection[str]) -> Section:
    items = [
        (
            "loss_vs_steps",
            "Training loss against steps. Mean over seeds; bands reach from the lowest to the highest seed.",
        ),
        ("loss_vs_tokens", "Training loss against tokens. What a method learns from the same text."),
        ("loss_vs_seconds", "Training loss against seconds. What a method learns in the same time on this machine."),
        ("eval_loss_vs_steps", "Validation loss against steps. Bars reach from lowest to highest seed."),
    ]
    return Section("Convergence", _figures(items, figures))


def _efficiency(comparison: Comparison, figures: Collection[str]) -> Section:
    arms = [arm for arm in comparison.finished if arm.values("loss")]
    if not arms:
        return Section("Efficiency", [])
    whiskers = "Whiskers: lowest and highest seed."
    items = [
        (
            "peak_memory",
            f"Peak memory of each cell's own process. Pale: in use before training began. {whiskers}",
        ),
        (
            "step_time",
            f"Time of a training step. Median within a cell, mean over seeds. {whiskers}",
        ),
    ]
    return Section("Efficiency", [tables.efficiency_table(arms), *_figures(items, figures)])


def _capacity(comparison: Comparison, figures: Collection[str]) -> Section:
    arms = comparison.finished
    found = (tables.capacity_table(arms), tables.circuit_table(arms))
    blocks: list[Block] = [table for table in found if table is not None]
    items = [
        ("spectrum", "Singular values of the change of the hidden states. A slow fall: many directions are used."),
        ("weight_spectrum", "Singular values of the changed weights. Mean over matrices, where an update is a matrix."),
        ("effective_rank", "Effective rank of the change of the hidden states. The number of directions that count."),
        ("circuits", "Entangling capability against expressibility. The ring marks where random states stand."),
    ]
    return Section("Representational capacity", blocks + _figures(items, figures))


def _controls(comparison: Comparison, figures: Collection[str]) -> Section:
    blocks: list[Block] = []
    for arm in comparison.finished:
        if arm.control != "trained" or not comparison.controls_of(arm):
            continue
        name = control_figure_name(arm.method, arm.experiment)
        items = [
            (f"{name}_difference", f"{arm.label} minus each control in test loss. Bars are 95 % intervals over seeds."),
            (f"{name}_loss", f"Training loss of {arm.label} and its controls against steps. Dashed: controls."),
        ]
        blocks += [tables.control_table(comparison, arm), *_figures(items, figures)]
    if blocks:
        blocks.insert(0, Paragraph("Does the trained circuit matter? Each row puts something simpler in its place."))
    return Section("Controls", blocks)


def _samples(comparison: Comparison) -> Section:
    arms = [arm for arm in comparison.finished if not arm.is_control and any(r.ketune.samples for r in arm.results)]
    prompts: dict[str, list[str]] = {}
    answers: dict[str, list[tuple[str, str]]] = {}
    for arm in arms:
        result = next(r for r in arm.results if r.ketune.samples)
        for sample in result.ketune.samples:
            prompt = str(sample.get("prompt", ""))
            prompts.setdefault(prompt, [str(reference) for reference in sample.get("references") or []])
            answers.setdefault(prompt, []).append((arm.label, str(sample.get("prediction", ""))))
    base = comparison.base_samples
    blocks: list[Block] = []
    for prompt, references in prompts.items():
        shown = [("Reference", reference) for reference in references[:2]]
        if prompt in base:
            shown.append(("Base model", str(base[prompt])))
        blocks.append(Sample(prompt, [*shown, *answers[prompt]]))
    if len(blocks) > _OPEN_SAMPLES:
        rest = blocks[_OPEN_SAMPLES:]
        blocks = [*blocks[:_OPEN_SAMPLES], Details(f"{len(rest)} more", rest)]
    if blocks:
        blocks.insert(0, Paragraph("Greedy answers to the first test prompts, each method with its first seed."))
    return Section("Samples", blocks)


def _learning_rates(comparison: Comparison, figures: Collection[str]) -> Section:
    arms = [arm for arm in comparison.finished if any(r.ketune.learning_rate is not None for r in arm.results)]
    if not arms:
        return Section("Learning rates", [])
    caption = "Validation loss of the learning rates that were tried. The ring marks the one that was taken."
    return Section(
        "Learning rates", [tables.learning_rate_table(arms), *_figures([("learning_rates", caption)], figures)]
    )


def _others(comparison: Comparison) -> Section:
    table = tables.accuracy_table(comparison.finished)
    if table is None:
        return Section("Results without a test loss", [])
    text = "From files without a test loss, such as those of PEFT's method_comparison: other models, data and machines."
    return Section("Results without a test loss", [Paragraph(text), table])


def _problems(comparison: Comparison) -> Section:
    blocks: list[Block] = []
    failed: Table | None = tables.failed_table(comparison)
    if failed is not None:
        blocks += [Paragraph("Run the same command again to try these cells once more."), failed]
    if comparison.problems:
        blocks += [Paragraph("Files that could not be read:"), Bullets(comparison.problems)]
    if notes := _notes(comparison):
        blocks.append(Details("Notes of the cells", [Bullets(notes)]))
    return Section("Failed cells and notes" if failed or comparison.problems else "Notes", blocks)


def _notes(comparison: Comparison) -> list[str]:
    """The notes of all cells, once each: those that all methods share first, the others with the name of theirs."""
    arms = comparison.finished
    by_arm = {arm.label: dict.fromkeys(note for r in arm.results for note in r.ketune.notes) for arm in arms}
    first = next(iter(by_arm.values()), {}) if len(arms) > 1 else {}
    shared = [note for note in first if all(note in notes for notes in by_arm.values())]
    return shared + [f"{label}: {note}" for label, notes in by_arm.items() for note in notes if note not in shared]


def _figures(items: list[tuple[str, str]], figures: Collection[str]) -> list[Block]:
    shown = [item for item in items if item[0] in figures]
    return [Figures(shown)] if shown else []
