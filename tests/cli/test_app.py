from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version

import pytest
import typer

from ketune.cli import _app, methods
from ketune.errors import KetuneError

COMMANDS = (
    "compare",
    "finetune",
    "evaluate",
    "generate",
    "merge",
    "export",
    "quantize",
    "methods",
    "report",
    "circuit",
    "vqc",
    "search",
    "prepare-state",
)


def one_line(text: str) -> str:
    """The text, if it is one line."""
    assert text.endswith("\n")
    assert text.count("\n") == 1, text
    return text.rstrip("\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["metods"], ["metods", "'methods'", "ketune --help"]),
        (["methods", "--bugdet", "3"], ["--bugdet", "--budget", "ketune methods --help"]),
        (["methods", "--size", "many"], ["--size", "integer", "ketune methods --help"]),
        (["merge", "--out", "x"], ["--adapter", "ketune merge --help"]),
        (["report"], ["DIR", "ketune report --help"]),
        (["report", "a", "b"], ["b", "ketune report --help"]),
    ],
)
def test_a_line_that_cannot_be_parsed_is_answered_in_one_line(ketune, arguments, words):
    answer = ketune(*arguments)
    assert answer.code == 2
    assert answer.out == ""
    line = one_line(answer.err)
    assert line.startswith("ketune: ")
    for word in words:
        assert word in line


def test_help_names_every_command_and_exit_code(ketune):
    answer = ketune("--help")
    assert answer.code == 0
    for command in COMMANDS:
        assert command in answer.out
    for code in ("0 ", "1 ", "2 ", "130 "):
        assert f"\n {code}" in answer.out


def test_without_a_command_there_is_help(ketune):
    answer = ketune()
    assert "Usage: ketune" in answer.out + answer.err
    assert "Traceback" not in answer.err


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help_with_examples(ketune, command):
    answer = ketune(command, "--help")
    assert answer.code == 0
    assert answer.err == ""
    assert f"Usage: ketune {command}" in answer.out
    examples = answer.out.partition("Examples")[2]
    assert examples.count(" $ ") >= 2


def test_version_is_the_version_of_the_package(ketune):
    assert ketune("--version").out == f"ketune {version('ketune')}\n"


class _Sad(KetuneError):
    exit_code = 7


def _raise(error: BaseException):
    def run(**options: object) -> None:
        raise error

    return run


@pytest.fixture
def failing(monkeypatch):
    """Makes `ketune methods` raise an error."""

    def make(error: BaseException) -> None:
        from ketune.adapters import summary

        monkeypatch.setattr(summary, "summarize_methods", lambda *args, **kwargs: (_ for _ in ()).throw(error))

    return make


def test_an_error_of_ours_is_one_line_and_its_own_exit_code(ketune, failing):
    failing(_Sad("this\nhas  two lines"))
    answer = ketune("methods")
    assert (answer.code, answer.out, answer.err) == (7, "", "ketune: this has two lines\n")


@pytest.mark.parametrize("place", ["first", "last"])
def test_debug_shows_where_an_error_came_from(ketune, failing, place):
    failing(_Sad("sad"))
    answer = ketune("--debug", "methods") if place == "first" else ketune("methods", "--debug")
    assert answer.code == 7
    assert "Traceback" in answer.err
    assert answer.err.endswith("ketune: sad\n")


def test_an_unexpected_error_keeps_its_traceback(ketune, failing):
    failing(ZeroDivisionError("ours to mend"))
    with pytest.raises(ZeroDivisionError):
        ketune("methods")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), typer.Abort()])
def test_ctrl_c_is_exit_code_130_without_a_traceback(ketune, failing, error):
    failing(error)
    answer = ketune("methods")
    assert answer.code == 130
    assert "Traceback" not in answer.err


def test_main_ends_the_process_with_the_exit_code(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["ketune", "metods"])
    with pytest.raises(SystemExit) as ended:
        _app.main()
    assert ended.value.code == 2


def test_the_commands_of_the_application_are_the_files_of_the_room():
    assert tuple(_app._COMMANDS) == COMMANDS
    assert _app._COMMANDS["methods"] is methods


def test_python_dash_m_and_a_reader_that_goes_away():
    """One process for two things that need one: `python -m ketune`, and output into a pipe that nobody reads."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "ketune", "circuit", "--wires", "2", "--json"],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(write)
    assert "Traceback" not in done.stderr
    assert "BrokenPipeError" not in done.stderr
    assert done.returncode != 2
