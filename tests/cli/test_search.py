"""`ketune search`, on small tasks in the place of the real ones."""

from __future__ import annotations

import json

import pytest
import torch

from ketune.cli import _app
from ketune.cli import search as command
from ketune.vqc import LabelledData, Rows
from ketune.vqc.architecture_search import tasks
from ketune.vqc.circuit_file import load_circuit_file

SMALL = [
    "--wires",
    "3",
    "--evaluations",
    "4",
    "--tasks",
    "2",
    "--depths",
    "1,2",
    "--epochs",
    "1",
    "--final-epochs",
    "1",
]


def small_task(number: int, seed: int, n_rows: int | None) -> LabelledData:
    generator = torch.Generator().manual_seed(10 * seed + number)
    y = torch.arange(60) % 2
    x = torch.randn(60, 8, generator=generator) + torch.where(y == 0, -1.0, 1.0)[:, None] * torch.linspace(-1, 1, 8)
    parts = (slice(0, 36), slice(36, 48), slice(48, 60))
    return LabelledData(f"small-{number}", *(Rows(x[part], y[part]) for part in parts), 2, (8,))


@pytest.fixture(autouse=True)
def _small_tasks_and_the_command(monkeypatch):
    monkeypatch.setitem(tasks.TASK_SETS, "ecg", small_task)
    if not any(entry.name == "search" for entry in _app.app.registered_commands):
        words, examples = _app.help_of(command)
        _app.app.command("search", help=words, epilog=examples)(command.run)


def test_a_search_ends_with_the_circuit_and_says_where_all_lies(ketune, tmp_path):
    out = tmp_path / "my search"
    answer = ketune("search", "ecg", "--strategy", "reinforce,random", *SMALL, "--out", out)
    assert answer.code == 0, answer.err
    rows = json.loads((out / "results.json").read_text())["results"]
    assert [(row["strategy"], row["task"]) for row in rows] == [
        (name, f"small-{k}") for name in ("reinforce", "random") for k in range(2)
    ]
    for row in rows:
        (line,) = [s for s in answer.out.splitlines() if s.split()[:2] == [row["task"], row["strategy"]]]
        assert row["architecture"] in line
        assert f"{row['reward']:.4f}" in line
    for name in ("circuit.json", "results.json", "best_rewards.png"):
        assert str(out / name) in answer.out
        assert (out / name).exists()
    assert load_circuit_file(out / "circuit.json").architecture.text == rows[1]["architecture"]
    assert "small-1: random" in answer.err


def test_the_same_command_again_goes_on_and_finds_the_same(ketune, tmp_path):
    arguments = ["search", "ecg", *SMALL, "--out", tmp_path / "search"]
    first = ketune(*arguments, "--json").json
    written = {file: file.stat().st_mtime_ns for file in (tmp_path / "search" / "scores").rglob("*.json")}
    # What a kill during the last task leaves: the scores, and no result.
    (tmp_path / "search" / "reinforce" / "small-1.json").unlink()
    again = ketune(*arguments, "--json").json
    assert again == first
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "search" / "scores").rglob("*.json")} == written


def test_another_search_does_not_go_into_the_same_folder(ketune, tmp_path):
    assert ketune("search", "ecg", *SMALL, "--out", tmp_path / "search").code == 0
    answer = ketune("search", "ecg", *SMALL, "--seed", "1", "--out", tmp_path / "search")
    assert answer.code == 2
    assert "holds another search" in answer.err
    assert answer.err.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["egc"], ["'egc'", "ecg, regimes"]),
        (["ecg", "--strategy", "genetic"], ["'genetic'", "reinforce"]),
        (["ecg", "--strategy", ","], ["--strategy"]),
        (["ecg", "--depths", "2,x"], ["--depths", "2,3,4"]),
        (["ecg", "--depths", "3,2"], ["ascending"]),
        (["ecg", "--wires", "2"], ["8 features", "2 wires"]),
        (["ecg", "--tasks", "0"], ["0 tasks"]),
        (["ecg", "--evaluations", "0"], ["n_evaluations=0"]),
        (["ecg", "--epochs", "0"], ["epochs=0"]),
        (["ecg", "--rank", "-1"], ["max_rank=-1"]),
        (["ecg", "--order", "both"], ["'both'", "entangler_first"]),
        (["ecg", "--rows", "10"], ["10 rows", "300"]),
        (["ecg", "--tasks", "9"], ["9 tasks"]),
    ],
)
def test_wrong_options_are_answered_in_one_line_and_leave_no_folder(ketune, tmp_path, options, words):
    answer = ketune("search", *options, "--out", tmp_path / "new")
    assert answer.code == 2
    assert answer.err.count("\n") == 1, answer.err
    for word in words:
        assert word in answer.err
    assert not (tmp_path / "new").exists()
