"""Calls of tools, each under limits: in a worker process that can be killed, or here where the user says so.

However a call ends, its answer is a text of bounded length: a tool that hangs, raises, exits, crashes, eats the memory
or answers a megabyte is an ``Answer`` that says so. What is printed in the worker is dropped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic_core import to_json

from selfteach.errors import UserError
from selfteach.importing import load_object
from selfteach.task.address_space import limited, used
from selfteach.task.timed import START_SECONDS, TimedWorker
from selfteach.task.tool import Tool, ToolError
from selfteach.wording import shortened

MOST_STATE = 1_000_000
"""Characters of an episode's state as JSON."""
SAID = 300
"""Characters of what a tool raised that are shown."""


@dataclass(frozen=True)
class Limits:
    """Of one call: ``seconds``; ``memory``, the bytes that it may add to its process's (Linux); ``characters`` of its
    answer, beyond which the middle is left out."""

    seconds: float = 5.0
    memory: int = 512 << 20
    characters: int = 2000

    def __post_init__(self) -> None:
        if not 0 < self.seconds < float("inf") or self.memory < 1 << 20 or self.characters < 100:
            raise UserError(
                f"limits of a tool's call must be positive seconds, memory of 1 MiB ({1 << 20}) at least and 100 "
                f"characters at least, not {self.seconds}, {self.memory} and {self.characters}"
            )


@dataclass(frozen=True)
class Answer:
    """What a call gave: its ``text``, whether that is an error's, and the episode's state afterwards."""

    text: str
    state: Any
    failed: bool = False


_inside = False
"""Whether this is the worker process."""


@cache
def worker() -> TimedWorker:
    if _inside:  # it would start one more, without end
        raise RuntimeError(
            "the tools' file makes an environment while it is loaded; make it within a function"
        )
    return TimedWorker(warm_up)


def answer_of(tool: Tool, arguments: Mapping[str, Any], state: Any, limits: Limits) -> Answer:
    """The tool's answer. UserError where the tool itself is at fault: it cannot be loaded, or gives no new state."""
    if tool.reference is None:
        told = invoked(tool, dict(arguments), state, limits.characters)
    else:
        told = isolated(tool.reference, tool.stateful, dict(arguments), state, limits)
    if "fault" in told:
        raise UserError(f"tool {tool.name}: {told['fault']}")
    if "error" in told:
        text = cut(f"error: {told['error'] or f'{tool.name} ran out of memory'}", limits.characters)
        return Answer(text, state, failed=True)
    return Answer(told["text"], told["state"])


def require_loadable(tool: Tool) -> None:
    """UserError if the worker process cannot load the tool. One that it has loaded is remembered there."""
    if tool.reference is None:
        return
    try:
        outcome = worker().call(load, tool.reference, tool.stateful, seconds=START_SECONDS)
    except RuntimeError as problem:
        raise UserError(f"tools run in a process of their own, which did not start: {problem}") from problem
    if outcome.status != "done":
        raise UserError(f"tool {tool.name} cannot be loaded in a worker process: {outcome.reason}")


def isolated(
    reference: str, stateful: bool, arguments: dict[str, Any], state: Any, limits: Limits
) -> dict[str, Any]:
    name = reference.rpartition(":")[2]
    try:
        # A worker that takes another's place imports the tool before the clock runs.
        loaded = worker().call(load, reference, stateful, seconds=START_SECONDS)
        if loaded.status != "done":
            return {"fault": f"it cannot be loaded in a worker process: {loaded.reason}"}
        outcome = worker().call(
            run,
            reference,
            stateful,
            arguments,
            state,
            limits.characters,
            limits.memory,
            seconds=limits.seconds,
        )
    except RuntimeError as problem:
        return {"fault": f"tools run in a process of their own, which did not start: {problem}"}
    match outcome.status:
        case "done":
            told: dict[str, Any] = outcome.value
            return told
        case "timed out":
            return {"error": f"{name} took longer than {limits.seconds:g} s"}
        case "died":
            return {"error": f"{name} ended its process (an exit, a crash or no memory)"}
    return {"error": f"{name} raised {outcome.reason}"}


def cut(text: str, most: int) -> str:
    """A text of ``most`` characters at most, without halves of surrogate pairs; of a longer one the middle is left
    out, and a note says how much."""
    if len(text) > most:
        kept = (most - 50) // 2
        text = f"{text[:kept]}\n[... {len(text) - 2 * kept} characters left out ...]\n{text[-kept:]}"
    return text.encode("utf-8", "backslashreplace").decode()


# --- what the worker does -------------------------------------------------------------------------------------------


def warm_up() -> None:
    """Say where this is. The module is imported by then, and pydantic with it."""
    global _inside
    _inside = True


@cache
def load(reference: str, stateful: bool) -> None:
    tool_at(reference, stateful)


@cache
def tool_at(reference: str, stateful: bool) -> Tool:
    return Tool.of(load_object(reference), stateful=stateful)


def run(
    reference: str, stateful: bool, arguments: dict[str, Any], state: Any, characters: int, memory: int
) -> Any:
    with limited(used() + memory):
        return invoked(tool_at(reference, stateful), arguments, state, characters)


def invoked(tool: Tool, arguments: dict[str, Any], state: Any, characters: int) -> dict[str, Any]:
    """``{"text", "state"}``, ``{"error"}`` of a call that failed, or ``{"fault"}`` of a tool that is none."""
    try:
        values = tool.validated(arguments)
        if tool.stateful:
            values["state"] = json.loads(json.dumps(state))
        given = tool.function(**values)
        if not tool.stateful:
            return {"text": cut(text_of(given), characters), "state": state}
        if not isinstance(given, tuple) or len(given) != 2:
            return {
                "fault": "it has a parameter 'state': let it return (answer, new state), or say "
                "Tool.of(function, stateful=False) where the policy gives it"
            }
        text, kept = cut(text_of(given[0]), characters), written(given[1])
        return {"fault": kept[1]} if kept[1] else {"text": text, "state": json.loads(kept[0])}
    except ToolError as error:
        return {"error": str(error)}
    except MemoryError:
        return {"error": ""}
    except SystemExit:
        return {"error": f"{tool.name} asked to exit"}
    except Exception as error:
        return {"error": f"{tool.name} raised {raised(error)}"}


def raised(error: Exception) -> str:
    try:
        said = " ".join(str(error).split())
    except Exception:
        said = ""
    return f"{type(error).__name__}: {shortened(said, SAID)}" if said else type(error).__name__


def text_of(value: Any) -> str:
    """What a tool gave as text: text as it is, bytes as UTF-8 (what is none of it as \\xff), all else as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).decode("utf-8", "backslashreplace")
    return to_json(value, fallback=str, bytes_mode="base64", inf_nan_mode="constants").decode()


def written(state: Any) -> tuple[str, str]:
    """(a state as JSON, what is wrong with it)."""
    try:
        text = json.dumps(state, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        return "", f"its new state is no JSON value: {shortened(str(error), SAID)}"
    if len(text) > MOST_STATE:
        return "", f"its new state has {len(text)} characters as JSON: at most {MOST_STATE} are kept"
    return text, ""
