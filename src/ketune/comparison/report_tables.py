"""The tables of a report."""

from __future__ import annotations

from collections.abc import Sequence

from ketune.comparison import report_text as text
from ketune.comparison.arms import Arm, Comparison, same_budget
from ketune.comparison.document import Table
from ketune.comparison.figures_efficiency import learning_rate_trials
from ketune.comparison.report_findings import control_tests
from ketune.comparison.statistics import Interval

_SCORES = (
    ("loss", "Test loss", 4),
    ("perplexity", "Perplexity", 3),
    ("bits_per_byte", "Bits/byte", 4),
    ("bleu", "BLEU", 2),
    ("rougeL", "ROUGE-L", 2),
    ("exact_match", "Exact match", 3),
    ("bertscore", "BERTScore", 2),
)
_ALWAYS = ("loss", "perplexity", "bits_per_byte", "bleu", "rougeL")
OTHER_SIZE = "†"


def headline_table(comparison: Comparison) -> Table:
    """One row per arm, and one for the untouched base."""
    arms = [arm for arm in comparison.finished if arm.values("loss")]
    base, tests = comparison.base_scores, comparison.tests_against_reference()
    scores = [s for s in _SCORES if s[0] in _ALWAYS or any(any(arm.values(s[0]).values()) for arm in arms)]
    n_base = next((n for arm in arms if (n := arm.n_base)), None)
    header = ["Method", "Control", "Trainable (of base)", "Seeds", *(title for _, title, _ in scores)]
    header += ["Δ loss vs LoRA", "p (Holm)", "Peak memory", "Step (ms)", "Adapter file"]
    shows_size = any(arm.quantization for arm in arms)
    header += ["Model size", "Bits/weight"] if shows_size else []
    rows, marks = [], {}
    if base:
        cells = [text.number(base.get(metric), digits) for metric, _, digits in scores]
        size = comparison.base.get("size") or {}
        last = [text.size(size.get("model_bytes")), text.number(size.get("bits_per_weight"), 2)] if shows_size else []
        rows.append(["Base model, untouched", text.NOTHING, "0", text.NOTHING, *cells, *[text.NOTHING] * 5, *last])
        marks[0] = "base"
    unequal = False
    for arm in arms:
        test, reference = tests.get(arm.label), comparison.reference_for(arm)
        other = test is not None and reference is not None and not same_budget(arm, reference)
        unequal = unequal or other
        difference = text.NOTHING if test is None else text.signed(test.difference) + (OTHER_SIZE if other else "")
        if arm.is_control:
            marks[len(rows)] = "control"
        rows.append(
            [
                arm.label,
                arm.control or text.NOTHING,
                f"{text.count(arm.n_trainable)} ({text.share(arm.n_trainable, n_base)})",
                str(len(arm.seeds)),
                *(text.with_interval(arm.mean(metric), digits) for metric, _, digits in scores),
                difference,
                text.p_value(test.p_value if test else None),
                _size(arm.mean("peak_bytes")),
                text.number(_mean(arm.mean("step_seconds")), 1, 1e3),
                _size(arm.mean("file_bytes")),
                *(
                    [_size(arm.mean("model_bytes")), text.number(_mean(arm.mean("bits_per_weight")), 2)]
                    if shows_size
                    else []
                ),
            ]
        )
    caption = "Mean ± half a 95 % interval over seeds; the difference to LoRA is paired by seed, lower is better."
    caption += f" {OTHER_SIZE} not at LoRA's number of parameters." if unequal else ""
    return Table(header, rows, n_text=2, caption=caption, marks=marks)


def control_table(comparison: Comparison, arm: Arm) -> Table:
    """A trained method above its controls."""
    tests = control_tests(comparison, arm)
    title = f"Δ loss, {arm.label} minus control"
    header = ["Variant", "Trainable", "Seeds", "Test loss", title, "p (Holm)", "Effect size d", f"{arm.label} is"]
    rows = []
    for other in (arm, *comparison.controls_of(arm)):
        row = [
            other.label,
            text.count(other.n_trainable),
            str(len(other.seeds)),
            text.with_interval(other.mean("loss"), 4),
        ]
        test = tests.get(other.label)
        if test is None:
            row += [text.NOTHING] * 4
        else:
            effect = text.number(test.effect_size, 2).replace("-", "−")
            row += [text.signed(test.difference), text.p_value(test.p_value), effect, text.verdict(test)]
        rows.append(row)
    return Table(header, rows, caption="A negative difference means that the trained circuit has the lower loss.")


def efficiency_table(arms: Sequence[Arm]) -> Table:
    """What each arm costs."""
    header = [
        "Method",
        "Trainable",
        "Peak memory",
        "Above the model",
        "Step (ms)",
        "Tokens/s",
        "Training (s)",
        "File",
    ]
    rows = []
    for arm in arms:
        peak, before = _mean(arm.mean("peak_bytes")), _mean(arm.mean("baseline_bytes"))
        rows.append(
            [
                arm.label,
                text.count(arm.n_trainable),
                text.size(peak),
                text.size(peak - before) if peak is not None and before is not None else text.NOTHING,
                text.with_range(arm.values("step_seconds").values(), 1, 1e3),
                text.number(_mean(arm.mean("tokens_per_second")), 0),
                text.number(_mean(arm.mean("train_seconds")), 1),
                _size(arm.mean("file_bytes")),
            ]
        )
    return Table(header, rows)


def capacity_table(arms: Sequence[Arm]) -> Table | None:
    """Ranks of the change that each arm makes; None when no arm has any."""
    rows = []
    for arm in arms:
        hidden = [arm.mean(metric) for metric in ("effective_rank", "stable_rank", "relative_norm")]
        matrices = [
            found
            for result in arm.results
            for found in ((result.ketune.capacity or {}).get("weights") or {}).values()
            if found.get("effective_rank") is not None
        ]
        if hidden[0] is None and not matrices:
            continue
        ranks = [sum(found[key] for found in matrices) / len(matrices) for key in _RANKS] if matrices else [None, None]
        rows.append(
            [
                arm.label,
                text.with_interval(hidden[0], 2),
                text.with_interval(hidden[1], 2),
                text.with_interval(hidden[2], 3),
                text.number(ranks[0], 2),
                text.number(ranks[1], 2),
                str(len(matrices) // len(arm.results)) if matrices else text.NOTHING,
            ]
        )
    header = [
        "Method",
        "Effective rank",
        "Stable rank",
        "Size of the change",
        "Weights: effective",
        "stable",
        "matrices",
    ]
    caption = (
        "Left: the change of the last hidden states, its size as a share of the base's. Right: the mean over changed "
        "weight matrices, where an update is a matrix."
    )
    return Table(header, rows, caption=caption) if rows else None


_RANKS = ("effective_rank", "stable_rank")


def circuit_table(arms: Sequence[Arm]) -> Table | None:
    """Size and capability of each arm's circuit; None when no arm has one."""
    rows = []
    for arm in arms:
        circuit = next((r.ketune.circuit for r in arm.results if r.ketune.circuit), None)
        if circuit is not None:
            sizes = ("n_wires", "depth", "n_gates", "n_two_qubit", "n_angles")
            capabilities = ("expressibility", "entangling_capability")
            row = [text.count(circuit.get(key)) for key in sizes]
            rows.append([arm.label, *row, *(text.number(circuit.get(key), 3) for key in capabilities)])
    header = [
        "Circuit of",
        "Qubits",
        "Depth",
        "Gates",
        "Two-qubit",
        "Angles",
        "Expressibility",
        "Entangling capability",
    ]
    caption = "Expressibility: 0 is a circuit whose states look random. Entangling capability: 0 is none, 1 is most."
    return Table(header, rows, caption=caption) if rows else None


def learning_rate_table(arms: Sequence[Arm]) -> Table:
    """The learning rate of each arm and the trials that chose it."""
    rows = []
    for arm in arms:
        rates = dict.fromkeys(f"{r.ketune.learning_rate:g}" for r in arm.results if r.ketune.learning_rate is not None)
        n_trials = next((len(r.ketune.lr_trials) for r in arm.results if r.ketune.lr_trials), 0)
        trials = learning_rate_trials(arm)
        tried = "; ".join(f"{rate:g} → {loss:.4f}" for rate, loss in trials)
        if n_trials > len(trials):
            tried += f"; {n_trials - len(trials)} diverged"
        rows.append([arm.label, ", ".join(rates) or text.NOTHING, tried or "default, not tuned"])
    return Table(["Method", "Learning rate", "Trials: rate → validation loss"], rows, n_text=3)


def failed_table(comparison: Comparison) -> Table | None:
    """Cells that did not finish, with their error; None when all did."""
    rows = [
        [arm.label, str(cell.ketune.seed), cell.train_info.status, cell.run_info.error_msg or "no message"]
        for arm in comparison.arms
        for cell in arm.failed
    ]
    return Table(["Method", "Seed", "Status", "Error"], rows, n_text=4) if rows else None


def accuracy_table(arms: Sequence[Arm]) -> Table | None:
    """Arms that have no test loss, such as results of PEFT's method_comparison; None when there are none."""
    rows = [
        [
            f"{arm.method}/{arm.experiment}",
            text.count(arm.n_trainable),
            text.number(_mean(arm.mean("accuracy")), 4),
            text.number(_mean(arm.mean("train_loss")), 4),
            _size(arm.mean("peak_bytes")),
            text.number(_mean(arm.mean("train_seconds")), 0),
            _size(arm.mean("file_bytes")),
        ]
        for arm in arms
        if not arm.values("loss")
    ]
    header = ["Experiment", "Trainable", "Test accuracy", "Training loss", "Peak memory", "Training (s)", "File"]
    return Table(header, rows) if rows else None


def _mean(interval: Interval | None) -> float | None:
    return None if interval is None else interval.mean


def _size(interval: Interval | None) -> str:
    return text.size(_mean(interval))
