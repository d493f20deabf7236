from __future__ import annotations

import io

import pytest
from rich.console import Console

from ketune.cli import _output as output
from ketune.cli import _progress as progress
from ketune.comparison.events import (
    CellFailed,
    CellFinished,
    CellPhase,
    CellProgress,
    CellSkipped,
    CellStarted,
    Interrupted,
    LearningRateChosen,
    Planned,
    ReportWritten,
)

EVENTS = (
    Planned(("lora--default--seed0", "lora--default--seed1", "qaa--default--seed0"), 1, 5000),
    CellSkipped("lora--default--seed1"),
    CellStarted("base", "base"),
    CellPhase("base", "evaluating"),
    CellFinished("base", "base", 4.5, 3.0),
    CellStarted("qaa--default--lr0.005", "trial"),
    CellFinished("qaa--default--lr0.005", "trial", 2.0, 90.0),
    LearningRateChosen("qaa--default", 0.005),
    CellStarted("lora--default--seed0", "cell"),
    CellProgress("lora--default--seed0", 5, 10, 3.25, 1234.0),
    CellProgress("lora--default--seed0", 6, 10, None, None),
    CellFinished("lora--default--seed0", "cell", None, 7300.0),
    CellStarted("qaa--default--seed0", "cell"),
    CellFailed("qaa--default--seed0", "cell", "out of memory [really]", "cells/log.txt"),
    Interrupted("the same command goes on"),
    ReportWritten("report.md"),
)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("qaa--control-frozen--seed0", "qaa control-frozen seed 0"),
        ("lora--default--seed12", "lora seed 12"),
        ("lora--default--lr0.005", "lora lr 0.005"),
        ("lora--seedling", "lora seedling"),
        ("base", "untouched base model"),
    ],
)
def test_cells_have_readable_names(name, text):
    assert progress.readable(name) == text


def test_without_a_terminal_there_is_a_line_for_each_thing_that_is_done(capsys):
    with progress.comparison_progress() as on_event:
        for event in EVENTS:
            on_event(event)
    seen = capsys.readouterr()
    assert seen.err == ""
    assert [" ".join(line.split()) for line in seen.out.splitlines()] == [
        "3 cells: 2 experiments, 2 seeds, budget 5,000 trainable parameters",
        "1 of them stand already and are kept",
        "[1/3] untouched base model test loss 4.5000 3 s",
        "[2/4] qaa lr 0.005 validation loss 2.0000 1 min 30 s",
        "learning rate of qaa: 0.005",
        "[3/4] lora seed 0 2 h 1 min",
        "[4/4] qaa seed 0 failed: out of memory [really] (log: cells/log.txt)",
        "the same command goes on",
    ]


def test_lines_go_to_standard_error_when_standard_output_is_for_json(capsys):
    with progress.comparison_progress(to_stderr=True) as on_event:
        on_event(EVENTS[0])
    seen = capsys.readouterr()
    assert seen.out == ""
    assert seen.err.startswith("3 cells")


def test_on_a_terminal_there_are_bars_with_loss_speed_and_time_left(monkeypatch):
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=120, color_system=None)
    clock = iter(range(0, 1000, 2))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    with progress._bars(console) as bars:
        view = progress._ComparisonView(bars.console, bars)
        for event in EVENTS[:10]:
            view(event)
        bars.refresh()
    text = stream.getvalue()
    assert "lora seed 0" in text
    assert "loss 3.250  1,234 tokens/s" in text
    assert "left" in text
    assert "2/4" in text


def test_a_finished_cell_leaves_no_bar_behind():
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with progress._bars(console) as bars:
        view = progress._ComparisonView(bars.console, bars)
        for event in EVENTS:
            view(event)
        assert [task.description for task in bars.tasks] == ["all cells"]
        assert bars.tasks[0].completed == bars.tasks[0].total == 4


@pytest.mark.parametrize(
    ("done", "total", "seconds", "left"),
    [(0, 10, 5.0, None), (2, 10, 4.0, 16.0), (10, 10, 4.0, 0.0), (1, 9, 0.5, None)],
)
def test_the_time_left_follows_the_mean_speed(done, total, seconds, left):
    assert progress._left(done, total, seconds) == left


def test_training_without_a_terminal_writes_a_line_for_each_tenth(capsys):
    with progress.training_progress() as report:
        for step in range(1, 101):
            report(step, 100, 2.0 if step > 5 else None, 50.0, 1.5 if step >= 50 else None)
    seen = capsys.readouterr()
    assert seen.out == ""
    lines = seen.err.splitlines()
    assert len(lines) == 11
    assert lines[0].startswith("step 6/100  loss 2.000  50 tokens/s")
    assert lines[-1].startswith("step 100/100  loss 2.000  validation 1.500")


PHASES = (("loss before", 0, 2), ("loss before", 1, 2), ("loss before", 2, 2), ("rounding", 0, 9), ("rounding", 4, 9))


def test_phases_without_a_terminal_are_a_line_each(capsys):
    with progress.phase_progress() as report:
        for phase in PHASES:
            report(*phase)
    assert capsys.readouterr() == ("", "loss before\nrounding\n")


def test_on_a_terminal_the_phase_that_runs_has_the_bar(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(output, "is_terminal", lambda: True)
    monkeypatch.setattr(output, "messages", lambda: Console(file=screen, force_terminal=True, width=120))
    with progress.phase_progress() as report:
        for phase in PHASES[:2]:
            report(*phase)
        first = len(screen.getvalue())
        for phase in PHASES[2:]:
            report(*phase)
    assert "loss before" in screen.getvalue()
    last = screen.getvalue()[first:]
    assert "rounding" in last
    assert "4/9" in last


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (60, "1 min"), (80, "1 min 20 s"), (3600, "1 h 0 min"), (7300, "2 h 1 min")],
)
def test_durations_are_written_as_people_say_them(seconds, text):
    assert output.duration(seconds) == text


@pytest.mark.parametrize(
    ("n", "text"), [(None, "–"), (12, "12 B"), (1_500, "1.5 kB"), (8.94e6, "8.94 MB"), (3e9, "3 GB")]
)
def test_sizes_are_written_in_the_unit_that_suits(n, text):
    assert output.size(n) == text


def test_json_has_no_nan_and_no_objects(capsys, tmp_path):
    output.print_json({"a": float("nan"), "b": [float("inf"), 1.5], "c": tmp_path, 3: None})
    assert (
        capsys.readouterr().out
        == f'{{\n  "a": null,\n  "b": [\n    null,\n    1.5\n  ],\n  "c": "{tmp_path}",\n  "3": null\n}}\n'
    )


def test_only_the_first_of_several_processes_speaks(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    output.say("hello")
    output.print_json(1)
    assert capsys.readouterr().out == ""
    monkeypatch.setenv("RANK", "0")
    output.say("hello [bold]you[/]")
    assert capsys.readouterr().out == "hello [bold]you[/]\n"
