"""The examples that `--help` shows are lines that the commands take."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import typer

from ketune.cli import _app

EXAMPLES = [*_app.EXAMPLES, *(line for module in _app._COMMANDS.values() for line in module.EXAMPLES)]


def words_of(line: str) -> list[str]:
    """The arguments of `ketune` in an example, without what the shell does with its streams."""
    words = shlex.split(line)
    launcher = ["accelerate", "launch", "-m"]
    if words[:3] == launcher:
        words = words[3:]
    assert words[0] == "ketune"
    for mark in ("<", ">"):
        if mark in words:
            words = words[: words.index(mark)]
    return words[1:]


@pytest.mark.parametrize("line", EXAMPLES)
def test_an_example_parses(line):
    name, *arguments = words_of(line)
    command = typer.main.get_command(_app.app).commands[name]
    if arguments == ["--help"]:
        return
    context = command.make_context(name, arguments)  # parses everything and runs nothing
    assert context.params


@pytest.mark.parametrize("line", [line for line in EXAMPLES if line.startswith("ketune compare")])
def test_an_example_of_compare_asks_for_a_comparison_that_can_be_made(line, ketune, monkeypatch, tmp_path):
    from ketune import comparison
    from ketune.comparison import summary

    seen = []

    def not_run(spec, out, on_event=None, *, jobs=None):
        seen.append(spec)
        return comparison.Outcome(Path(out))

    monkeypatch.setattr(comparison, "run_comparison", not_run)
    monkeypatch.setattr(summary, "summarize_comparison", lambda folder: [])
    monkeypatch.chdir(tmp_path)
    answer = ketune(*words_of(line))
    assert answer.code == 0, answer.err
    assert len(seen) == 1


@pytest.mark.parametrize("line", [line for line in EXAMPLES if line.startswith("ketune circuit --")])
def test_an_example_of_circuit_runs(line, ketune, monkeypatch, tmp_path, model_folder, trained):
    pytest.importorskip("qiskit")
    if "mpl" in line:
        pytest.importorskip("pylatexenc")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-model").symlink_to(model_folder)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "qaa").symlink_to(trained("qaa"))
    answer = ketune(*words_of(line))
    assert answer.code == 0, answer.err


@pytest.mark.parametrize("line", [line for line in EXAMPLES if line.startswith("ketune methods")])
def test_an_example_of_methods_runs(line, ketune, monkeypatch, tmp_path, model_folder):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-model").symlink_to(model_folder)
    answer = ketune(*words_of(line))
    assert answer.code == 0, answer.err
