"""The report of a comparison: its numbers against independent ones, its files, and folders where much is missing."""

from __future__ import annotations

import ast
import io
import itertools
import json
import os
import re
from pathlib import Path

import matplotlib
import numpy
import pytest
import scipy.stats
from PIL import Image
from tests.comparison.report_reading import SEEDS, losses, report_text, section, table
from tests.comparison.result_builder import CELLS, N_TOTAL, build_result, failed_result, scores, write_folder

from ketune import comparison
from ketune.comparison.arms import read_comparison
from ketune.comparison.report import write_report
from ketune.comparison.report_figures import build_figures

LABELS = {
    ("full", None): "Full fine-tuning",
    ("lora", None): "LoRA",
    ("prefix", None): "Prefix tuning",
    ("sora", None): "SoRA",
    ("qaa", "trained"): "QAA",
    ("qaa", "frozen"): "QAA, frozen circuit",
    ("qaa", "classical"): "QAA, classical stand-in",
    ("qaa", "none"): "QAA, no circuit",
}
EVIL = "<script>alert('x')</script> | `tick` ```` <img src=http://evil.example/x.png onerror=alert(1)>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A whole comparison, with a failed cell, a broken file and a model that writes HTML."""
    results = [build_result(method, control, seed) for method, control in CELLS for seed in SEEDS]
    results = [r for r in results if (r.ketune.method, r.ketune.seed) != ("sora", 2)]
    results.append(failed_result("sora", 2, error=f"RuntimeError: {EVIL}"))
    results[0].ketune.samples[0]["prediction"] = EVIL
    folder = write_folder(tmp_path_factory.mktemp("comparison"), results)
    (folder / "results" / "broken.json").write_text('{"run_info": ')
    base = {"test": scores(3.2) | {"n_tokens": 9000.0}, "samples": results[1].ketune.samples}
    base["samples"] = [base["samples"][0] | {"prediction": "the base says this"}]
    (folder / "base_test.json").write_text(json.dumps(base))
    asked = {"model": "builtin:base", "data": "my data/file.csv", "methods": ["full", "lora", "prefix", "sora", "qaa"]}
    asked |= {
        "seeds": [0, 1, 2, 3],
        "budget": "1.5%",
        "controls": True,
        "resolved": {"experiments": [{}] * 8, "budget": 20480},
    }
    (folder / "comparison.json").write_text(json.dumps(asked))
    return folder


@pytest.fixture(scope="module")
def report(folder):
    return write_report(folder)


@pytest.fixture(scope="module")
def markdown(report):
    return report.markdown.read_text()


def half_width(values) -> float:
    low, high = scipy.stats.t.interval(0.95, len(values) - 1, loc=0, scale=scipy.stats.sem(values))
    return (high - low) / 2


def test_means_and_intervals_are_those_that_scipy_gives(markdown):
    rows = table(markdown, "Results")
    for (method, control), label in LABELS.items():
        values = losses(method, control, SEEDS[:2] if method == "sora" else SEEDS)
        assert rows[label]["Test loss"] == f"{numpy.mean(values):.4f} ± {half_width(values):.4f}"
        perplexities = numpy.exp(values)
        assert rows[label]["Perplexity"] == f"{numpy.mean(perplexities):.3f} ± {half_width(perplexities):.3f}"
        assert rows[label]["Seeds"] == str(len(values))


def test_differences_to_lora_are_paired_by_seed_and_corrected_over_the_methods(markdown):
    rows = table(markdown, "Results")
    p_values = {}
    for (method, control), label in LABELS.items():
        if method == "lora":
            assert rows[label]["Δ loss vs LoRA"] == rows[label]["p (Holm)"] == "–"
            continue
        seeds = SEEDS[:2] if method == "sora" else SEEDS
        ours, theirs = losses(method, control, seeds), losses("lora", None, seeds)
        difference = numpy.subtract(ours, theirs)
        shown = f"{difference.mean():+.4f} ± {half_width(difference):.4f}".replace("-", "−")
        assert rows[label]["Δ loss vs LoRA"].rstrip("†") == shown
        assert rows[label]["Δ loss vs LoRA"].endswith("†") == (method == "full")
        if control in (None, "trained"):
            p_values[label] = scipy.stats.ttest_rel(ours, theirs).pvalue
        else:
            assert rows[label]["p (Holm)"] == "–"
    ordered = sorted(p_values, key=p_values.__getitem__)
    highest = 0.0
    for rank, label in enumerate(ordered):
        highest = max(highest, min(1.0, p_values[label] * (len(ordered) - rank)))
        assert rows[label]["p (Holm)"] == ("< 0.001" if highest < 0.001 else f"{highest:.3f}")


def test_counts_are_exact_and_shares_are_of_the_base(markdown):
    rows = table(markdown, "Results")
    for key, label in LABELS.items():
        n = CELLS[key][1]
        assert rows[label]["Trainable (of base)"] == f"{n:,} ({100 * n / N_TOTAL:.3g} %)"


def test_the_untouched_base_has_a_row_of_its_own(markdown):
    row = table(markdown, "Results")["Base model, untouched"]
    assert (row["Test loss"], row["Trainable (of base)"], row["Δ loss vs LoRA"]) == ("3.2000", "0", "–")


def test_cost_columns_are_means_over_seeds(markdown):
    row = table(markdown, "Results")["LoRA"]
    assert row["Step (ms)"] == "55.0"
    assert row["Peak memory"] == f"{640 * 2**20 / 1e6:.3g} MB"
    assert row["Adapter file"] == f"{(20480 * 4 + 1500) / 1e3:.3g} kB"
    efficiency = table(markdown, "Efficiency")["LoRA"]
    assert efficiency["Step (ms)"] == "55.0 (55.0 to 55.0)"
    assert efficiency["Above the model"] == f"{220 * 2**20 / 1e6:.3g} MB"


def test_controls_are_tested_against_their_own_method(markdown):
    rows = table(markdown, "Controls")
    p_values = {}
    for control in ("frozen", "classical", "none"):
        label = LABELS["qaa", control]
        ours, theirs = losses("qaa", "trained"), losses("qaa", control)
        difference = numpy.subtract(ours, theirs)
        shown = f"{difference.mean():+.4f} ± {half_width(difference):.4f}".replace("-", "−")
        assert rows[label]["Δ loss, QAA minus control"] == shown
        effect = difference.mean() / difference.std(ddof=1)
        assert rows[label]["Effect size d"] == f"{effect:.2f}".replace("-", "−")
        p_values[label] = scipy.stats.ttest_rel(ours, theirs).pvalue
    smallest = min(p_values, key=p_values.__getitem__)
    assert rows[smallest]["p (Holm)"] == f"{3 * p_values[smallest]:.3f}"


def test_every_figure_of_the_issue_is_there_and_is_no_blank_page(report, markdown):
    names = {path.stem for path in report.figures}
    assert names >= {
        "loss_vs_steps",
        "loss_vs_tokens",
        "loss_vs_seconds",
        "eval_loss_vs_steps",
        "quality_vs_parameters",
        "difference_to_lora",
        "peak_memory",
        "step_time",
        "spectrum",
        "weight_spectrum",
        "effective_rank",
        "circuits",
        "learning_rates",
        "controls_qaa_recommended_difference",
        "controls_qaa_recommended_loss",
    }
    linked = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", markdown)
    assert sorted(linked) == sorted(f"figures/{name}.png" for name in names)
    for path in report.figures:
        image = Image.open(io.BytesIO(path.read_bytes())).convert("RGB")
        assert min(image.size) > 200
        assert len(set(image.resize((160, 120)).get_flattened_data())) > 30


def test_samples_stand_side_by_side_with_references_and_base(markdown):
    text = section(markdown, "Samples")
    order = [
        "The Crooked Kettle serves cheap stew.",
        "the base says this",
        "stew (lora None 0)",
        "stew (qaa trained 0)",
    ]
    assert [text.index(piece) for piece in order] == sorted(text.index(piece) for piece in order)
    assert "qaa frozen" not in text


def test_failed_cells_and_broken_files_are_named(markdown):
    text = section(markdown, "Failed cells and notes")
    assert "| SoRA | 2 | failed | RuntimeError: &lt;script>" in text
    assert "broken.json: not readable as JSON" in text
    assert "23 finished, 1 failed, 8 not yet run" in section(markdown, "What was run")


def test_the_command_to_run_it_again_is_given(markdown):
    run = section(markdown, "What was run")
    assert "ketune compare --model builtin:base --data 'my data/file.csv' --seeds 0,1,2,3" in run
    assert "--budget 1.5% --controls" in run
    assert "torch 2.13.0" in run
    assert "20,480 trainable parameters" in run


def test_learning_rates_and_their_trials_are_listed(markdown):
    row = table(markdown, "Learning rates")["LoRA"]
    loss = losses("lora", None)[0]
    assert row["Learning rate"] == "0.001"
    assert row["Trials: rate → validation loss"] == f"0.001 → {loss + 0.02:.4f}; 0.005 → {loss + 0.3:.4f}"


def test_capacity_and_circuit_are_tabled(markdown):
    rows = table(markdown, "Representational capacity")
    expected = build_result("lora").ketune.capacity
    assert expected is not None
    assert rows["LoRA"]["Effective rank"].startswith(f"{expected['hidden']['effective_rank']:.2f}")
    weights = expected["weights"]["model.layers.0.self_attn.q_proj"]
    assert rows["LoRA"]["Weights: effective"] == f"{weights['effective_rank']:.2f}"
    assert rows["QAA"]["Weights: effective"] == "–"
    circuit = table(markdown, "Representational capacity", nth=1)["QAA"]
    assert (circuit["Qubits"], circuit["Gates"], circuit["Expressibility"]) == ("7", "14", "0.213")


def test_the_report_can_be_used_as_a_path(report):
    assert Path(report) == report.markdown
    assert os.fspath(report).endswith("report.md")


def test_drawing_leaves_the_settings_of_matplotlib_alone(folder):
    before = dict(matplotlib.rcParams)
    build_figures(read_comparison(folder))
    assert dict(matplotlib.rcParams) == before


def test_matplotlib_is_imported_only_to_draw_and_never_as_pyplot():
    modules = [
        path for path in Path(comparison.__file__).parent.glob("*.py") if path.stem.startswith(("fig", "report"))
    ]
    assert len(modules) > 8
    for path in modules:
        assert "pyplot" not in path.read_text().replace("no pyplot", "")
        for node in ast.parse(path.read_text()).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.startswith("matplotlib") for name in names), path.name


def test_no_report_ever_speaks_of_quantum_advantage(report, tmp_path):
    assert "advantage" not in report.markdown.read_text().lower() + report.html.read_text().lower()
    wins = [build_result("lora", seed=s, loss=2.0 + 0.01 * s) for s in SEEDS]
    wins += [build_result("qaa", c, s, loss=1.0 + 0.011 * s) for c, s in itertools.product(("trained",), SEEDS)]
    assert "advantage" not in report_text(write_folder(tmp_path, wins)).lower()
