"""The program as its tests see it: behind two pipes, in plain values and objects that stay where they are.

What comes back is decoded into plain values here, so that no object of the program compares itself: equality is
Python's own.
"""

from __future__ import annotations

import builtins
import json
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from . import values
from .failing import SAID

LONGEST = 16 << 20
"""Characters of one answer."""
SHOWN = 200
OUTERMOST = {"object", "BaseException", "StopIteration", "SystemExit", "KeyboardInterrupt", "GeneratorExit"}
"""Classes of errors that would end the tests rather than one of them."""


class Ended(BaseException):
    """The program has ended, or says what is no answer: no error that tests may catch."""


class Broken(Exception):
    """The program could not be loaded."""


class Program:
    """The program behind two pipes."""

    def __init__(self) -> None:
        self.answers = os.fdopen(os.dup(0), encoding="utf-8")
        self.questions = os.fdopen(os.dup(1), "w", encoding="utf-8")
        self.objects: dict[int, Kept] = {}
        self.ended = ""
        """Why it answers no more; empty while it does."""
        self.last = ""
        """The call that was asked last, and what it gave, in words."""

    def begun(self) -> list[str]:
        """The names that it defines. Broken where it could not be loaded."""
        told = self.read()
        if isinstance(told.get("broken"), dict):
            raise Broken(in_words(told["broken"]))
        names = told.get("names")
        if not isinstance(names, list) or not all(isinstance(one, str) for one in names):
            raise self.over("it says what is no answer")
        return names

    def ask(self, of: int, do: str, name: str = "", arguments: Sequence[Any] = (), **named: Any) -> Any:
        """What the program gives to a question; arguments that it has changed are changed here too."""
        told = self.exchanged({
            "of": of, "do": do, "name": name, "arguments": values.encoded(list(arguments), number_of),
            "named": values.encoded(named, number_of),
        })  # fmt: skip
        if isinstance(told.get("raised"), dict):
            raise error_of(told["raised"])
        if told.get("over") is True and do == "next":  # of a call it would end the tests' own loops
            raise StopIteration
        if isinstance(told.get("error"), list):
            return error_class([str(one) for one in told["error"]])
        if "value" not in told:
            raise self.over("it says what is no answer")
        try:
            value = values.decoded(told["value"], self.kept_as)
            changed = [values.decoded(one, self.kept_as) for one in told.get("changed", ())]
        except (ValueError, TypeError, RecursionError, OverflowError, ArithmeticError) as error:
            raise self.over(f"its answer cannot be read: {error}") from None
        for one, now in zip(arguments, changed, strict=False):
            change(one, now)
        return value

    def exchanged(self, question: dict[str, Any]) -> dict[str, Any]:
        if self.ended:
            raise Ended(self.ended)
        try:
            self.questions.write(json.dumps(question) + "\n")
            self.questions.flush()
        except BrokenPipeError:
            raise self.over("it has ended") from None
        return self.read()

    def over(self, why: str) -> Ended:
        """From here on it answers nothing, whatever tests make of that."""
        self.ended = why
        return Ended(why)

    def kept_as(self, number: int, kind: str) -> Kept:
        """The same object here for the same one there."""
        return self.objects.setdefault(number, Kept(self, number, kind))

    def read(self) -> dict[str, Any]:
        try:
            line = self.answers.readline(LONGEST)
            told = json.loads(line) if line else None
        except (ValueError, RecursionError):
            raise self.over("it says what is no answer") from None
        if told is None:
            raise self.over("it has ended")
        if not isinstance(told, dict):
            raise self.over("it says what is no answer")
        return told


class Kept:
    """What stays in the program's process: a function to call, an object whose attributes may be read and set.

    Operators are a class's own only for objects that the tests made of a class which they name as one (``Stack()``),
    and even then not where the program would compare itself with a value of the tests: such an object equals, and is
    less than, others of its kind alone, and of its sum with a plain value an object comes out, no value. What is in it
    is what it gives one by one.
    """

    def __init__(self, program: Program, number: int, kind: str) -> None:
        self.__dict__.update(_program=program, _number=number, _kind=kind, _name=kind, _made=False)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        found = self._program.ask(self._number, "get", name)
        if isinstance(found, Kept):
            found.__dict__["_name"] = name
        return found

    def __setattr__(self, name: str, value: Any) -> None:
        self._program.ask(self._number, "set", name, [value])

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        said = [shown(one) for one in arguments] + [f"{key}={shown(one)}" for key, one in named.items()]
        self._program.last = f"{self._name}({', '.join(said)})"
        value = self._program.ask(self._number, "call", "", arguments, **named)
        self._program.last += f" gave {shown(value)}"
        if isinstance(value, Kept) and self._kind == "type" and self._name[:1].isupper():
            value.__dict__["_made"] = True
        return value

    def __iter__(self) -> Iterator[Any]:
        return self._program.ask(self._number, "iterate")  # type: ignore[no-any-return]

    def __next__(self) -> Any:
        return self._program.ask(self._number, "next")

    def __eq__(self, other: object) -> bool:
        if self is other or not isinstance(other, Kept):
            return self is other
        return (self._made or other._made) and bool(self._program.ask(self._number, "operate", "eq", [other]))

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return str(self._program.ask(self._number, "text", "repr")) if self._made else f"<{self._kind}>"

    def __str__(self) -> str:
        return str(self._program.ask(self._number, "text", "str")) if self._made else f"<{self._kind}>"

    def __bool__(self) -> bool:
        return bool(self._program.ask(self._number, "operate", "truth")) if self._made else True

    def __len__(self) -> int:
        return int(operated("length")(self))


def operated(name: str) -> Callable[..., Any]:
    """An operator of objects that the tests made; TypeError of others, as of any object without it."""

    def operate(self: Kept, *others: Any) -> Any:
        with_value = name in BINARY and not isinstance(others[0], Kept)
        if not self._made or (with_value and name in ORDER):
            raise TypeError(f"tests cannot use {name} of a {self._kind} that the program gave")
        found = self._program.ask(self._number, "operate", name, others)
        if with_value and not isinstance(found, Kept):
            raise TypeError(f"{name} of a {self._kind} of the program and a plain value gives a plain value")
        if isinstance(found, Kept) and name in BINARY:
            found.__dict__["_made"] = True
        return found

    return operate


ORDER = ("lt", "le", "gt", "ge")
BINARY = (*ORDER, "add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and_", "or_", "xor", "matmul")
for _name in (*BINARY, "neg", "getitem", "setitem", "delitem"):
    setattr(Kept, f"__{_name.strip('_')}__", operated(_name))


def number_of(value: object) -> int:
    if isinstance(value, Kept):
        return int(value._number)
    raise TypeError(f"tests cannot hand a {type(value).__name__} to a program")


def change(one: Any, now: Any) -> None:
    """Have a list, dict or set hold what another of its kind holds."""
    if type(one) is not type(now):
        return
    if isinstance(one, list):
        one[:] = now
    elif isinstance(one, dict | set):
        one.clear()
        one.update(now)


_classes: dict[str, type[BaseException]] = {}


def error_class(names: Sequence[str]) -> type[BaseException]:
    """A class of errors by its name and those of the classes above it: Python's own, or one made here below the first
    of these that is."""
    own = names[0] if names else "RuntimeError"
    found = getattr(builtins, own, None)
    if isinstance(found, type) and issubclass(found, Exception) and found is not StopIteration:
        return found
    if own not in _classes:
        above = error_class(names[1:]) if len(names) > 1 else RuntimeError
        _classes[own] = type(own if own.isidentifier() else "Error", (above,), {})
    return _classes[own]


def error_of(told: dict[str, Any]) -> BaseException:
    """What the program raised, of Python's own class where there is one."""
    kinds = told.get("kinds")
    kind: Callable[[str], BaseException] = error_class(
        [str(one) for one in kinds if one not in OUTERMOST] if isinstance(kinds, list) else []
    )
    given = told.get("argument")
    try:
        error = kind(given if isinstance(given, str) else str(told.get("message")))
    except Exception:  # one that wants other arguments
        error = RuntimeError(str(told.get("message")))
    error.__dict__["told"] = in_words(told)
    return error


def in_words(told: dict[str, Any]) -> str:
    kind, message, where = (str(told.get(name, ""))[:SAID] for name in ("kind", "message", "where"))
    return f"{kind}{': ' if message else ''}{message}{f' ({where})' if where else ''}"


def shown(value: object) -> str:
    try:
        text = repr(value)
    except Exception:
        return "…"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
