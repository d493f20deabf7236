"""The `ketune` command: its subcommands, and what becomes of their errors."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from rich.markup import escape

from ketune.cli import (
    circuit,
    compare,
    evaluate,
    export,
    finetune,
    generate,
    merge,
    methods,
    prepare_state,
    quantize,
    report,
    search,
    vqc,
)
from ketune.errors import KetuneError

# What these say when they are imported is about each other's versions; an answer in one line should be one line.
# The last one warns of long texts, which we cut ourselves and say so.
_CHATTER = ("torchao", "torch.utils._pytree", "bitsandbytes", "transformers.tokenization_utils_base")

EXIT_FAILED, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 1, 2, 130

_COMMANDS: dict[str, Any] = {
    "compare": compare,
    "finetune": finetune,
    "evaluate": evaluate,
    "generate": generate,
    "merge": merge,
    "export": export,
    "quantize": quantize,
    "methods": methods,
    "report": report,
    "circuit": circuit,
    "vqc": vqc,
    "search": search,
    "prepare-state": prepare_state,
}
EXAMPLES = ("ketune compare", "ketune methods --model ./my-model --budget 0.1%", "ketune finetune --help")

# Typer has had its own copy of click since 0.20, and click itself before; either way this is its `ClickException`.
_CommandLineError: type[Exception] = typer.BadParameter.__mro__[2]

app = typer.Typer(
    name="ketune",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def help_of(module: Any) -> tuple[str, str]:
    """Help text and epilog of a command's module: its docstring, and its examples one to a line."""
    return module.__doc__.strip(), _epilog(module.EXAMPLES)


def _epilog(examples: Sequence[str]) -> str:
    lines = "\n\n".join(f"[dim]$[/] {escape(line)}" for line in examples)
    return f"[bold]Examples[/]\n\n{lines}"


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(f"ketune {version('ketune')}")
        raise typer.Exit


@app.callback(epilog=_epilog(EXAMPLES))
def ketune(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show where an error came from; may stand anywhere on the line.")
    ] = False,
) -> None:
    """Fine-tune language models with quantum circuits, beside the classical methods, and see how they compare.

    Results go to standard output, progress and errors to standard error.

    Exit codes:

    [bold]0[/]    all went well

    [bold]1[/]    some cells of a comparison, or a training run, failed

    [bold]2[/]    bad input, answered in one line

    [bold]130[/]  interrupted with Ctrl-C
    """


for _name, _module in _COMMANDS.items():
    _help, _examples = help_of(_module)
    app.command(_name, help=_help, epilog=_examples)(_module.run)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and end the process with its exit code."""
    code = execute(sys.argv[1:] if arguments is None else arguments)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _close_broken_pipe()
    sys.exit(code)


def execute(arguments: Sequence[str]) -> int:
    """Run the command line; returns its exit code.

    Errors that a user can do something about end in one line on standard error; others keep their traceback.
    """
    for name in _CHATTER:
        logging.getLogger(name).setLevel(logging.ERROR)
    arguments = list(arguments)
    debug = "--debug" in arguments or bool(os.environ.get("KETUNE_DEBUG"))
    arguments = [argument for argument in arguments if argument != "--debug"]
    return _guarded(lambda: app(arguments, prog_name="ketune", standalone_mode=False), debug)


def _guarded(command: Callable[[], Any], debug: bool) -> int:
    try:
        code = command()
    except KetuneError as error:
        return _explain(_one_line(str(error)), error.exit_code, debug)
    except _CommandLineError as error:
        return _explain(_usage(error), getattr(error, "exit_code", EXIT_BAD_INPUT), debug)
    except (KeyboardInterrupt, typer.Abort):
        return _explain("interrupted", EXIT_INTERRUPTED, debug)
    except BrokenPipeError:
        _close_broken_pipe()
        return EXIT_FAILED
    return code if isinstance(code, int) else 0


def _explain(message: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    if message:
        print(f"ketune: {message}", file=sys.stderr)
    return code


def _usage(error: Any) -> str:
    """What is wrong with the line, and whom to ask."""
    message = _one_line(error.format_message()).rstrip(".")
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "ketune"
    return f"{message}; see {path} --help" if message else ""


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _close_broken_pipe() -> None:
    """Whoever read our output went away (`| head`): nothing is left to say, and Python must not try when it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
