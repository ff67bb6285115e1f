"""``selfteach chat MODEL``: talk to a model; each line of standard input is said to it."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from selfteach.api.chatting import Chat, chat
from selfteach.cli.console import parsed
from selfteach.errors import UserError
from selfteach.report.text import visible

ABOUT = "Defaults are those of the run. /clear begins anew, /exit, Ctrl-C or Ctrl-D ends it."


@dataclass(frozen=True)
class Arguments:
    model: Annotated[str, tyro.conf.Positional]
    """A run, RUN/checkpoints/step-N, the folder of a model or an adapter, a hub id, or arena:NAME."""
    system: str | None = None
    """System message (none: the system prompt that the run was trained under)."""
    temperature: float | None = None
    """Sampling temperature (0: greedy; none: as the run was measured, else 1)."""
    top_p: float | None = None
    """Nucleus sampling mass (1: off)."""
    top_k: int | None = None
    """Sample from the k likeliest tokens only (0: off)."""
    max_tokens: int | None = None
    """Longest answer, in tokens (none: as the run was measured, else 1024)."""
    thinking: bool | None = None
    """Thinking flag of the chat template (none: as the run was measured, else its own default)."""
    chat_template: str | None = None
    """A Jinja file used instead of the tokenizer's chat template, or "plain"."""
    base: Path | None = None
    """Where the model is that an adapter or a checkpoint builds on, if no longer where it says."""
    seed: int | None = None
    """Seed of what is drawn (none: another conversation every time)."""
    device: Literal["auto", "cpu"] = "auto"
    """Where to compute: the accelerator if there is one, or the CPU."""


def command(words: Sequence[str]) -> int:
    given = parsed(Arguments, words, program="selfteach chat", description=ABOUT)
    require_input()  # before a model is loaded
    with contextlib.suppress(KeyboardInterrupt):
        talk(chat(given.model, **{name: value for name, value in asdict(given).items() if name != "model"}))
    return 0


def talk(conversation: Chat) -> None:
    """One answer a line, until there are no more lines."""
    for text in lines():
        match text.strip():
            case "":
                continue
            case "/exit" | "/quit":
                return
            case "/clear":
                conversation.clear()
                continue
        try:
            for piece in conversation.stream(text):
                print(visible(piece), end="", flush=True)
            print(flush=True)
        except KeyboardInterrupt:
            print()
            raise
        except UserError as problem:
            if not sys.stdin.isatty():
                raise
            print(f"selfteach: {problem}", file=sys.stderr)


def require_input() -> None:
    """UserError where standard input is closed."""
    if sys.stdin is None or sys.stdin.closed:
        raise UserError("standard input is closed: give chat a terminal, a file or a pipe to read from")


def lines() -> Iterator[str]:
    """What is typed, with a prompt and the line editor of the terminal; else the lines of standard input. Bytes that
    are no text become U+FFFD."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    if not sys.stdin.isatty():
        yield from (line.rstrip("\r\n") for line in sys.stdin)
        return
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  arrow keys and earlier lines
    while True:
        try:
            yield input("> ")
        except EOFError:
            print()
            return
