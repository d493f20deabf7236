"""A comparison from start to report: what it leaves, what it skips, and how it goes on after a stop of any kind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from peft import LoraConfig

from ketune.comparison import ComparisonSpec, Result, load_results, run_comparison
from ketune.comparison.events import CellFailed, CellFinished, CellProgress, CellSkipped, CellStarted, Interrupted
from ketune.comparison.lock import FolderBusy, folder_lock
from ketune.comparison.spec import SpecError

SMALL = {
    "training": {"max_steps": 4, "batch_size": 8, "eval_steps": 2, "logging_steps": 1, "save_steps": 0},
    "n_generate": 4,
    "max_new_tokens": 4,
    "n_capacity": 2,
}


@pytest.fixture(scope="module")
def ask(tiny_folder, tiny_data):
    def spec(**fields):
        return ComparisonSpec(**({"model": str(tiny_folder), "data": str(tiny_data)} | SMALL | fields))

    return spec


@pytest.fixture(scope="module")
def finished(ask, tmp_path_factory):
    """One comparison of all five methods, with its events."""
    out, events = tmp_path_factory.mktemp("runs") / "all", []
    spec = ask(seeds=(0,))
    outcome = run_comparison(spec, out, events.append)
    return spec, out, events, outcome


@pytest.fixture
def copy(finished, tmp_path):
    """The finished comparison, to be damaged."""
    out = tmp_path / "copy"
    shutil.copytree(finished[1], out)
    return finished[0], out


def names(events, kind):
    return [event.name for event in events if isinstance(event, kind)]


def test_a_comparison_of_all_methods_ends_complete_with_a_report(finished):
    spec, out, events, outcome = finished
    assert outcome.failed == {}
    assert outcome.complete
    assert outcome.exit_code == 0
    assert sorted(outcome.finished) == sorted(f"{method}--default--seed0" for method in spec.methods)
    assert outcome.report == out / "report.md"
    assert (out / "report.html").read_text(encoding="utf-8").startswith("<!")
    started, ended = names(events, CellStarted), names(events, CellFinished)
    assert sorted(started) == sorted(ended)
    assert "base" in ended
    assert {event.total for event in events if isinstance(event, CellProgress)} == {4}


def test_results_hold_all_that_the_report_and_peft_read(finished):
    _, out, _, _ = finished
    base = json.loads((out / "base_test.json").read_text())["test"]
    for result in load_results(out):
        result.validate()
        info = result.ketune
        assert result.ok
        assert info.base_test == base
        assert {"loss", "perplexity", "bits_per_byte", "bleu", "rougeL", "exact_match"} <= set(info.test)
        assert result.train_info.metrics[-1]["step"] == 4
        assert info.memory["peak_bytes"] >= info.memory["baseline_bytes"] > 0
        assert info.speed["tokens_per_second"] > 0
        assert len(info.samples) == 4
        assert info.capacity["hidden"]["effective_rank"] > 0
        assert (info.circuit is not None) == (info.method == "qaa")
        assert (info.capacity["weights"] is None) == (info.method in ("qaa", "prefix"))
        assert [entry["step"] for entry in info.history] == [1, 2, 3, 4]


def test_every_method_sees_the_same_text_in_the_same_order(finished):
    _, out, _, _ = finished
    tokens = {tuple(entry["tokens"] for entry in result.ketune.history) for result in load_results(out)}
    assert len(tokens) == 1


def test_the_count_in_a_result_is_the_one_that_was_planned(finished):
    _, out, _, _ = finished
    planned = {
        f"{entry['method']}/{entry['name']}": entry["n_trainable"]
        for entry in json.loads((out / "comparison.json").read_text())["resolved"]["experiments"]
    }
    for result in load_results(out):
        assert result.train_info.num_trainable_params == planned[result.run_info.experiment_name]


def test_the_adapter_of_a_cell_loads_and_gives_its_test_loss(finished, tiny_data):
    from peft import PeftModel

    from ketune.finetuning import evaluate_loss, load_base, load_task

    spec, out, _, _ = finished
    model, tokenizer = load_base(spec.model)
    adapted = PeftModel.from_pretrained(model, str(out / "cells" / "qaa--default--seed0" / "adapter"))
    scores = evaluate_loss(adapted, tokenizer, load_task(str(tiny_data)).test)
    result = Result.load(out / "results" / "qaa--default--seed0.json")
    assert scores["loss"] == pytest.approx(result.ketune.test["loss"], rel=1e-4)


def test_nothing_but_what_a_user_may_want_is_left_in_the_cells(finished):
    _, out, _, _ = finished
    assert not list(out.rglob("checkpoint-*"))
    assert not list(out.rglob("*.tmp"))
    assert not (out / "cells" / "full--default--seed0" / "adapter").exists()  # as large as the base


def test_a_finished_comparison_is_not_run_again(copy):
    spec, out = copy
    before = {path: path.read_bytes() for path in (out / "results").iterdir()}
    events = []
    outcome = run_comparison(spec, out, events.append)
    assert outcome.complete
    assert outcome.finished == []
    assert len(names(events, CellSkipped)) == 5
    assert names(events, CellStarted) == []
    assert {path: path.read_bytes() for path in (out / "results").iterdir()} == before


def test_only_missing_broken_and_failed_cells_run_again_and_give_the_same_loss(copy):
    spec, out = copy
    losses = {result.file_name: result.ketune.test["loss"] for result in load_results(out)}
    (out / "results" / "lora--default--seed0.json").unlink()
    broken = out / "results" / "qaa--default--seed0.json"
    broken.write_text(broken.read_text()[:100])
    failed = Result.load(out / "results" / "sora--default--seed0.json")
    failed.train_info.status = "failed"
    failed.save(failed.source)
    outcome = run_comparison(spec, out, jobs=2)
    assert sorted(outcome.finished) == [f"{name}--default--seed0" for name in ("lora", "qaa", "sora")]
    again = {result.file_name: result.ketune.test["loss"] for result in load_results(out)}
    assert again == pytest.approx(losses, rel=1e-4)


def test_a_cell_that_fails_does_not_stop_the_others_and_is_tried_again(ask, tmp_path):
    wild = tmp_path / "wild"
    LoraConfig(task_type="CAUSAL_LM").save_pretrained(wild)
    (wild / "training_params.json").write_text('{"optimizer_kwargs": {"lr": 3e38}}')
    spec = ask(methods=("lora",), experiments=(str(wild),), seeds=(0,))
    events = []
    outcome = run_comparison(spec, tmp_path / "out", events.append)
    assert list(outcome.failed) == ["lora--wild--seed0"]
    assert "overflow" in outcome.failed["lora--wild--seed0"]
    assert outcome.finished == ["lora--default--seed0"]
    assert not outcome.complete
    assert outcome.exit_code == 1
    assert outcome.report is not None
    (failure,) = [event for event in events if isinstance(event, CellFailed)]
    assert Path(failure.log).exists()
    stored = Result.load(tmp_path / "out" / "results" / "lora--wild--seed0.json")
    assert not stored.ok
    assert "overflow" in stored.run_info.error_msg
    again = run_comparison(spec, tmp_path / "out")
    assert again.skipped == ["lora--default--seed0"]
    assert list(again.failed) == ["lora--wild--seed0"]


def test_tuning_runs_as_many_trials_for_each_method_and_its_choice_is_recorded(ask, tmp_path):
    spec = ask(methods=("lora", "qaa"), seeds=(0,), tune_lr=True, lr_trials=2, n_generate=0)
    events = []
    outcome = run_comparison(spec, tmp_path, events.append)
    assert outcome.complete
    trials = [event for event in events if isinstance(event, CellFinished) and event.kind == "trial"]
    assert len(trials) == 4
    for result in load_results(tmp_path):
        tried = {trial["learning_rate"]: trial["eval_loss"] for trial in result.ketune.lr_trials}
        assert len(tried) == 2
        assert result.ketune.learning_rate == min(tried, key=tried.__getitem__)
        folder = tmp_path / "experiments" / result.run_info.experiment_name
        written = json.loads((folder / "training_params.json").read_text())
        assert written["optimizer_kwargs"]["lr"] == result.ketune.learning_rate
    (tmp_path / "results" / "qaa--default--seed0.json").unlink()
    events.clear()
    run_comparison(spec, tmp_path, events.append)
    assert names(events, CellStarted) == ["qaa--default--seed0"]


def test_ctrl_c_ends_the_call_with_advice_and_the_next_one_goes_on(ask, tmp_path):
    spec = ask(methods=("lora", "prefix"), seeds=(0,), n_generate=0)
    events = []

    def stop_after_first_cell(event):
        events.append(event)
        if isinstance(event, CellFinished) and event.kind == "cell":
            raise KeyboardInterrupt

    outcome = run_comparison(spec, tmp_path, stop_after_first_cell, jobs=1)
    assert outcome.interrupted
    assert outcome.exit_code == 130
    assert outcome.finished == ["lora--default--seed0"]
    (interrupted,) = [event for event in events if isinstance(event, Interrupted)]
    assert str(tmp_path) in interrupted.advice
    again = run_comparison(spec, tmp_path)
    assert again.complete
    assert again.skipped == ["lora--default--seed0"]
    assert again.finished == ["prefix--default--seed0"]


def test_two_comparisons_in_one_folder_are_refused(ask, tmp_path):
    with folder_lock(tmp_path), pytest.raises(FolderBusy, match=f"process {os.getpid()}"):
        run_comparison(ask(), tmp_path)
    with folder_lock(tmp_path):  # and the folder is free again
        pass


def test_no_job_at_a_time_is_refused(ask, tmp_path):
    with pytest.raises(SpecError, match="at least 1"):
        run_comparison(ask(), tmp_path, jobs=0)


SCRIPT = """
import sys, json
from ketune.comparison import ComparisonSpec, run_comparison
run_comparison(ComparisonSpec.from_dict(json.loads(sys.argv[1])), sys.argv[2], jobs=2)
"""


@pytest.mark.slow
def test_killed_at_any_moment_it_loses_no_finished_cell_and_leaves_no_broken_file(ask, tmp_path):
    spec = ask(methods=("lora", "qaa"), seeds=(0, 1))
    script, out = tmp_path / "script.py", tmp_path / "out"
    script.write_text(SCRIPT)  # without `if __name__ == "__main__"`: cells do not run the user's script again
    command = [sys.executable, str(script), json.dumps(spec.to_dict()), str(out)]
    results = out / "results"
    kept: dict[Path, bytes] = {}
    for n_results in (0, 1, 2, 3):
        process = subprocess.Popen(command)
        deadline = time.monotonic() + 240
        while process.poll() is None and time.monotonic() < deadline:
            if len(list(results.glob("*.json"))) >= max(n_results, 1) and n_results:
                break
            if not n_results and (out / "cells").exists():
                break
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        time.sleep(1)  # its cells notice
        for path in results.glob("*.json"):
            assert Result.load(path).ok
        for path, content in kept.items():
            assert path.read_bytes() == content
        kept = {path: path.read_bytes() for path in results.glob("*.json")}
    outcome = run_comparison(spec, out)
    assert outcome.complete
    assert len(outcome.skipped) >= 3
    assert len(load_results(out)) == 4
    assert not list(out.rglob(".*.tmp"))
