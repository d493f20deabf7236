"""The errors that Ketune raises on purpose; each says in one line what was given, what is allowed and what to do."""

from __future__ import annotations


class KetuneError(Exception):
    """Root of all errors that a user can do something about.

    Attributes:
        exit_code: what the command line returns to the shell when this error ends a command; 2 means bad input.
    """

    exit_code = 2


class ModelError(KetuneError):
    """A model that cannot be found, read or used for what was asked."""


class DataError(KetuneError):
    """A data set that cannot be found, read or brought into the form of a task."""


class TrainingError(KetuneError):
    """A training run that cannot start, or cannot go on from what stands in its folder."""
