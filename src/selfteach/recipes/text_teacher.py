"""A teacher of which only text is known: a model behind an OpenAI-compatible server (a black box)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from selfteach.checks import require
from selfteach.policy.chat_server import ChatServer
from selfteach.recipes.base import TEACHER
from selfteach.recipes.tools import Prompt, Tools
from selfteach.roles.view import Plain
from selfteach.settings import PositiveInt, settings
from selfteach.task.trajectory import Trajectory


@settings
class TextTeacher:
    """Where a teacher is that writes elsewhere, and what it may cost."""

    text_teacher_url: str | None = None
    """Base address of an OpenAI-compatible server at which the teacher answers, such as http://localhost:8000/v1 (none:
    it is a model here; the server's key: the variable OPENAI_API_KEY)."""
    text_teacher_budget: PositiveInt | None = None
    """Most tokens, read and written, that the server is asked for in the run; the run stops before it would be more
    (none: any number)."""

    def servers(self, teacher: str) -> Sequence[ChatServer]:
        """The server that has the model ``teacher``, if one is named. UserError for an address that is none."""
        require(
            self.text_teacher_url is not None or self.text_teacher_budget is None,
            "text_teacher_budget is of a server: name it with --text-teacher-url, or leave the budget out",
        )
        if self.text_teacher_url is None:
            return ()
        require(
            bool(teacher),
            f"--text-teacher-url {self.text_teacher_url}: say with --teacher what the server calls the model",
        )
        return (ChatServer(self.text_teacher_url, teacher, self.text_teacher_budget),)


def answered_by(
    server: ChatServer,
    tools: Tools,
    prompts: Sequence[Prompt],
    each: int,
    max_tokens: int,
    temperature: float,
) -> list[Trajectory]:
    """``each`` answers of the server to each prompt, as text that the student may imitate, in its own tokens; also the
    private field "teacher" of their examples. Prompts without an answer are missing, and so are answers that the length
    cut: imitated, they would teach to stop there."""
    asked = [one for one in prompts for _ in range(each)]
    told = tools.ask(asked, Plain(), server, max_tokens, temperature, whole=True)
    said = [
        replace(one, example=one.example.told(**{TEACHER: text}))
        for one, text in zip(asked, told, strict=True)
        if text and text.strip()
    ]
    return tools.quote(said, TEACHER) if said else []
