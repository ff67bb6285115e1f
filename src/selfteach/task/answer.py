"""Where in a model's text the final answer stands, and how it is asked for."""

from __future__ import annotations

import re
from typing import Literal, get_args

AnswerFormat = Literal["line", "boxed", "tags", "number", "text"]

INSTRUCTION: dict[AnswerFormat, str] = {
    "line": "End with a line that says 'Answer: ' and then the result alone.",
    "boxed": "Reason step by step and put the final answer inside \\boxed{}.",
    "tags": "Give the final answer between <answer> and </answer>.",
    "number": "Give the final answer as a number.",
    "text": "Reply with the answer alone.",
}

_LINE = re.compile(r"(?:^|\s)Answer:[^\S\n]*(\S[^\n]*)")
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_BRACES = re.compile(r"\\boxed\s*\{|\\.|[{}]", re.DOTALL)


def extract_answer(text: str, answer_format: AnswerFormat) -> str | None:
    """The last final answer in ``text``, stripped; None if there is none in this format.

    ``line``: what follows ``Answer:`` up to the line's end · ``boxed``: the content of the last closed
    ``\\boxed{…}`` · ``tags``: the content of the last ``<answer>…</answer>`` · ``number``: the last
    number written, without thousands separators (lenient, for models that keep no format) · ``text``: all of it.
    Linear in the length of the text, whatever it holds.
    """
    if answer_format == "line":
        found = _last_line(text)
    elif answer_format == "boxed":
        found = last_boxed(text)
    elif answer_format == "tags":
        found = _last_tagged(text)
    elif answer_format == "number":
        found = _last_number(text)
    elif answer_format == "text":
        found = text
    else:
        known = ", ".join(get_args(AnswerFormat))
        raise ValueError(f"answer_format must be one of {known}, not {answer_format!r}")
    return (found.strip() or None) if found is not None else None


def write_answer(answer: str, answer_format: AnswerFormat) -> str:
    """``answer`` in the given format: what ``extract_answer`` would read it from."""
    return {
        "line": f"Answer: {answer}",
        "boxed": f"\\boxed{{{answer}}}",
        "tags": f"<answer>{answer}</answer>",
        "number": answer,
        "text": answer,
    }[answer_format]


def last_boxed(text: str) -> str | None:
    """The content of the last ``\\boxed{…}`` whose braces close, the innermost if nested; None without one."""
    opened: list[int | None] = []
    best: tuple[int, int] | None = None
    for match in _BRACES.finditer(text):
        token = match.group()
        if token.startswith("\\boxed"):
            opened.append(match.end())
        elif token == "{":
            opened.append(None)
        elif token == "}" and opened:
            start = opened.pop()
            if start is not None and (best is None or start > best[0]):
                best = (start, match.start())
    return None if best is None else text[best[0] : best[1]]


def _last_line(text: str) -> str | None:
    found = _LINE.findall(text)
    return found[-1] if found else None


def _last_number(text: str) -> str | None:
    found = _NUMBER.findall(text)
    return found[-1].replace(",", "") if found else None


def _last_tagged(text: str) -> str | None:
    end = text.rfind("</answer>")
    start = text.rfind("<answer>", 0, end) if end >= 0 else -1
    return None if start < 0 else text[start + len("<answer>") : end]
