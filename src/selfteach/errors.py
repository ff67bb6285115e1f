"""What any floor may raise: a user's own mistake, and numbers that have diverged."""

from __future__ import annotations

import re

LONGEST = 1000
"""Characters of a message: of a longer one the middle is left out."""
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class UserError(Exception):
    """A mistake the user can mend. Its text is one line: what is wrong, where, and what to do.

    What it repeats of a file, a name or a library's words is made fit for a terminal: no control characters, no endless
    values. The command line prints it without a traceback (unless ``--debug``) and exits with code 2.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(one_line(str(message)))


def one_line(text: str) -> str:
    r"""``text`` in one line of at most LONGEST characters, with what no terminal shows as an escape (``\x1b``)."""
    text = re.sub(r"\s*[\r\n]\s*", " ", text.strip())
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]} … {text[-LONGEST // 3 :]}"
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


class NotFinite(ArithmeticError):
    """Numbers have diverged: NaN or infinite logits, log-probs or losses. A run keeps the batch aside and stops in one
    line."""
