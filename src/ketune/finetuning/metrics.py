"""Loss, perplexity and bits per byte of completions, with padding masked and every token weighted alike."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch

from ketune.errors import DataError
from ketune.finetuning.base import context_length, prepare_tokenizer
from ketune.finetuning.encoding import DEFAULT_MAX_LENGTH, IGNORED, Encoded, Encoder, collate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


def evaluate_loss(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset,
    *,
    batch_size: int = 16,
    max_length: int | None = None,
    all_references: bool = False,
) -> dict[str, float]:
    """Scores the completions of a data set under a model.

    The loss is the mean over all completion tokens of the data set, so it does not depend on the batch size. The
    end-of-text token counts as a token: a model must know where to stop.

    Args:
        model: a causal language model, with or without an adapter; it comes back in the mode it was in.
        tokenizer: the model's.
        dataset: columns `prompt` and `completion`, and `references` if `all_references`.
        batch_size: sequences per forward pass.
        max_length: longest sequence in tokens; None: what the model holds, at most `DEFAULT_MAX_LENGTH`. Prompts are
            cut from the left to fit; rows whose completion alone is longer are left out and counted in `n_dropped`.
        all_references: score every reference, not the first one only.

    Returns:
        `loss` (nats per token), `perplexity` (its exponential), `bits_per_byte` (all nats, those of the end-of-text
        tokens included, over ln 2 and the UTF-8 bytes of the completions), `n_tokens`, `n_truncated`, `n_dropped`.

    Raises:
        DataError: if no row is left to score.
    """
    encoder = Encoder(prepare_tokenizer(tokenizer), effective_max_length(model, max_length))
    if all_references:
        rows = [(row["prompt"], text) for row in dataset for text in row["references"]]  # pyright: ignore
    else:
        rows = list(zip(dataset["prompt"], dataset["completion"]))
    sequences, report = encoder.encode_rows(rows)
    scores = score_sequences(model, sequences, tokenizer.pad_token_id, batch_size)  # pyright: ignore[reportArgumentType]
    return {**scores, "n_truncated": report.n_truncated, "n_dropped": report.n_dropped}


def score_sequences(
    model: torch.nn.Module, sequences: Sequence[Encoded], pad_token_id: int, batch_size: int
) -> dict[str, float]:
    """Scores encoded sequences; see `evaluate_loss` for what comes back."""
    if not sequences:
        raise DataError("no row is left to score: every completion exceeds max_length, or the data set is empty")
    # Rows of like length share a batch: less padding, and the same sum in any order.
    order = sorted(range(len(sequences)), key=lambda i: (len(sequences[i].prompt), len(sequences[i])))
    nats, n_tokens = 0.0, 0
    with evaluating(model):
        device = next(model.parameters()).device
        for start in range(0, len(order), batch_size):
            batch = [sequences[i] for i in order[start : start + batch_size]]
            tensors = {k: v.to(device) for k, v in collate(batch, pad_token_id).items()}
            nats += completion_nats(model, tensors).double().item()
            n_tokens += sum(len(sequence.completion) for sequence in batch)
    n_bytes = sum(sequence.n_bytes for sequence in sequences)
    loss = nats / n_tokens
    return {
        "loss": loss,
        "perplexity": math.exp(loss) if loss < 700 else math.inf,
        "bits_per_byte": nats / math.log(2) / n_bytes if n_bytes else math.nan,
        "n_tokens": n_tokens,
    }


def completion_nats(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Sum of -ln p over the labelled tokens of a batch, a scalar that can be differentiated.

    Args:
        model: a causal language model.
        batch: `input_ids`, `attention_mask` and `labels` (`IGNORED` where a token does not count), each of shape
            (batch, length), padded on the right. Labels at position 0 do not count: nothing stands before it.
    """
    labels = batch["labels"]
    counted = labels != IGNORED
    # Prompts come first, so the logits before the earliest completion are never needed, and the model can leave out
    # what is by far its largest tensor with a large vocabulary.
    first = max(1, int(counted.any(dim=0).int().argmax()))
    inputs: dict[str, Any] = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    n_kept = labels.shape[1] - first + 1
    if _keeps_logits(model):
        inputs["logits_to_keep"] = n_kept
    logits = model(**inputs, use_cache=False).logits[:, -n_kept:-1]
    targets, counted = labels[:, first:], counted[:, first:]
    return torch.nn.functional.cross_entropy(logits[counted].float(), targets[counted], reduction="sum")


def _keeps_logits(model: torch.nn.Module) -> bool:
    """Whether the model can leave out the logits of the prompt, by far the largest tensor with a large vocabulary."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model  # pyright: ignore[reportCallIssue]
    return "logits_to_keep" in inspect.signature(base.forward).parameters  # pyright: ignore


def effective_max_length(model: torch.nn.Module, max_length: int | None) -> int:
    """The longest sequence that both the caller (None: `DEFAULT_MAX_LENGTH`) and the model's context allow."""
    context = context_length(model)
    wanted = DEFAULT_MAX_LENGTH if max_length is None else max_length
    return wanted if context is None else min(wanted, context)


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; every module gets its own mode back.

    A model with float32 adapters over a bfloat16 base was trained under autocast, and runs under autocast here too.
    """
    modes = {module: module.training for module in model.modules()}
    dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()}
    device = next(model.parameters()).device
    mixed = (
        torch.autocast(device.type, torch.bfloat16) if len(dtypes) > 1 and torch.bfloat16 in dtypes else nullcontext()
    )
    model.eval()
    try:
        with torch.no_grad(), mixed:
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
