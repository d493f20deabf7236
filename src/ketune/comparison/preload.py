"""Imports what every cell needs, in the fork server, so that a cell starts in a fraction of a second instead of ten.

Importing this module is all that the server does with it. It must not touch a device nor start OpenMP threads: they do
not survive a fork.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import signal
from collections.abc import Iterator

MODULES = (
    "torch",
    "transformers",
    "peft",
    "datasets",
    "trl.trainer.sft_trainer",
    "transformers.models.llama.modeling_llama",
    "transformers.models.gpt_neo.modeling_gpt_neo",
    "sacrebleu",
    "rouge_score.rouge_scorer",
    "ketune",
    "ketune.adapters",
    "ketune.finetuning",
    "ketune.finetuning.training",
    "ketune.comparison.cells",
)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Ignore Ctrl-C, which reaches the whole process group and is the parent's to answer, and send what libraries print
    while they are imported nowhere: it would land in the middle of progress bars."""
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    saved = os.dup(1), os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        for descriptor, copy in zip((1, 2), saved, strict=True):
            os.dup2(copy, descriptor)
            os.close(copy)
        signal.signal(signal.SIGINT, handler)


with _undisturbed():
    for _name in MODULES:
        # Whoever needs one that is missing will say so, with a traceback in the log of its cell.
        with contextlib.suppress(Exception):
            importlib.import_module(_name)
# Imported objects live as long as the process: keeping the collector away from them keeps their pages shared.
gc.collect()
gc.freeze()
