"""Reports of folders where much is missing: methods, seeds, fields, or everything."""

from __future__ import annotations

import json

import pytest
from tests.comparison.report_reading import SEEDS, losses, report_text, section, table
from tests.comparison.result_builder import CELLS, build_result, failed_result, write_folder

from ketune.comparison.arms import read_comparison
from ketune.comparison.report import write_report
from ketune.comparison.report_figures import build_figures
from ketune.comparison.result_checks import ResultError


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The report of one method with one seed."""
    return write_report(write_folder(tmp_path_factory.mktemp("small"), [build_result("lora", n_steps=6)]))


def test_a_single_method_with_a_single_seed_makes_a_report(small):
    paths = small
    text = paths.markdown.read_text()
    row = table(text, "Results")["LoRA"]
    assert row["Test loss"] == f"{losses('lora', None)[0]:.4f}"
    assert "With one seed, a difference cannot be told from chance" in text
    assert {path.stem for path in paths.figures} >= {"loss_vs_steps", "quality_vs_parameters", "spectrum"}
    assert "difference_to_lora" not in {path.stem for path in paths.figures}


def test_the_same_results_give_the_same_files(small):
    before = {path: path.read_bytes() for path in (small.markdown, small.html, *small.figures)}
    write_report(small.markdown.parent)
    assert {path: path.read_bytes() for path in before} == before


def test_a_folder_without_results_makes_a_report_that_says_so(tmp_path):
    (tmp_path / "results").mkdir()
    text = write_report(tmp_path).markdown.read_text()
    assert "No finished cell has a test loss yet." in text


def test_failed_cells_alone_make_a_report(tmp_path):
    text = write_report(write_folder(tmp_path, [failed_result("lora")])).markdown.read_text()
    assert "RuntimeError: loss is nan at step 3" in text


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(ResultError, match="no folder"):
        write_report(tmp_path / "nothing")


@pytest.mark.parametrize(
    "missing",
    ["history", "capacity", "circuit", "samples", "speed", "memory", "base_test", "lr_trials", "learning_rate"],
)
def test_any_field_of_ours_may_be_missing(tmp_path, missing):
    results = [build_result(*key, seed) for key in [("lora", None), ("qaa", "trained")] for seed in (0, 1)]
    for result in results:
        empty = {"history": [], "samples": [], "speed": {}, "memory": {}}.get(missing)
        setattr(result.ketune, missing, empty)
    folder = write_folder(tmp_path, results)
    build_figures(read_comparison(folder))
    assert table(report_text(folder), "Results")["QAA"]["Trainable (of base)"] == "20,520 (1.56 %)"


def test_scores_that_are_missing_are_dashes(tmp_path):
    result = build_result("lora")
    for name in ("bleu", "rouge1", "rouge2", "rougeL"):
        del result.ketune.test[name]
    row = table(report_text(write_folder(tmp_path, [result])), "Results")["LoRA"]
    assert (row["BLEU"], row["ROUGE-L"]) == ("–", "–")


def test_notes_that_all_cells_share_stand_once(tmp_path):
    results = [build_result(*key, notes=["shared note"]) for key in [("lora", None), ("qaa", "trained")]]
    results[1].ketune.notes.append("only here")
    text = report_text(write_folder(tmp_path, results))
    assert text.count("shared note") == 1
    assert "- QAA: only here" in text


def test_exact_match_has_a_column_only_where_something_matched(tmp_path):
    plain = report_text(write_folder(tmp_path / "a", [build_result("lora")]))
    assert "Exact match" not in plain
    matched = build_result("lora")
    matched.ketune.test["exact_match"] = 0.25
    assert table(report_text(write_folder(tmp_path / "b", [matched])), "Results")["LoRA"]["Exact match"] == "0.250"


def test_results_that_peft_published_stand_beside_ours(tmp_path):
    folder = write_folder(tmp_path, [build_result("lora")])
    data = build_result("lora").to_dict()
    del data["ketune"]
    data["run_info"]["experiment_name"] = "vera/llama-3.2-3B-default"
    data["train_info"]["metrics"][-1]["test accuracy"] = 0.3541
    (folder / "results" / "vera--llama-3.2-3B-default.json").write_text(json.dumps(data))
    text = report_text(folder)
    row = table(text, "Results without a test loss")[r"vera/llama-3.2-3B-default"]
    assert row["Test accuracy"] == "0.3541"
    assert "vera" not in section(text, "Results").split("What the numbers say")[0]


def test_two_sizes_of_one_method_have_labels_of_their_own(tmp_path):
    results = [build_result("lora", seed=seed) for seed in SEEDS]
    larger = [build_result("lora", seed=seed, experiment="r16", loss=1.2) for seed in SEEDS]
    for result in larger:
        result.train_info.num_trainable_params = 81_920
    rows = table(report_text(write_folder(tmp_path, [*results, *larger])), "Results")
    assert rows["LoRA (r4)"]["Trainable (of base)"].startswith("20,480")
    assert rows["LoRA (r16)"]["Test loss"].startswith("1.2000")


def test_methods_stand_in_the_order_in_which_they_were_asked_for(tmp_path):
    folder = write_folder(tmp_path, [build_result(*key) for key in CELLS])
    (folder / "comparison.json").write_text(json.dumps({"methods": ["qaa", "sora", "lora"]}))
    labels = [arm.label for arm in read_comparison(folder).arms]
    assert labels[:6] == ["QAA", "QAA, frozen circuit", "QAA, classical stand-in", "QAA, no circuit", "SoRA", "LoRA"]
