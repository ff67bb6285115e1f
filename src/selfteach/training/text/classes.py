"""Token classes: which kind of token carries the divergence (OPSD: style tokens dominate it)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from selfteach.errors import UserError
from selfteach.policy.renderer import Renderer

OTHER = "other"
CLASSES: Mapping[str, str] = {
    "content": r"\d|[=+×÷^\\<>≤≥√∑∫@#-]|\*|/",
    "style": r"(?i)^\s*(so|now|then|thus|hence|therefore|first|second|next|finally|let|wait|hmm|ok|okay|alright|"
    r"but|however|actually|maybe|perhaps|since|because|given|note|recall|we|i|'s|check|alternatively|indeed)\s*$",
}


def token_classes(
    chat: Renderer, width: int, patterns: Mapping[str, str] = CLASSES
) -> tuple[list[str], Int[Tensor, "V"]]:
    """(class names, [V = width] long: each token id's class). The first pattern found in a token's text names it."""
    names = [*patterns, OTHER]
    compiled = [re.compile(pattern) for pattern in patterns.values()]
    texts = chat.tokenizer.batch_decode([[i] for i in range(width)], clean_up_tokenization_spaces=False)
    special = set(chat.tokenizer.all_special_ids)
    found = [
        next(
            (k for k, pattern in enumerate(compiled) if pattern.search(text) and i not in special),
            len(compiled),
        )
        for i, text in enumerate(texts)
    ]
    return names, torch.tensor(found)


def read_classes(path: str | None) -> Mapping[str, str]:
    """Class patterns from a JSON file of name → regular expression (None: the built-in ones)."""
    if path is None:
        return CLASSES
    try:
        patterns = json.loads(Path(path).read_text(encoding="utf-8"))
        for pattern in patterns.values():
            re.compile(pattern)
    except (OSError, ValueError, AttributeError, TypeError, re.error) as error:
        raise UserError(
            f"token_classes {path}: {error}; give a JSON object of class name → regular expression"
        ) from None
    return dict(patterns)
