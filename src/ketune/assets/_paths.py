"""Where the package's own files lie."""

from __future__ import annotations

from pathlib import Path


def base_model_path() -> Path:
    """Returns the folder of the bundled base model, which `from_pretrained` of transformers reads without a network.

    The model is a small Llama-style causal language model with its tokenizer; the folder's README.md is its model card.
    """
    return Path(__file__).parent / "base"
