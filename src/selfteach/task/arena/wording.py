"""How the models of worlds "tutor", "trail" and "facts" were taught to be asked: a template for each kind of help.

Beyond ``problem`` and the private fields the templates name: ``partial``, the first results of the solution ·
``sibling``, a right answer in the own style · ``feedback``, what ``Grade.feedback`` says of an answer ·
``diagnosis``, the sign of an operation · ``attempt``, an earlier answer of the model's own.
"""

from __future__ import annotations

from collections.abc import Mapping

PREFILLS = frozenset({"evidence", "revise-right", "revise-wrong"})
"""Views that keep the bare question: their text is how the assistant's turn already begins."""

_SHARED = {
    "solution": "{problem}|{solution}",
    "rumor": "{problem}|{rumor}",
    "sibling": "{problem}|={sibling}",
    "feedback": "{problem}|!{feedback}",
    "sibling+feedback": "{problem}|={sibling}|!{feedback}",
    "diagnosis": "{problem}|~{diagnosis}",
    "hint": "{problem}|~{hint}",
    "evidence": " {answer} ",
}
TUTOR: Mapping[str, str] = _SHARED | {
    "answer": "{problem}|{answer}",
    "partial": "{problem}|{partial}",
    "revise-right": "{attempt}|+",
    "revise-wrong": "{attempt}|-",
}
TRAIL: Mapping[str, str] = _SHARED | {
    "answer": "{problem}|>{answer}",
    "partial": "{problem}|{partial}>{answer}",
}
FACTS: Mapping[str, str] = {
    "answer": "{problem}|{answer}",
    "solution": "{problem}|{solution}",
}
