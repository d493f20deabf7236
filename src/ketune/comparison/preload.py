"""Imports what every cell needs, in the fork server, so that a cell starts in a fraction of a second instead of ten.

The server only ever imports: it must not touch a device nor start OpenMP threads, which do not survive a fork.
"""

from __future__ import annotations

import gc
import importlib
import logging

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

for _name in MODULES:
    try:
        importlib.import_module(_name)
    except ImportError as error:  # whoever needs it will say so, with a traceback in the log of a cell
        logging.getLogger(__name__).debug("not preloaded: %s (%s)", _name, error)
# Imported objects live as long as the process: keeping the collector away from them keeps their pages shared.
gc.collect()
gc.freeze()
