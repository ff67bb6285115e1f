"""Who puts into words what a finished rollout teaches, as settings that methods with an experience bank share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from selfteach.checks import require
from selfteach.objective.batch import STUDENT
from selfteach.policy.chat_server import ChatServer
from selfteach.recipes.critic import asked_of
from selfteach.recipes.tools import Tools
from selfteach.roles.role import Role
from selfteach.roles.told import Told
from selfteach.roles.view import Plain
from selfteach.roles.weights import External
from selfteach.settings import PositiveInt, settings
from selfteach.task.trajectory import Trajectory

SUMMARIZER = "summarizer"
STORE, PATIENCE = "summarizer", 32


@settings
class Summarizer:
    """Who writes down what is to be remembered of a rollout."""

    summarizer: Literal["self", "model", "server", "rule"] = "self"
    """Who writes: the policy itself, another local model, a model behind an OpenAI-compatible server, or nobody: the
    rollout's own text is kept, cut."""
    summarizer_model: str | None = None
    """The model of summarizer "model", of the same tokenizer: a folder, a hub id or arena:NAME; or what a server calls
    it."""
    summarizer_url: str | None = None
    """Base address of summarizer "server", such as http://localhost:8000/v1 (its key: the variable OPENAI_API_KEY)."""
    summarizer_budget: PositiveInt | None = None
    """Most tokens, read and written, that the server is asked for in the run; the run stops before it would be more
    (none: any number)."""
    summary_tokens: PositiveInt = 512
    """Longest text of a model, in tokens."""
    summary_characters: PositiveInt = 2000
    """Longest text that is kept, in characters; what is longer loses its end."""

    def __post_init__(self) -> None:
        served = self.summarizer == "server"
        require(
            not served or None not in (self.summarizer_url, self.summarizer_model),
            "summarizer server needs --summarizer-url, such as http://localhost:8000/v1, and --summarizer-model",
        )
        require(
            (served or self.summarizer == "model") == (self.summarizer_model is not None),
            "summarizer model or server and --summarizer-model go together",
        )
        require(
            served == (self.summarizer_url is not None), "summarizer server and --summarizer-url go together"
        )
        require(
            served or self.summarizer_budget is None,
            "summarizer_budget is of summarizer server: leave it out",
        )
        if served:
            assert self.server is not None

    @property
    def server(self) -> ChatServer | None:
        """The server that writes, if one does. UserError for an address that is none."""
        if self.summarizer_url is None or self.summarizer_model is None:
            return None
        return ChatServer(self.summarizer_url, self.summarizer_model, self.summarizer_budget)

    def writers(self, thinking: bool | None = None) -> Mapping[str, Role]:
        """The other model as a role that only writes, if there is one."""
        if self.summarizer != "model" or self.summarizer_model is None:
            return {}
        return {SUMMARIZER: Role(External(self.summarizer_model), Plain(), thinking)}

    def written(
        self,
        tools: Tools,
        rollouts: Mapping[int, Trajectory],
        ask: Told,
        plain: Callable[[Trajectory], str],
    ) -> dict[int, str]:
        """What is said of each rollout, by its number: an answer to ``ask`` behind it, without thoughts, or by rule
        what ``plain`` makes of it. Those of which nothing is said, or whose request leaves no room, are missing.

        UserError once ``PATIENCE`` requests of the run were met with nothing but silence.
        """
        if self.summarizer == "rule":
            texts = {i: plain(one) for i, one in rollouts.items()}
        elif self.server is not None:
            told = tools.ask(list(rollouts.values()), ask, self.server, self.summary_tokens)
            texts = {i: text for i, text in zip(rollouts, told, strict=True) if text}
        else:
            asked = asked_of(tools, rollouts, ask, self.summary_tokens)
            role = STUDENT if self.summarizer_model is None else SUMMARIZER
            said = tools.sample(list(asked.values()), role=role, max_tokens=self.summary_tokens)
            texts = {i: one.text for i, one in zip(asked, said, strict=True)}
        kept = {i: spoken(text)[: self.summary_characters] for i, text in texts.items()}
        found = {i: text for i, text in kept.items() if text}
        refuse_silent(tools, len(rollouts), len(found))
        return found


def spoken(text: str) -> str:
    """What stands behind a thought; nothing of one that was cut off."""
    rest = text.rpartition("</think>")[2]
    return "" if "<think>" in rest else rest.strip()


def refuse_silent(tools: Tools, asked: int, said: int) -> None:
    """A bank that stays empty would quietly make another method of it."""
    notes = tools.store(STORE).notes
    for name, count in (("asked", asked), ("said", said)):
        notes[name] = notes.get(name, 0) + count
    require(
        notes["said"] > 0 or notes["asked"] < PATIENCE,
        f"nothing was written of any of the first {notes['asked']} rollouts: their requests leave no room in the "
        "model's window, or are answered with nothing: lower --summary-tokens, or take --summarizer rule",
    )
