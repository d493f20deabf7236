"""The command in a report asks for the very comparison that the report is about."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

import ketune.comparison
from ketune.comparison.report_command import command
from ketune.comparison.runner import Outcome
from ketune.comparison.spec import ComparisonSpec


def read_back(line: str, monkeypatch, tmp_path) -> tuple[ComparisonSpec, str]:
    """What the real command line makes of a command: the spec and the folder that it would run."""
    from ketune.cli import _app
    from ketune.comparison import summary

    seen = []

    def not_run(spec, out, on_event=None, *, jobs=None):
        seen.append((spec, out))
        return Outcome(Path(out))

    monkeypatch.setattr(ketune.comparison, "run_comparison", not_run)
    monkeypatch.setattr(summary, "summarize_comparison", lambda folder: [])
    words = shlex.split(line, comments=True)
    assert words[0] == "ketune"
    assert _app.execute([*words[1:], "--json"]) == 0
    ((spec, out),) = seen
    return spec, str(out)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"methods": ("qaa", "lora"), "seeds": (0, 1, 2, 3, 4), "budget": "0.1%", "controls": True, "tune_lr": True},
        {"seeds": (5,), "budget": 5000, "learning_rates": {"lora": 2e-3, "qaa": 0.01}},
        {"seeds": (0,), "data": "/data/my file.csv", "columns": {"prompt": "frage", "completion": "antwort"}},
        {"training": {"max_steps": 40, "batch_size": 4, "lr_scheduler": "cosine", "weight_decay": 0.1}},
        {"template": "Q: {question}\nA: {answer}", "n_train": 100, "n_test": 7, "n_generate": 0, "max_new_tokens": 9},
        {"methods": (), "experiments": ("/x/experiments/dora/r 8",), "n_validation": 5, "keep_full": True},
        {"train": "a.csv", "validation": "b.csv", "test": "c.csv", "trust_remote_code": True},
        {"target_modules": ("q_proj", "o_proj")},
        {"methods": ("all", "-full"), "budget": "0.05%", "tune_lr": True, "lr_trials": 5},
    ],
)
def test_the_command_line_reads_back_the_same_spec(changes, monkeypatch, tmp_path, capsys):
    spec = ComparisonSpec(**changes)
    asked = json.loads(json.dumps(spec.to_dict() | {"ketune_version": "0.1.0", "resolved": {}}))
    line = command(asked, Path("/runs/it's mine"))
    assert line is not None
    again, folder = read_back(line, monkeypatch, tmp_path)
    budget = {} if spec.budget is None else {"budget": str(spec.budget)}  # the command line hands a budget on as text
    assert again.to_dict() == spec.to_dict() | budget
    assert folder == "/runs/it's mine"


def test_what_has_no_option_stands_in_a_comment():
    line = command(ComparisonSpec(n_capacity=16).to_dict(), Path("out"))
    assert line is not None
    assert line.endswith("--out out  # from Python, with n_capacity=16")


def test_without_a_record_of_what_was_asked_there_is_no_command():
    assert command({}, Path("out")) is None
