"""Chats: a row of messages becomes one example per answer, written the way the model's tokenizer writes chats."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ketune.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = dict[str, str]
_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}


def normalise(messages: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Brings messages into the form `{"role", "content"}`; ShareGPT's `{"from", "value"}` is known too.

    Raises:
        DataError: if a message has neither form, or a content that is not text.
    """
    result = []
    for message in messages:
        role = message.get("role") or message.get("from")
        content = message["content"] if message.get("content") is not None else message.get("value")
        if not isinstance(role, str) or not isinstance(content, str):
            raise DataError(f"message {dict(message)!r}: needs a 'role' and a 'content', both texts")
        result.append({"role": _ROLES.get(role, role), "content": content.strip()})
    return result


def answers(messages: Sequence[Message]) -> list[tuple[list[Message], str]]:
    """Returns, for each answer of the assistant, the messages before it and the answer."""
    return [
        (list(messages[:i]), message["content"])
        for i, message in enumerate(messages)
        if message["role"] == "assistant" and i > 0 and message["content"]
    ]


def as_plain_text(messages: Sequence[Message]) -> str:
    """Writes a chat for a model that has no chat template: `User: ...`, a line each, and an open `Assistant:`."""
    return "".join(f"{m['role'].capitalize()}: {m['content']}\n" for m in messages) + "Assistant: "


def as_template_text(tokenizer: PreTrainedTokenizerBase, messages: str, answer: str) -> tuple[str, str]:
    """Writes a prompt and its completion with the tokenizer's chat template.

    Args:
        tokenizer: one with a chat template.
        messages: the messages before the answer, as JSON.
        answer: the assistant's answer.

    Returns:
        The prompt, without the begin-of-text token if the tokenizer adds that by itself, and the completion: the answer
        with whatever the template writes after it, without the end-of-text token, which training always adds.

    Raises:
        DataError: if the template does not write the prompt as the beginning of the whole chat.
    """
    turns = json.loads(messages)
    prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template([*turns, {"role": "assistant", "content": answer}], tokenize=False)
    assert isinstance(prompt, str)
    assert isinstance(whole, str)
    if not whole.startswith(prompt):
        raise DataError(
            "the chat template of this tokenizer rewrites earlier turns when an answer follows, so the completion "
            "cannot be told from the prompt; pass a template such as 'User: {question}\\nAssistant: {answer}'"
        )
    completion = whole[len(prompt) :].rstrip()
    eos, bos = str(tokenizer.eos_token or ""), str(tokenizer.bos_token or "")
    if eos:
        completion = completion.removesuffix(eos)
    if bos and prompt.startswith(bos) and tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id:  # pyright: ignore
        prompt = prompt.removeprefix(bos)
    return prompt, completion
