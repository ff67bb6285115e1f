"""A program's side of its tests: load it, then answer what is asked of it, a line of JSON for a line of JSON."""

from __future__ import annotations

import json
import operator
import os
import sys
from types import ModuleType
from typing import Any

from . import values
from .failing import described, loaded

NOTHING = object()
OPERATORS: dict[str, Any] = {**vars(operator), "length": len}


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
        self.numbers = {id(module): 0}

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        one = self.kept[question["of"]]
        match question["do"]:
            case "get":
                return self.got(getattr(one, question["name"]))
            case "set":
                setattr(one, question["name"], self.values(question["arguments"])[0])
                return {"value": None}
            case "iterate":
                return self.told(iter(one))
            case "next":
                item = next(one, NOTHING)
                return {"over": True} if item is NOTHING else self.told(item)
            case "operate":
                return self.told(OPERATORS[question["name"]](one, *self.values(question["arguments"])))
            case "text":
                return self.told(repr(one) if question["name"] == "repr" else str(one))
        arguments, named = self.values(question["arguments"]), values.decoded(question["named"], self.held)
        value = one(*arguments, **named)
        return {**self.told(value), "changed": [self.told(each)["value"] for each in arguments]}

    def values(self, told: Any) -> list[Any]:
        found: list[Any] = values.decoded(told, self.held)
        return found

    def got(self, value: Any) -> dict[str, Any]:
        """An attribute; of a class of errors what tests need to catch it."""
        if isinstance(value, type) and issubclass(value, BaseException):
            return {"error": [one.__name__ for one in value.__mro__], **self.told(value)}
        return self.told(value)

    def told(self, value: Any) -> dict[str, Any]:
        return {"value": values.encoded(value, self.keep)}

    def keep(self, value: object) -> int:
        """The same number for the same object, which is held from here on."""
        if id(value) not in self.numbers:
            self.numbers[id(value)] = len(self.kept)
            self.kept.append(value)
        return self.numbers[id(value)]

    def held(self, number: int, kind: str) -> Any:
        return self.kept[number]
