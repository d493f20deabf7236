"""Keeps the libraries below us quiet: no progress bars, no chatter; errors and our own words remain."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

KNOWN_WARNINGS = (
    # transformers 5 renames gradient to activation checkpointing; PEFT 0.21, TRL 1 and we use the old name.
    (FutureWarning, "`.*gradient_checkpointing.*` is deprecated"),
    # PEFT's LoRA finds the right value for GPT-2's transposed layers by itself.
    (UserWarning, "fan_in_fan_out is set to False but the target module is `Conv1D`"),
)
"""Warnings of libraries about each other, which no user can do anything about."""


@contextlib.contextmanager
def quiet_datasets() -> Iterator[None]:
    """Switches the progress bars of `datasets` off, and on again if they were on."""
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    were_off = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not were_off:
            enable_progress_bars()


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Lets transformers log errors only and draw no progress bars, and drops `KNOWN_WARNINGS`; all comes back after."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            for category, message in KNOWN_WARNINGS:
                warnings.filterwarnings("ignore", message=message, category=category)
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
