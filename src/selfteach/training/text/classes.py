"""Token classes: which kind of token carries the divergence (OPSD: style tokens dominate it)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from jaxtyping import Int
from torch import Tensor

from selfteach.errors import UserError
from selfteach.outside import read_json
from selfteach.policy.renderer import Renderer
from selfteach.task.patterns import first_found, search

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
    texts = chat.tokenizer.batch_decode([[i] for i in range(width)], clean_up_tokenization_spaces=False)
    search_in = search if patterns is CLASSES else partial(first_found, "token_classes")
    found = search_in(list(patterns.values()), texts)
    special = set(chat.tokenizer.all_special_ids)
    classes = [len(patterns) if i in special else k for i, k in enumerate(found)]
    return [*patterns, OTHER], torch.tensor(classes)


def read_classes(path: str | None) -> Mapping[str, str]:
    """Class patterns from a JSON file of name → regular expression (None: the built-in ones)."""
    if path is None:
        return CLASSES
    advice = "give a JSON object of class name → regular expression"
    patterns = read_json(path, f"token_classes {path}", advice)
    plain = isinstance(patterns, dict) and all(isinstance(one, str) for one in patterns.values())
    if not plain or OTHER in patterns:
        raise UserError(f"token_classes {path} is no such table, or names a class {OTHER!r}: {advice}")
    first_found(f"token_classes {path}", list(patterns.values()), [])
    return dict(patterns)
