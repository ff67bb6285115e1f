"""How a command line names settings: words to settings and back, before anything is parsed. Any floor may use it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from selfteach.errors import UserError


def option(name: str) -> str:
    """A setting as the command line spells it: lora_rank → --lora-rank."""
    return f"--{name.replace('_', '-')}"


def name_of(word: str) -> str | None:
    """The setting that a word names, as Python spells it: alarms for ``--alarms``, ``--no-alarms``, ``--alarms=True``
    and ``--bookkeeping.alarms``; None of a word that is no option."""
    name = _spelled(word)
    return None if name is None else name.removeprefix("no_")


def given_names(words: Sequence[str]) -> set[str]:
    """The settings that the words name; one that is switched off is given too."""
    return {name for name in map(name_of, words) if name is not None}


def taken(words: Sequence[str], name: str) -> tuple[list[str], str | None]:
    """(the words without a setting that takes one value, its value, the last if it is given twice; None: it is not
    given). UserError where a value is missing."""
    rest, value = list[str](), None
    left = iter(words)
    for word in left:
        if _spelled(word) != name:
            rest.append(word)
        elif "=" in word:
            value = word.partition("=")[2]
        elif (value := next(left, "--")).startswith("--"):
            raise UserError(f"{option(name)} needs a value")
    return rest, value


def value_of(words: Sequence[str], name: str) -> str | None:
    """The value that the words give a setting, as ``taken`` finds it."""
    return taken(words, name)[1]


def gathered(words: Sequence[str], name: str) -> list[str]:
    """The words with a setting that is repeated (``--task a --task b``) as one that takes several values."""
    rest: list[str] = []
    values: list[str] = []
    taking = False
    for word in words:
        if _spelled(word) == name:
            taking = "=" not in word
            values += [] if taking else [word.partition("=")[2]]
        elif taking and not word.startswith("--"):
            values.append(word)
        else:
            taking = False
            rest.append(word)
    return [*rest, option(name), *values] if values else rest


def _spelled(word: str) -> str | None:
    if not word.startswith("--") or word == "--":
        return None
    return word[2:].partition("=")[0].rpartition(".")[2].replace("-", "_")


def given_values(words: Sequence[str]) -> dict[str, str]:
    """Setting, as Python spells it → the word that it is given last, before anything is parsed."""
    found = dict[str, str]()
    for word, after in itertools.pairwise([*words, ""]):
        if (name := name_of(word)) is not None:
            _, equals, value = word.partition("=")
            found[name] = value if equals else after
    return found
