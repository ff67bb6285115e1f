"""Whether the words of a conversation are in what a chat template made of it."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from selfteach.policy.tool_messages import told_words
from selfteach.task.example import Message

if TYPE_CHECKING:
    from selfteach.policy.renderer import Renderer

QUOTED = 60
"""Characters of a message that an error quotes."""


def left_out(messages: Sequence[Message], shown: str, renderer: Renderer) -> list[Message]:
    """Messages whose content is not in the text ``shown``, each place counted once: a sentence that two say must be
    there twice. White space, case and escapes are the template's affair, and thoughts of earlier turns too. Of tools,
    and of calls in control tokens, the names count."""
    left, lost = squeezed(shown), []
    wanted = [
        (one, Message(role=one["role"], content=words)) for one in messages for words in told_words(one)
    ]
    for message, said in sorted(wanted, key=lambda one: -len(one[1]["content"])):
        found = next((one for one in spellings(said, renderer) if one in left), None)
        if found is None:
            lost.append(message)
        elif found:
            left = left.replace(found, "\n", 1)
    return lost


def spellings(message: Message, renderer: Renderer) -> Iterator[str]:
    content = message["content"]
    if message["role"] == "assistant":
        content = content.rpartition("</think>")[2]
    for text in (
        content,
        json.dumps(content)[1:-1],
        json.dumps(content, ensure_ascii=False)[1:-1],
        html.escape(content),
    ):
        yield squeezed(renderer.show(renderer.tokenizer.encode(text, add_special_tokens=False)))


def squeezed(text: str) -> str:
    return "".join(text.casefold().split())


def quoted(message: Message) -> str:
    """The beginning of what it says, in quotes."""
    said = message["content"].strip()
    return repr(said if len(said) <= QUOTED else f"{said[:QUOTED]}…")
