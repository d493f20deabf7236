"""Greedy and sampled generation in batches."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from ketune.errors import DataError
from ketune.finetuning.base import context_length, prepare_tokenizer
from ketune.finetuning.encoding import Encoded, Encoder, collate
from ketune.finetuning.metrics import evaluating
from ketune.finetuning.scoring import scores

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["generate", "scores"]

logger = logging.getLogger(__name__)


def generate(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 64,
    sample: bool = False,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
    batch_size: int = 16,
) -> list[str]:
    """Continues prompts, with the same tokens for a prompt as in training.

    Batches are padded on the left, whatever the tokenizer prefers, and each text ends at its end-of-text token.

    Args:
        model: a causal language model, with or without an adapter; it comes back in the mode it was in.
        tokenizer: the model's; left as it is.
        prompts: texts as a `TaskData` holds them (render chats first). Prompts that leave no room for `max_new_tokens`
            in the model's context are cut from the left, and a warning is logged.
        max_new_tokens: at most this many tokens per text.
        sample: draw tokens; False takes the most probable token each time.
        temperature: of the draw, above 0; below 1 is more certain, above 1 more varied.
        top_p: draw from the most probable tokens that make up this probability, in (0, 1].
        seed: of the draw; the same seed, prompts and batch size give the same texts. Global generators are untouched.
        batch_size: prompts per forward pass.

    Returns:
        One text per prompt, without the prompt, special tokens and outer blanks.

    Raises:
        DataError: if a setting is out of range.
    """
    if max_new_tokens < 1 or batch_size < 1:
        raise DataError(f"max_new_tokens={max_new_tokens}, batch_size={batch_size}: both must be 1 or more")
    if sample and not (temperature > 0 and 0 < top_p <= 1):
        raise DataError(f"temperature={temperature}, top_p={top_p}: need temperature > 0 and 0 < top_p <= 1")
    prepare_tokenizer(tokenizer)
    encoded = _encode_prompts(model, tokenizer, prompts, max_new_tokens)
    config = _generation_config(model, tokenizer, max_new_tokens, sample, temperature, top_p)
    # Prompts of like length share a batch; each text goes back to its prompt's place.
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]))
    texts = [""] * len(encoded)
    device = next(model.parameters()).device
    devices = [device] if device.type == "cuda" else []
    with evaluating(model), torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            batch = collate([encoded[i] for i in places], tokenizer.pad_token_id, side="left")  # pyright: ignore
            ids, mask = batch["input_ids"].to(device), batch["attention_mask"].to(device)
            out = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)  # pyright: ignore
            written = tokenizer.batch_decode(out[:, ids.shape[1] :], skip_special_tokens=True)
            for place, text in zip(places, written):
                texts[place] = text.strip()
    return texts


def _encode_prompts(
    model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], max_new_tokens: int
) -> list[Encoded]:
    context = context_length(model)
    room = None if context is None else context - max_new_tokens
    if room is not None and room < 1:
        raise DataError(
            f"max_new_tokens={max_new_tokens}: leaves no room for a prompt in a context of {context} tokens"
        )
    encoder = Encoder(tokenizer)
    encoded, n_cut_prompts = [], 0
    for prompt in prompts:
        ids, n_cut = encoder.prompt(prompt, room)
        n_cut_prompts += n_cut > 0
        encoded.append(Encoded(ids, [], 0))
    if n_cut_prompts:
        logger.warning("%d of %d prompts cut from the left to %d tokens", n_cut_prompts, len(encoded), room)
    return encoded


def _generation_config(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    max_new_tokens: int,
    sample: bool,
    temperature: float,
    top_p: float,
) -> Any:
    from transformers import GenerationConfig

    own = getattr(model, "generation_config", None)
    stops = getattr(own, "eos_token_id", None)
    stops = [] if stops is None else [stops] if isinstance(stops, int) else list(stops)
    settings: dict[str, Any] = {"temperature": temperature, "top_p": top_p, "top_k": 0} if sample else {}
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=sample,
        num_beams=1,
        eos_token_id=list(dict.fromkeys([tokenizer.eos_token_id, *stops])),
        pad_token_id=tokenizer.pad_token_id,
        use_cache=True,
        **settings,
    )
