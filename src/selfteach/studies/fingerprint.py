"""What a run of a study depends on, as a few digits: a row stays valid as long as they do.

They are made of the resolved settings that are not the defaults, of the files that the settings name, of the code of
the method, of what it uses and of the arena's world (``code.code_files``), and of ``EPOCH``. So another method, a new
knob of what all share, or a comment invalidates nothing.
"""

from __future__ import annotations

import ast
import io
import json
import tokenize
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from selfteach.studies.code import code_files, network_code_files, source_of
from selfteach.task.arena import WORLDS, model_folder
from selfteach.training import inputs
from selfteach.training.config import Bookkeeping, Evaluation, Loading, TrainConfig, Vllm
from selfteach.training.jsonrows import jsonable
from selfteach.training.launch import Config
from selfteach.training.learners import learner_kind
from selfteach.training.network_config import NetworkConfig
from selfteach.training.runconfig import dotted
from selfteach.training.running import FREE
from selfteach.training.trainer import Settings

EPOCH, NETWORK_EPOCH = 2, 1
"""Of what all methods share: ``code.SHARED``, sampling, training, the defaults of common settings. To be raised by
hand with a change that makes runs learn otherwise than before: then all rows are made anew."""

Span = tuple[tuple[int, int], tuple[int, int]]
"""Where in a text something begins and ends: line from 1, byte in it from 0."""

Resolve = Callable[[Sequence[str]], Config]
"""The words after ``selfteach train`` → the run they ask for. The command line's: whoever needs it is handed it,
because it stands on a lower floor."""


def fingerprint(config: Config) -> str:
    """16 hex digits of what the run depends on, but for its seed and folder."""
    depends = network_depends(config) if isinstance(config, NetworkConfig) else text_depends(config)
    return sha256(json.dumps(jsonable(depends), sort_keys=True, default=str).encode()).hexdigest()[:16]


def network_depends(config: NetworkConfig) -> dict[str, Any]:
    """What a run without tokens depends on."""
    files = network_code_files(config.recipe, learner_kind(config.recipe))
    return {
        "epoch": NETWORK_EPOCH,
        "code": [code_of(file) for file in files],
        "recipe": unlike(asdict(config.recipe), asdict(type(config.recipe)())),
        "name": config.recipe_name,
        "settings": unlike({**asdict(config.settings), "seed": 0}, asdict(Settings()), "settings."),
        "inputs": inputs.network_inputs(config),
    }


def text_depends(config: TrainConfig) -> dict[str, Any]:
    """What a run of text depends on."""
    kind = type(config.recipe)
    worlds = [name for name in (config.task_name, *config.evaluation.eval_also) if name in WORLDS]
    return {
        "epoch": EPOCH,
        "code": [code_of(file) for file in code_files(config.recipe, worlds)],
        "wording": [dict(WORLDS[name].wording) for name in worlds],
        "recipe": unlike(asdict(config.recipe), asdict(kind())),
        "task": config.task_name,
        "reward": config.reward if config.reward is None else str(config.reward),
        "loading": unlike(asdict(config.loading), asdict(Loading()), "loading."),
        "task_options": unlike(asdict(config.task_options), asdict(type(config.task_options)())),
        "evaluation": unlike(asdict(config.evaluation), asdict(Evaluation())),
        "bookkeeping": unlike(asdict(config.bookkeeping), asdict(Bookkeeping()), "bookkeeping."),
        "inputs": inputs.inputs_of(config),
        "model": world_model(config),
        # As rows that were made before there was vLLM:
        **({"vllm": unlike(asdict(config.vllm), asdict(Vllm()), "vllm.")} if config.vllm != Vllm() else {}),
    }


def world_model(config: TrainConfig) -> str:
    """The digest of the arena's own model, where the settings name no other."""
    own = not config.loading.model and config.network is None and config.task_name in WORLDS
    return inputs.fingerprint(model_folder(config.task_name)) if own else ""


def unlike(table: Mapping[str, Any], default: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The settings that differ from their defaults, by dotted name, without those that change no result."""
    usual = dict(dotted(default))
    found = {name: value for name, value in dotted(table) if value != usual.get(name)}
    return {name: value for name, value in found.items() if prefix + name not in FREE}


@cache
def code_of(file: Path) -> str:
    """A file's code without comments, docstrings and empty lines: the same text under every version of Python."""
    text = source_of(file)
    lines: list[bytes | None] = [line.encode() for line in text.split("\n")]
    said = set(ending_in_strings(text))
    for (first, start), (last, end) in sorted([*docstrings(text), *comments(text)], reverse=True):
        before, after = lines[first - 1] or b"", lines[last - 1] or b""
        lines[first - 1 : last] = [before[:start] + after[end:], *[None] * (last - first)]
        said |= {first} if last in said else set()
    kept = [
        line if row in said else line.rstrip()
        for row, line in enumerate(lines, start=1)
        if line is not None and (row in said or line.strip())
    ]
    return b"\n".join(kept).decode()


def ending_in_strings(text: str) -> Iterator[int]:
    """The lines that end within a string: all that stands there is part of the code, blanks too."""
    begun = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        kind = tokenize.tok_name[token.type]
        if kind == "STRING":
            yield from range(token.start[0], token.end[0])
        elif kind == "FSTRING_START":  # from Python 3.12 on
            begun.append(token.start[0])
        elif kind == "FSTRING_END":
            yield from range(begun.pop(), token.end[0])


def docstrings(text: str) -> Iterator[Span]:
    for node in ast.walk(ast.parse(text)):
        if is_text(node):
            assert isinstance(node, ast.Expr)
            yield (node.lineno, node.col_offset), (node.end_lineno or 0, node.end_col_offset or 0)


def comments(text: str) -> Iterator[Span]:
    lines = text.split("\n")
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            start = len(lines[row - 1][:column].encode())
            yield (row, start), (row, start + len(token.string.encode()))


def is_text(node: ast.AST) -> bool:
    """Whether a statement is a lone text: a docstring."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
