from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tests.comparison.result_builder import build_result, write_folder

from ketune import comparison
from ketune.comparison.events import CellFinished, Interrupted, Planned
from ketune.comparison.summary import summarize_comparison


@pytest.fixture
def finished(tmp_path) -> Path:
    """The folder of a comparison that has results."""
    arms = (("lora", None), ("qaa", "trained"), ("qaa", "frozen"))
    return write_folder(tmp_path / "my comparison", [build_result(*arm, seed=k) for arm in arms for k in (0, 1)])


@pytest.fixture
def pretend(monkeypatch, finished):
    """Replaces the comparison by one that has run already, and keeps what it was asked."""
    asked = []

    def make(**ending: object) -> list:
        def run(spec, out, on_event=None, *, jobs=None):
            asked.append((spec, out, jobs))
            on_event(Planned(("lora--default--seed0", "qaa--default--seed0"), 0, 5000))
            print("a library speaks")
            on_event(CellFinished("lora--default--seed0", "cell", 1.25, 61.0))
            if ending.get("interrupted"):
                on_event(Interrupted("stopped; the same command goes on"))
            shutil.copytree(finished, out, dirs_exist_ok=True)
            return comparison.Outcome(Path(out), ["lora--default--seed0"], **ending)

        monkeypatch.setattr(comparison, "run_comparison", run)
        return asked

    return make


def test_options_become_the_comparison_that_was_asked_for(ketune, pretend, tmp_path, monkeypatch):
    asked = pretend()
    monkeypatch.setenv("HOME", str(tmp_path))
    answer = ketune(
        *("compare", "--model", "~/a model", "--data", "~/rows.csv", "--methods", "lora,qaa", "--budget", "0.1%"),
        *("--target-modules", "q_proj,up_proj"),
        *("--controls", "--seeds", "2", "--tune-lr", "--lr", "lora=1e-3", "--steps", "7", "--batch-size", "3"),
        *("--max-length", "64", "--training", "lr_scheduler=cosine", "--column", "prompt=frage", "--limit", "9"),
        *("--n-test", "5", "--jobs", "2", "--out", "~/results"),
    )
    assert answer.code == 0, answer.err
    ((spec, out, jobs),) = asked
    assert (spec.model, spec.data) == (f"{tmp_path}/a model", f"{tmp_path}/rows.csv")
    assert (spec.methods, spec.budget, spec.seeds) == (("lora", "qaa"), "0.1%", (0, 1))
    assert spec.target_modules == ("q_proj", "up_proj")
    assert spec.controls
    assert spec.tune_lr
    assert spec.learning_rates == {"lora": 1e-3}
    wanted = {"max_steps": 7, "batch_size": 3, "max_length": 64, "lr_scheduler": "cosine"}
    assert wanted.items() <= spec.training.items()
    assert (spec.columns, spec.n_train, spec.n_test) == ({"prompt": "frage"}, 9, 5)
    assert (str(out), jobs) == (f"{tmp_path}/results", 2)


def test_without_options_it_is_the_default_comparison(ketune, pretend, tmp_path, monkeypatch):
    asked = pretend()
    monkeypatch.chdir(tmp_path)
    assert ketune("compare").code == 0
    ((spec, out, jobs),) = asked
    assert spec == comparison.ComparisonSpec()
    assert (out, jobs) == ("runs/base-inns", None)


@pytest.mark.parametrize(
    ("ending", "code"),
    [({}, 0), ({"failed": {"qaa--default--seed0": "out of memory"}}, 1), ({"interrupted": True}, 130)],
)
def test_the_exit_code_says_how_it_ended(ketune, pretend, tmp_path, ending, code):
    pretend(**ending)
    answer = ketune("compare", "--out", tmp_path / "results")
    assert answer.code == code
    for cell, error in ending.get("failed", {}).items():
        assert f"failed: {cell}: {error}" in answer.out
        assert "again" in answer.out


def test_lines_go_to_standard_output_and_libraries_to_standard_error(ketune, pretend, tmp_path):
    pretend(report=tmp_path / "results" / "report.md")
    answer = ketune("compare", "--out", tmp_path / "results")
    lines = answer.out.splitlines()
    assert lines[0] == "2 cells: 2 experiments, 1 seed, budget 5,000 trainable parameters"
    assert lines[1].split() == ["[1/2]", "lora", "seed", "0", "test", "loss", "1.2500", "1", "min", "1", "s"]
    assert lines[-1] == f"report: {tmp_path / 'results' / 'report.html'}"
    assert answer.err == "a library speaks\n"


def test_json_is_all_that_standard_output_holds(ketune, pretend, tmp_path):
    pretend()
    answer = ketune("compare", "--out", tmp_path / "results", "--json")
    found = answer.json
    assert found["finished"] == ["lora--default--seed0"]
    assert found["complete"] is True
    rows = summarize_comparison(tmp_path / "results")
    assert found["summary"] == json.loads(json.dumps([row.to_dict() for row in rows]))
    assert "[1/2] lora seed 0" in answer.err


def test_the_table_holds_a_row_for_each_method(ketune, pretend, tmp_path):
    pretend()
    answer = ketune("compare", "--out", tmp_path / "results")
    for row in summarize_comparison(tmp_path / "results"):
        assert f"\n{row.label}  " in answer.out
        assert f"{row.scores['loss']['mean']:.4f}" in answer.out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--methods", "lora,qaaa"], ["'qaaa'", "'qaa'"]),
        (["--methods", ","], ["--methods"]),
        (["--seeds", "few"], ["--seeds 'few'", "0,1,2"]),
        (["--lr", "lora"], ["--lr", "name=value"]),
        (["--lr", "lora=fast"], ["--lr", "1e-3"]),
        (["--lr", "lroa=1e-3"], ["'lroa'", "'lora'"]),
        (["--training", "max_stepz=3"], ["'max_stepz'", "'max_steps'"]),
        (["--training", "dtype=float8"], ["'float8'", "bfloat16"]),
        (["--budget", "much"], ["'much'", "0.1%"]),
        (["--n-test", "0"], ["n_test=0", "at least 1"]),
        (["--jobs", "0"], ["jobs=0"]),
    ],
)
def test_bad_input_is_answered_in_one_line_before_anything_is_written(ketune, tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    answer = ketune("compare", *options)
    assert answer.code == 2
    assert answer.out == ""
    assert answer.err.count("\n") == 1, answer.err
    for word in words:
        assert word in answer.err
    assert not list(tmp_path.iterdir())


def test_report_writes_the_report_and_shows_the_table(ketune, finished):
    answer = ketune("report", finished)
    assert answer.code == 0
    assert (finished / "report.html").is_file()
    assert f"report: {finished / 'report.html'}" in answer.out
    assert "QAA, frozen circuit" in answer.out


def test_report_as_json_says_where_everything_lies(ketune, finished, monkeypatch):
    from ketune.comparison import report

    paths = report.ReportPaths(finished / "report.md", finished / "report.html", (finished / "figures" / "loss.png",))
    monkeypatch.setattr(report, "write_report", lambda folder: paths)
    found = ketune("report", finished, "--json").json
    assert (found["markdown"], found["html"]) == (str(paths.markdown), str(paths.html))
    assert found["figures"] == [str(paths.figures[0])]
    assert len(found["summary"]) == len(summarize_comparison(finished))


def test_report_of_a_folder_that_is_not_there_is_answered_in_one_line(ketune, tmp_path):
    answer = ketune("report", tmp_path / "nothing")
    assert (answer.code, answer.out, answer.err.count("\n")) == (2, "", 1)


@pytest.mark.slow
def test_a_real_comparison_ends_with_its_report_and_is_kept_when_run_again(ketune, tmp_path, model_folder, data_folder):
    options = ["--methods", "lora,qaa", "--budget", "600", "--seeds", "1", "--steps", "2", "--batch-size", "4"]
    options += ["--n-generate", "2", "--max-new-tokens", "2", "--out", tmp_path / "results"]
    first = ketune("compare", "--model", model_folder, "--data", data_folder, *options)
    assert first.code == 0, first.err
    assert (tmp_path / "results" / "report.html").is_file()
    again = ketune("compare", "--model", model_folder, "--data", data_folder, *options, "--json").json
    assert (again["finished"], len(again["skipped"])) == ([], 2)
    other = ketune("compare", "--model", model_folder, "--data", data_folder, *options, "--steps", "3")
    assert other.code == 2
    assert "--out" in other.err


@pytest.mark.slow
def test_a_model_without_weights_fails_in_one_line(ketune, tmp_path, model_folder, data_folder):
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (bare / name).write_bytes((model_folder / name).read_bytes())
    answer = ketune(
        *(
            "compare",
            "--model",
            bare,
            "--data",
            data_folder,
            "--methods",
            "lora",
            "--seeds",
            "1",
            "--out",
            tmp_path / "r",
        ),
    )
    assert answer.code == 2
    assert "no weights" in answer.err
    assert answer.err.count("\n") == 1
