"""Exact match as the literature of open-domain question answering has it (SQuAD, arXiv 1606.05250)."""

from __future__ import annotations

import json
import re
import string

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalized(text: str) -> str:
    """In lower case, without ASCII punctuation and the articles a, an, the, words apart by one blank."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_WITHOUT_PUNCTUATION)).split())


def references_of(answer: str) -> list[str]:
    """The answers that count as right: those of a JSON list of texts, or the text itself; blank ones do not count."""
    try:
        listed = json.loads(answer)
    except (ValueError, RecursionError):
        listed = None
    several = isinstance(listed, list) and all(isinstance(one, str) for one in listed)
    return [one for one in (listed if several else [answer]) if one.strip()]


def exact_match(claim: str, answer: str) -> bool:
    """Whether a claim is one of the right answers once both are normalized; of an answer that consists of articles and
    punctuation ("The The"), whether it is the same in any case."""
    given, lower = normalized(claim), claim.lower().strip()
    return any(
        given == normalized(one) if normalized(one) else lower == one.lower().strip()
        for one in references_of(answer)
    )
