"""A program's side of its tests: load it, then answer what is asked of it, a line of JSON for a line of JSON."""

from __future__ import annotations

import json
import os
import sys
from types import ModuleType
from typing import Any

from . import values
from .failing import described, loaded

NOTHING = object()


def serve(source: str, starter: str) -> None:
    """Answer calls over the standard input and output, which the program itself never sees."""
    asked, answers = os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    nowhere = os.open("/dev/null", os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)

    def say(told: dict[str, Any]) -> None:
        answers.write(json.dumps(told) + "\n")
        answers.flush()

    module = ModuleType("solution")
    sys.modules["solution"] = module
    try:
        loaded(source, module, starter)
    except BaseException as error:
        say({"broken": described(error)})
        return
    say({"names": [name for name in vars(module) if not name.startswith("__")]})
    side = Side(module)
    for line in asked:
        try:
            say(side.answer(json.loads(line)))
        except BaseException as error:
            say({"raised": described(error)})


class Side:
    """What of the program its tests hold, by number: 0 is the program itself."""

    def __init__(self, module: ModuleType) -> None:
        self.kept: list[Any] = [module]

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        one = self.kept[question["of"]]
        if "get" in question:
            return self.told(getattr(one, question["get"]))
        if "next" in question:
            item = next(one if question["next"] else iter(one), NOTHING)
            return {"over": True} if item is NOTHING else self.told(item)
        arguments = values.decoded(question["arguments"], self.held)
        named = values.decoded(question["named"], self.held)
        return self.told(one(*arguments, **named))

    def told(self, value: Any) -> dict[str, Any]:
        return {"value": values.encoded(value, self.keep)}

    def keep(self, value: object) -> int:
        for number, one in enumerate(self.kept):
            if one is value:
                return number
        self.kept.append(value)
        return len(self.kept) - 1

    def held(self, number: int, kind: str) -> Any:
        return self.kept[number]
