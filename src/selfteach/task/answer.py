"""Where in a model's text the final answer stands, and how it is asked for."""

from __future__ import annotations

import re
from collections import deque
from typing import Literal, get_args

from selfteach.task.code_block import fenced, program_in

AnswerFormat = Literal["line", "boxed", "tags", "hashes", "number", "code", "text"]

INSTRUCTION: dict[AnswerFormat, str] = {
    "line": "End with a line that says 'Answer: ' and then the result alone.",
    "boxed": "Reason step by step and put the final answer inside \\boxed{}.",
    "tags": "Give the final answer between <answer> and </answer>.",
    "hashes": "End with a line that says '#### ' and then the result alone.",
    "number": "Give the final answer as a number.",
    "code": "Put the whole Python program into one block that begins with ```python.",
    "text": "Reply with the answer alone.",
}

_CLOSED = r"(?:\*{1,3}|_{1,3}|</b>|</strong>)"
_LINE = re.compile(
    rf"(?<![^\W_])answer(?P<closed>{_CLOSED})?[^\S\n]*[:：](?P<closed2>{_CLOSED}(?=[^\S\n]))?[^\S\n]*"
    r"(?P<value>\S[^\n]*)",
    re.IGNORECASE,
)
_HASHES = re.compile(r"(?<!#)####(?!#)[^\S\n]*(\S[^\n]*)")
_SIGN = "-−–"
_NUMBER = re.compile(
    rf"(?:(?<![\w)\]}}])[{_SIGN}]|(?<=[=(\s])[{_SIGN}])?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d+\b|/\d+(?![\d/.]))?"
)
_BRACES = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_SENTENCE_END = re.compile(r"([-+$]?[\d,]*\d(?:\.\d+)?%?)\.")


THOUGHT_ENDS = "</think>"


def extract_answer(text: str, answer_format: AnswerFormat) -> str | None:
    """The last final answer in ``text``, stripped; None if there is none in this format.

    ``line``: what follows ``Answer:`` up to the line's end, without bold, dollars or a box around it · ``boxed``: the
    content of the last closed ``\\boxed{…}`` · ``tags``: the content of the last ``<answer>…</answer>`` · ``hashes``:
    what follows the last ``####`` on its line, as GSM8K has it · ``number``: the last number written, with its sign,
    without thousands separators (lenient, for models that keep no format) · ``code``: the last block of Python, with
    its indents (``program_in``) · ``text``: all of it.
    A thought that was closed (``</think>``) is no answer: what stands behind the last one is looked at. Linear in the
    length of the text, whatever it holds.
    """
    text = text.rpartition(THOUGHT_ENDS)[2]
    if answer_format == "line":
        found = _last_line(text)
    elif answer_format == "boxed":
        found = last_boxed(text)
    elif answer_format == "tags":
        found = _last_tagged(text)
    elif answer_format == "hashes":
        found = last_hashes(text)
    elif answer_format == "number":
        found = _last_number(text)
    elif answer_format == "code":
        return program_in(text)
    elif answer_format == "text":
        found = text
    else:
        known = ", ".join(get_args(AnswerFormat))
        raise ValueError(f"answer_format must be one of {known}, not {answer_format!r}")
    return (found.strip() or None) if found is not None else None


_ASKING: tuple[tuple[AnswerFormat, re.Pattern[str]], ...] = (
    ("boxed", re.compile(r"\\boxed")),
    ("hashes", re.compile(r"####")),
    ("tags", re.compile(r"<answer>")),
    (
        "line",
        re.compile(
            r"(?:form|format|with|line|say|write)[^\n]{0,40}?[\"'“`]?Answer: ?[$<\[{]?\w*", re.IGNORECASE
        ),
    ),
)


def asked_format(problem: str) -> AnswerFormat | None:
    """The form in which a problem's own text asks for the final answer; None if it does not."""
    end = problem[-1000:], problem[:1000]
    return next((form for form, said in _ASKING if any(said.search(part) for part in end)), None)


def write_answer(answer: str, answer_format: AnswerFormat) -> str:
    """``answer`` in the given format: what ``extract_answer`` would read it from."""
    return {
        "line": f"Answer: {answer}",
        "boxed": f"\\boxed{{{answer}}}",
        "tags": f"<answer>{answer}</answer>",
        "hashes": f"#### {answer}",
        "number": answer,
        "code": fenced(answer),
        "text": answer,
    }[answer_format]


def last_boxed(text: str) -> str | None:
    """The content of the last ``\\boxed{…}`` whose braces close, the innermost if nested; None without one."""
    opened: list[int | None] = []
    best: tuple[int, int] | None = None
    for match in _BRACES.finditer(text):
        token = match.group()
        if token.startswith(("\\boxed", "\\fbox")):
            opened.append(match.end())
        elif token == "{":
            opened.append(None)
        elif token == "}" and opened:
            start = opened.pop()
            if start is not None and (best is None or start > best[0]):
                best = (start, match.start())
    return None if best is None else text[best[0] : best[1]]


def last_hashes(text: str) -> str | None:
    """What stands behind the last ``####`` on its line; None without one, or with nothing behind it."""
    last = _last_match(_HASHES, text)
    return None if last is None else last.group(1).strip()


def _last_match(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    found = deque(pattern.finditer(text), maxlen=1)
    return found[0] if found else None


def _last_line(text: str) -> str | None:
    last = _last_match(_LINE, text)
    if last is None:
        return None
    value = last["value"].strip()
    if not (last["closed"] or last["closed2"]):
        before = text[text.rfind("\n", 0, last.start()) + 1 : last.start()]
        value = _unopened(value, before)
    return _bare(value)


def _unopened(value: str, before: str) -> str:
    """Without the end of what became bold or italic before ``Answer:``, on its line."""
    for mark in ("**", "__", "*", "_"):
        if before.count(mark) % 2 and value.count(mark) == 1:
            return value.removeprefix(mark).removesuffix(mark).strip()
    return value


def _bare(value: str) -> str:
    """The answer that a line ends in, without the Markdown and LaTeX that frames it."""
    boxed = last_boxed(value)
    if boxed is not None and _BOX_ALONE.match(value) and value.rstrip(" $.*").endswith("}"):
        return boxed
    for frame in ("**", "__", "`", "$$", "$"):
        framed = value.removesuffix(".")
        inner = framed[len(frame) : -len(frame)]
        if inner.strip() and framed.startswith(frame) and framed.endswith(frame) and frame not in inner:
            value = inner.strip()
    sentence = _SENTENCE_END.fullmatch(value)
    return sentence.group(1) if sentence else value


_BOX_ALONE = re.compile(r"[\s$*]*\\(?:boxed|fbox)\b")


def _last_number(text: str) -> str | None:
    found = _NUMBER.findall(text)
    return found[-1].replace(",", "").translate({ord(one): "-" for one in _SIGN}) if found else None


def _last_tagged(text: str) -> str | None:
    end = text.rfind("</answer>")
    start = text.rfind("<answer>", 0, end) if end >= 0 else -1
    return None if start < 0 else text[start + len("<answer>") : end]
