"""Scores of generated texts against one or several references."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

from ketune.errors import DataError, KetuneError
from ketune.finetuning.templates import ANSWER_MARK

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_ROUGE = ("rouge1", "rouge2", "rougeL")


def scores(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    bertscore_model: str | None = None,
) -> dict[str, float]:
    """Compares texts with their references.

    Args:
        predictions: one text each.
        references: for each prediction at least one text; their numbers may differ.
        bertscore_model: folder or hub id of an encoder; adds `bertscore`. None leaves it out.

    Returns:
        `bleu`: corpus BLEU over all references (sacrebleu, its default 13a tokenisation), in points from 0 to 100.
        `rouge1`, `rouge2`, `rougeL`: mean F1 against the best reference of each text (rouge-score, without stemming),
        in points. `exact_match`: share from 0 to 1 of texts that equal a reference (see `is_match`). `bertscore`: mean
        F1 against the best reference, in points.

    Raises:
        DataError: if the lengths differ, there is nothing to score, or a prediction has no reference.
        KetuneError: if `bertscore_model` is given and bert-score is not installed.
    """
    if len(predictions) != len(references):
        raise DataError(
            f"scores: {len(predictions)} predictions and {len(references)} lists of references; need as many"
        )
    if not predictions:
        raise DataError("scores: nothing to score, there are no predictions")
    for i, texts in enumerate(references):
        if isinstance(texts, str) or not texts:
            raise DataError(f"scores: references[{i}] is {texts!r}; need a list of at least one text")
    result = {"bleu": _bleu(predictions, references), **_rouge(predictions, references)}
    matches = [is_match(prediction, texts) for prediction, texts in zip(predictions, references)]
    result["exact_match"] = sum(matches) / len(matches)
    if bertscore_model is not None:
        result["bertscore"] = _bertscore(predictions, references, bertscore_model)
    return result


def is_match(prediction: str, references: Sequence[str]) -> bool:
    """Whether a text gives the answer of one of the references.

    If the references mark their final number with `####` (GSM8K), the number after the mark must be equal; a text
    without the mark gives no answer. Otherwise the texts must be equal after `normalise`.
    """
    if all(ANSWER_MARK in reference for reference in references):
        answer = final_number(prediction)
        return answer is not None and any(answer == final_number(reference) for reference in references)
    return normalise(prediction) in {normalise(reference) for reference in references}


def final_number(text: str) -> float | None:
    """The number after the last `####`, without thousands separators; None if there is none."""
    _, mark, after = text.rpartition(ANSWER_MARK)
    number = _NUMBER.search(after) if mark else None
    return float(number.group().replace(",", "")) if number else None


def normalise(text: str) -> str:
    """Lower case without punctuation, English articles and surplus blanks, as in SQuAD's exact match."""
    text = text.casefold().translate(str.maketrans("", "", string.punctuation))
    return " ".join(_ARTICLES.sub(" ", text).split())


def _bleu(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    import sacrebleu

    # sacrebleu wants one list per reference number; None stands where a prediction has fewer references.
    most = max(len(texts) for texts in references)
    streams = [[texts[i] if i < len(texts) else None for texts in references] for i in range(most)]
    return sacrebleu.corpus_bleu(list(predictions), streams).score  # pyright: ignore[reportArgumentType]


def _rouge(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(list(_ROUGE), use_stemmer=False)
    totals = dict.fromkeys(_ROUGE, 0.0)
    for prediction, texts in zip(predictions, references):
        per_reference = [scorer.score(text, prediction) for text in texts]
        for name in totals:
            totals[name] += max(score[name].fmeasure for score in per_reference)
    return {name: 100 * total / len(predictions) for name, total in totals.items()}


def _bertscore(predictions: Sequence[str], references: Sequence[Sequence[str]], encoder: str) -> float:
    try:
        from bert_score import score  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise KetuneError(
            f"bertscore_model={encoder!r}: BERTScore needs the bert-score package; pip install 'ketune[bertscore]'"
        ) from None
    from transformers import AutoConfig

    n_layers = AutoConfig.from_pretrained(encoder).num_hidden_layers
    _, _, f1 = score(list(predictions), [list(texts) for texts in references], model_type=encoder, num_layers=n_layers)
    return 100 * float(f1.mean())
