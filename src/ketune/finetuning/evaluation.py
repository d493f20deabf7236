"""What a model is worth on a split of a task: its loss, and scores of the texts that it writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ketune.errors import DataError
from ketune.finetuning.data import DEFAULT_SOURCE, TaskData, load_task
from ketune.finetuning.generation import generate
from ketune.finetuning.metrics import evaluate_loss
from ketune.finetuning.scoring import scores
from ketune.finetuning.trained import load_either

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Evaluation:
    """Scores of a model on one split.

    Attributes:
        model: name of what was scored.
        data: name of the task.
        split: which rows.
        n_rows: rows whose completions were scored.
        n_generated: prompts that were answered.
        scores: `loss`, `perplexity`, `bits_per_byte`, `n_tokens`, ... of `evaluate_loss`, and `bleu`, `rouge1`,
            `rouge2`, `rougeL`, `exact_match` of the answers, as far as there are any.
        samples: the first answers, each {"prompt", "references", "prediction"}.
        notes: what the task's notes say.
    """

    model: str
    data: str
    split: str
    n_rows: int
    n_generated: int
    scores: dict[str, float]
    samples: list[dict[str, Any]]
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


def evaluate(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    data: TaskData,
    *,
    split: str = "test",
    n_generate: int = 64,
    max_new_tokens: int = 64,
    batch_size: int = 16,
    max_length: int | None = None,
    bertscore_model: str | None = None,
    n_samples: int = 3,
    name: str = "",
) -> Evaluation:
    """Scores the completions of a split, and greedy answers to its first prompts.

    Args:
        model: with or without an adapter.
        tokenizer: the model's.
        data: the task; chats are rendered with the tokenizer's template.
        split: "train", "validation" or "test".
        n_generate: at most so many prompts are answered; 0 for none.
        max_new_tokens: length of an answer.
        batch_size: sequences per forward pass.
        max_length: longest sequence in tokens, as in `evaluate_loss`.
        bertscore_model: adds BERTScore, as in `scores`.
        n_samples: answers to keep.
        name: of the model, for the result; its own name if left out.

    Raises:
        DataError: for an unknown split or a negative number.
    """
    if split not in SPLITS:
        raise DataError(f"split={split!r}: choose one of {', '.join(map(repr, SPLITS))}")
    if n_generate < 0:
        raise DataError(f"n_generate={n_generate}: pass 0 (no answers) or more")
    data = data.render(tokenizer)
    rows = getattr(data, split)
    found: dict[str, float] = evaluate_loss(model, tokenizer, rows, batch_size=batch_size, max_length=max_length)
    asked = rows.select(range(min(n_generate, len(rows))))
    samples: list[dict[str, Any]] = []
    if len(asked):
        prompts, references = list(asked["prompt"]), [list(texts) for texts in asked["references"]]
        answers = generate(model, tokenizer, prompts, max_new_tokens=max_new_tokens, batch_size=batch_size)
        found = {**found, **scores(answers, references, bertscore_model=bertscore_model)}
        samples = [
            {"prompt": prompt, "references": texts, "prediction": answer}
            for prompt, texts, answer in list(zip(prompts, references, answers))[:n_samples]
        ]
    name = name or str(getattr(getattr(model, "config", None), "name_or_path", "") or type(model).__name__)
    return Evaluation(name, data.name, split, len(rows), len(asked), found, samples, list(data.notes))


def evaluate_saved(
    adapter: str | Path | None,
    model: str | Path | None,
    data: str | Path = DEFAULT_SOURCE,
    *,
    split: str = "test",
    limit: int | None = None,
    data_options: Mapping[str, Any] | None = None,
    dtype: str = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
    **options: Any,
) -> Evaluation:
    """`evaluate` for a saved adapter or model and a source of data.

    Args:
        adapter, model, dtype, device, trust_remote_code: as in `load_either`.
        data: a source for `load_task`; `data_options` are its further arguments.
        split: which rows; at most `limit` of them.
        options: further arguments of `evaluate`.

    Raises:
        KetuneError: as in `load_either`, `load_task` and `evaluate`.
    """
    if split not in SPLITS:
        raise DataError(f"split={split!r}: choose one of {', '.join(map(repr, SPLITS))}")
    task = load_task(data, limit=None if limit is None else {split: limit}, **(data_options or {}))
    loaded, tokenizer = load_either(adapter, model, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
    return evaluate(loaded, tokenizer, task, split=split, name=str(adapter or model), **options)
