"""The short table of a comparison."""

from __future__ import annotations

import json

import pytest
from tests.comparison.result_builder import build_result, failed_result, write_folder

from ketune.comparison.arms import read_comparison
from ketune.comparison.results import ResultError
from ketune.comparison.summary import summarize_comparison


@pytest.fixture
def rows(tmp_path):
    arms = (("lora", None), ("full", None), ("qaa", "trained"), ("qaa", "none"))
    results = [build_result(*arm, seed=seed) for arm in arms for seed in range(3)]
    folder = write_folder(tmp_path, [*results, failed_result("sora", seed=1)])
    return {row.label: row for row in summarize_comparison(folder)}, read_comparison(folder)


def test_the_base_model_comes_first_and_trains_nothing(rows):
    by_label, comparison = rows
    base = next(iter(by_label.values()))
    assert (base.label, base.method, base.trainable_parameters) == ("Base model", None, 0)
    assert base.scores["loss"]["mean"] == comparison.base_scores["loss"]


def test_each_row_says_what_the_report_says(rows):
    by_label, comparison = rows
    tests = comparison.tests_against_reference()
    for arm in comparison.finished:
        row = by_label[arm.label]
        loss = arm.mean("loss")
        assert row.scores["loss"] == {"mean": loss.mean, "half_width": loss.half_width}
        assert row.trainable_parameters == arm.n_trainable
        assert row.seeds == (0, 1, 2)
        assert row.costs["step_seconds"] == arm.mean("step_seconds").mean
        if arm.method != "lora":
            assert row.difference == tests[arm.label].difference.mean
            assert row.p_value == tests[arm.label].p_value


def test_lora_is_not_compared_with_itself_and_full_has_another_size(rows):
    by_label, _ = rows
    assert (by_label["LoRA"].difference, by_label["LoRA"].equal_size) == (None, None)
    assert by_label["Full fine-tuning"].equal_size is False
    assert by_label["QAA"].equal_size is True


def test_a_method_whose_cells_failed_has_a_row_without_scores(rows):
    by_label, _ = rows
    row = by_label["SoRA"]
    assert (row.seeds, row.failed_seeds, row.scores, row.difference) == ((), (1,), {}, None)


def test_rows_are_json(rows):
    by_label, _ = rows
    for row in by_label.values():
        assert json.loads(json.dumps(row.to_dict()))["label"] == row.label


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ResultError, match="nothing"):
        summarize_comparison(tmp_path / "nothing")
