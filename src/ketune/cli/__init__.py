"""The command line. One file per command: it parses, calls one function of the rooms below, and prints."""

from ketune.cli._app import app, main

__all__ = ["app", "main"]
