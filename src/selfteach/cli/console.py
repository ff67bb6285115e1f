"""How the command line reads its words and says what is wrong with them."""

from __future__ import annotations

import contextlib
import io
import itertools
import re
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TypeVar, get_args, get_type_hints

import tyro
from rich.console import Console
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from selfteach.errors import UserError
from selfteach.outside import read_json
from selfteach.recipes.knobs import RENAMED
from selfteach.roles.view import Messages
from selfteach.task.example import Message
from selfteach.training.spoken import is_mine_to_say
from selfteach.words import given_names, option

T = TypeVar("T")

LOG_WIDTH = 160
TURNS = 'give a JSON list of {"role": "user"|"assistant"|"system", "content": text}'

registry = ConstructorRegistry()


@registry.primitive_rule
def turns_from_a_file(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Messages] | None:
    """A knob that holds chat turns takes the name of a JSON file on the command line."""
    if info.type != Messages:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="FILE",
        instance_from_str=lambda words: read_turns(Path(words[0])),
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda turns: [f"{len(turns)} turns"],
    )


def read_turns(path: Path) -> Messages:
    """Chat turns from a JSON list of {"role": …, "content": …}."""
    try:
        turns = read_json(path, f"--prefix {path}", TURNS)
        return tuple(Message(role=str(turn["role"]), content=str(turn["content"])) for turn in turns)
    except (KeyError, TypeError) as error:
        raise UserError(f"--prefix {path}: {type(error).__name__} {error}; {TURNS}") from None


def parsed(
    kind: type[T], words: Sequence[str], *, program: str, default: T | None = None, description: str = ""
) -> T:
    """Turn words into a ``kind``; whatever is wrong becomes one line (UserError). ``--help`` prints and exits 0."""
    refuse_renamed(words)
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            made: T = tyro.cli(
                kind,
                args=spelled(words, choosing_none(kind)),
                prog=program,
                description=description,
                default=tyro.MISSING_NONPROP if default is None else default,
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.CascadeSubcommandArgs),
                registry=registry,
            )
            return made
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UserError(one_line(complaint.getvalue(), program)) from None


def refuse_renamed(words: Sequence[str]) -> None:
    """UserError for an option by the name that it has elsewhere, or had in an earlier version, with ours."""
    for name in sorted(given_names(words) & set(RENAMED)):
        raise UserError(f"{option(name)} is called {option(RENAMED[name])}")


def spelled(words: Sequence[str], literal: Collection[str] = ()) -> list[str]:
    """Python's own spelling of none, true and false, which tyro wants; after an option in ``literal`` none stays."""
    python = {"none": "None", "true": "True", "false": "False"}
    return [
        word if word == "none" and before in literal else python.get(word, word)
        for before, word in itertools.pairwise(["", *valued(words)])
    ]


BARE = {"--gradient-checkpointing": "full", "--offload-teachers": "cpu"}
"""Options that are flags elsewhere, and what they mean where no value is given."""


def valued(words: Sequence[str]) -> Iterator[str]:
    """The words, with the value of a bare option after it."""
    for word, after in itertools.pairwise([*words, "--"]):
        yield word
        value = BARE.get(word.replace("_", "-"))
        if value is not None and after.startswith("--"):
            yield value


def choosing_none(kind: type) -> set[str]:
    """The options (``--scale``) of a dataclass, nested ones included, among whose choices is the word "none"."""
    found: set[str] = set()
    for name, hint in get_type_hints(kind).items():
        if isinstance(hint, type) and is_dataclass(hint):
            found |= choosing_none(hint)
        elif "none" in (choice for part in (hint, *get_args(hint)) for choice in get_args(part)):
            found.add(option(name))
    return found


def one_line(panel: str, program: str) -> str:
    """tyro's complaint without its frame: the sentence and, for an unknown option, the nearest ones."""
    lines = [re.sub(r"^[│╭╰─\s]+|[│╮╯─\s]+$", "", line) for line in panel.splitlines()]
    title_free = [line for line in lines[1:] if line]
    text = " ".join(title_free)
    said = re.split(r" (?:Argument helptext|For full helptext|Perhaps you meant)", text)[0]
    near = (
        re.findall(r"--[\w-]+", text.split("Perhaps you meant", 1)[1].split("For full")[0])
        if "Perhaps" in text
        else []
    )
    hint = f"; did you mean {' or '.join(dict.fromkeys(near))}?" if near else ""
    return f"{said.rstrip('.')}{hint} ({program} --help lists every knob)"


class Output(Console):
    """Standard output; a reader that has gone (``| head``) is told to the caller instead of ending the process."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def output() -> Console:
    """Standard output as wide as the terminal is, or wide enough for a table where there is none."""
    return Output(width=None if sys.stdout.isatty() else LOG_WIDTH, highlight=False)


@contextlib.contextmanager
def writable(path: Path) -> Iterator[None]:
    """Within it a file that cannot be written is refused in one line."""
    try:
        yield
    except BrokenPipeError:  # whoever read has gone
        raise
    except OSError as problem:
        raise UserError(f"{path} cannot be written ({problem.strerror}): choose another place") from None


def refuse_unwritable(path: Path | None) -> None:
    """Refuse at once a file that could not be written at the end of a long command."""
    if path is None:
        return
    with writable(path):
        new = not path.exists()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("ab").close()
        if new:
            path.unlink()


def fail(message: str) -> int:
    """Print a user's mistake in one line, once where several processes met it, and return the exit code for it."""
    said = f"selfteach: {as_options(' '.join(message.split()))}"
    if is_mine_to_say(said):
        print(said, file=sys.stderr, flush=True)
    return 2


def as_options(message: str) -> str:
    """Knobs that a message names as Python does, in the command line's spelling: lora_rank → --lora-rank."""
    words = r"(?<![\w'\"/.:-])[a-z]+(?:_[a-z0-9]+)+(?![\w'\"/.:-])"
    known = known_options() if re.search(words, message) else set()
    return re.sub(words, lambda found: option(found[0]) if found[0] in known else found[0], message)


def known_options() -> set[str]:
    """Every knob of any recipe and of a run."""
    from selfteach.api.resolve import BUNDLES, NETWORK_BUNDLES
    from selfteach.recipes import METHODS, knobs

    every = {one.name for bundle in {**BUNDLES, **NETWORK_BUNDLES}.values() for one in fields(bundle)}
    return every.union(*(knobs(kind()) for kind in METHODS.values()))
