"""Cells that hold a conversation: a list of messages of role and content, or of from and value, or a transcript."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from selfteach.task.example import Message

ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant", "developer": "system"}

SPEAKER = re.compile(r"\n\n(Human|Assistant):")
SPEAKERS = {"Human": "user", "Assistant": "assistant"}


def transcribed(text: str) -> list[Message] | None:
    """The turns of a transcript as Anthropic's HH data have them, "\\n\\nHuman: … \\n\\nAssistant: …"; None for another
    text."""
    before, *found = SPEAKER.split(text)
    if before.strip() or not found:
        return None
    return [
        {"role": SPEAKERS[who], "content": said.strip()}
        for who, said in zip(found[::2], found[1::2], strict=True)
    ]


def messages_of(value: Any) -> list[Message] | None:
    """The messages that a cell holds; None if it is no list of them.

    Raises ValueError, with what is wrong, for a message without text (a picture, a call of a tool).
    """
    if hasattr(value, "tolist"):  # NumPy's, as pandas reads Parquet
        value = value.tolist()
    if isinstance(value, str):
        return transcribed(value)
    if not isinstance(value, Sequence) or isinstance(value, bytes) or not value:
        return None
    if not all(isinstance(one, Mapping) and _role(one) is not None for one in value):
        return None
    return [{"role": str(_role(one)), "content": _content(one, i)} for i, one in enumerate(value, start=1)]


def asked(messages: Sequence[Message]) -> tuple[tuple[Message, ...], str] | None:
    """(what comes before, the last user message); a reply behind it is left out. None if no user says anything."""
    last = max((i for i, one in enumerate(messages) if one["role"] == "user"), default=None)
    return None if last is None else (tuple(messages[:last]), messages[last]["content"])


def replied(messages: Sequence[Message]) -> str | None:
    """The assistant's last message, if the conversation ends in it."""
    return messages[-1]["content"] if messages[-1]["role"] == "assistant" else None


def _role(message: Mapping[str, Any]) -> str | None:
    found = message.get("role", message.get("from"))
    return ROLES.get(found, found) if isinstance(found, str) else None


def _content(message: Mapping[str, Any], number: int) -> str:
    found = message.get("content", message.get("value"))
    if hasattr(found, "tolist"):
        found = found.tolist()
    if isinstance(found, list):
        parts = [one.get("text") if isinstance(one, Mapping) else one for one in found]
        texts = [one for one in parts if isinstance(one, str)]
        found = "".join(texts) if len(texts) == len(parts) else None
    if not isinstance(found, str):
        raise ValueError(f"message {number} has no text")
    return found
