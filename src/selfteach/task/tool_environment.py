"""An environment in which the policy calls tools until it answers: a turn without a call is the final answer."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Sequence
from typing import Any

from selfteach.errors import UserError
from selfteach.task.environment import Reply
from selfteach.task.example import Example, Message
from selfteach.task.judged import WANTED, judged
from selfteach.task.tool import STATE, Tool, ToolError, tools_of
from selfteach.task.tool_calls import FORMS, Form, MalformedCall, ToolCall, calls_in
from selfteach.task.tool_process import Answer, Limits, answer_of, cut, require_loadable, written
from selfteach.wording import shortened


class ToolEnvironment:
    """Episodes with ``tools``, whose final answer ``check`` grades.

    ``tools``: typed functions (``Tool.of``). ``check(example, answer)``: what a reward function may give (a number, a
    Grade, a dict with "score"); with a parameter ``state`` it is given the episode's last state too.
    ``state(example)``: the state (a JSON value) that an episode begins with, None without. ``form``: how calls are
    written (``tool_calls.FORMS``); ``auto`` reads any. ``most_calls``: calls of one turn that are made.

    Each call of a turn is answered by a message of the role ``tool``, in their order; a call that cannot be read by a
    message of the user, and none of that turn's calls is made. A call to no known tool, wrong arguments, and a tool
    that fails in any way are answered by an error's text: the turn counts as illegal (``Reply.failed``) and the episode
    goes on. The numbers ``calls`` and ``tool_errors`` count both. An episode follows from its example and its turns
    alone as far as the tools do: let what they remember be the state, and what they draw follow from it. UserError for
    tools that are none, and for a form of another name.
    """

    def __init__(
        self,
        tools: Sequence[Tool | Callable[..., Any]],
        check: Callable[..., Any],
        *,
        state: Callable[[Example], Any] | None = None,
        form: Form = "auto",
        limits: Limits | None = None,
        most_calls: int = 8,
    ) -> None:
        if form not in FORMS:
            raise UserError(f"a form of tool calls {form!r} is not known; there are {', '.join(FORMS)}")
        self.tools = tools_of(tools)
        for one in self.tools.values():
            require_loadable(one)
        self.check, self.form, self.most_calls = check, form, most_calls
        self.limits = limits or Limits()
        self.begin = state
        self.example: Example | None = None
        self.state: Any = None

    def reset(self, example: Example) -> Sequence[Message]:
        """The example's prompt; announce the tools there (``with_tools``)."""
        self.example, self.state = example, None
        if self.begin is not None:
            text, wrong = written(self.begin(example))
            if wrong:
                raise UserError(f"state of example {example.key}: {wrong}")
            self.state = json.loads(text)
        return example.prompt

    def step(self, message: Message) -> Reply:
        try:
            calls = calls_in(message["content"], self.form, self.tools)
        except MalformedCall as problem:
            said = Message(role="user", content=cut(f"error: {problem}", self.limits.characters))
            return Reply((said,), failed=True, numbers={"calls": 0.0, "tool_errors": 1.0})
        if not calls:
            return self.graded(message["content"])
        answers = [self.answered(one) for one in calls[: self.most_calls]]
        if len(calls) > self.most_calls:
            left = f"error: {len(calls)} calls in a turn; only the first {self.most_calls} were made"
            answers.append(Answer(left, self.state, failed=True))
        errors = sum(one.failed for one in answers)
        return Reply(
            tuple(Message(role="tool", content=one.text) for one in answers),
            failed=errors > 0,
            numbers={"calls": float(len(calls)), "tool_errors": float(errors)},
        )

    def answered(self, call: ToolCall) -> Answer:
        """A call's answer; the state is the episode's from here on."""
        tool = self.tools.get(call.name)
        try:
            if tool is None:
                there = ", ".join(self.tools)
                raise ToolError(f"there is no tool {shortened(call.name, 40)}; there are: {there}")
            answer = answer_of(tool, tool.arguments(call), self.state, self.limits)
        except ToolError as problem:
            return Answer(cut(f"error: {problem}", self.limits.characters), self.state, failed=True)
        self.state = answer.state
        return answer

    def graded(self, answer: str) -> Reply:
        """The end of an episode: what the check says of the answer."""
        assert self.example is not None
        more = {STATE: self.state} if STATE in inspect.signature(self.check).parameters else {}
        given = self.check(self.example, answer, **more)
        try:
            _, grade = judged(given)
        except ValueError as problem:
            raise UserError(f"check gave {problem} for example {self.example.key}; {WANTED}") from None
        told = (Message(role="user", content=grade.feedback),) if grade.feedback else ()
        counted = {"calls": 0.0, "tool_errors": 0.0}
        return Reply(told, reward=grade.reward, done=True, numbers={**grade.numbers, **counted})
