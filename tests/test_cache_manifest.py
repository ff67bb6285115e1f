"""A teacher cache's manifest that a hand or a disk has altered: whatever is wrong with it is one line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import torch

from selfteach.errors import UserError
from selfteach.objective.listed import Listed
from selfteach.training.text.teachers.cache import CacheWriter, TeacherCache
from selfteach.training.text.teachers.manifest import Identity, Made, Manifest

MADE = Made("opsd", {"teacher": Identity("frozen", "m", "w", "t", "k")}, 8, 101, "float16", "float32", 6)
TEXT = {"selfteach", "method", "precision", "kind", "model", "weights", "template", "tokenizer"}
"""What may be any text for the reader: it is for people, or compared with what the run has."""
WRONG = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**40, 0.5, 1e300, "", "3", "float64", "../x",
    "shard-00000.safetensors\0",
    "shard-00001.safetensors", "x" * 5000, [], [[]], {}, {"": 1}, [None] * 3,
)  # fmt: skip
"""In the place of any value."""


def written(folder: Path) -> CacheWriter:
    """A cache that is begun: two shards of two rows, five positions."""
    writer = CacheWriter(folder, MADE, shard_bytes=1)
    writer.keep([])
    for row, positions in enumerate((3, 2)):
        listed = -torch.arange(1.0, 9).expand(positions, 8)
        unlisted = torch.full((positions,), -1.0)
        ids = torch.arange(8).expand(positions, 8)
        writer.add(row.to_bytes(16, "big"), Listed.of(listed, ids, unlisted, unlisted, 101))
    return writer


def whole(folder: Path) -> Path:
    written(folder).finish()
    return folder / "manifest.json"


def places(told: Any, *way: str | int) -> Iterator[tuple[str | int, ...]]:
    """Where values stand in nested tables and lists, these too."""
    inner = told.items() if isinstance(told, dict) else enumerate(told) if isinstance(told, list) else ()
    for key, part in inner:
        yield (*way, key)
        yield from places(part, *way, key)


def altered(told: Any, way: Sequence[str | int], act: Callable[[Any, str | int], object]) -> Any:
    made = deepcopy(told)
    act(reduce(lambda inner, key: inner[key], way[:-1], made), way[-1])
    return made


def is_right(told: Any, given: Any, way: Sequence[str | int], value: Any) -> bool:
    """Whether another value may stand there too: texts, another number of prompts, and fewer shards, whose rows a run
    would miss by itself."""
    if json.dumps(given) == json.dumps(told):
        return True
    if way == ("made", "stored"):
        return value is None or (type(value) is int and 0 < value <= 2**53)
    return (way[-1] in TEXT and isinstance(value, str)) or (way == ("shards",) and value == [])


def wrongs(told: Any) -> Iterator[tuple[str, bytes]]:
    """(what was done, a manifest that is wrong): each key left out, each value another, each table with a key more, and
    texts that are no such table."""

    def dumped(given: Any) -> bytes:
        return json.dumps(given).encode()

    for way in places(told):
        name, value_there = ".".join(map(str, way)), reduce(lambda inner, key: inner[key], way, told)
        if not isinstance(way[-1], int):
            yield f"{name} left out", dumped(altered(told, way, lambda inner, key: inner.pop(key)))
        for value in WRONG:
            given = altered(told, way, lambda inner, key, value=value: inner.__setitem__(key, value))  # type: ignore[misc]
            if not is_right(told, given, way, value):
                yield f"{name} = {value!r:.40}", dumped(given)
        if isinstance(value_there, dict):
            yield (
                f"{name} with more",
                dumped(altered(told, (*way, "more"), lambda inner, key: inner.__setitem__(key, 1))),
            )
    yield "more", dumped({**told, "more": 1})
    for found in (0, 1, 3, -1, 10**40, True, "2", None, 2.0):
        yield f"format {found}", dumped({**told, "format": found})
    yield from broken(json.dumps(told, indent=1))


def broken(text: str) -> Iterator[tuple[str, bytes]]:
    content = text.encode()
    for end in range(0, len(content), 23):
        yield f"cut at {end}", content[:end]
    for place in range(0, len(content), 29):
        yield f"a byte at {place}", content[:place] + b"\xff" + content[place + 1 :]
    for other in (
        b"[]", b"3", b"null", b'"text"', b"[" * 10**5, b'{"format": ' + b"9" * 5000 + b"}", b"\0" * 64,
        bytes(range(256)), text.replace(": 8", ": NaN").encode(), text.replace(": 8", ": 1e999").encode(),
        b"[" + content + b"]", text.encode("utf-16"),
    ):  # fmt: skip
        yield f"{other[:24]!r}", other


def refused(act: Callable[[], object]) -> str:
    """What is said; empty: nothing is refused."""
    try:
        act()
    except UserError as refusal:
        return str(refusal)
    return ""


def test_whatever_is_wrong_with_a_manifest_is_one_line_before_training(tmp_path: Path) -> None:
    manifest = whole(tmp_path / "cache")
    count = 0
    for how, content in wrongs(json.loads(manifest.read_text())):
        manifest.write_bytes(content)
        said = refused(lambda: TeacherCache(manifest.parent).stored)
        assert str(manifest.parent) in said, how
        assert len(said.splitlines()) == 1, how
        count += 1
    assert count > 700


def test_and_before_scoring_goes_on(tmp_path: Path) -> None:
    written(tmp_path / "cache").flush()
    manifest = tmp_path / "cache" / "manifest.json"
    told = json.loads(manifest.read_text())
    assert told["complete"] is False
    for how, content in wrongs(told):
        if how in ("rollouts = None", "shards = []"):
            continue  # a cache that has none yet
        manifest.write_bytes(content)
        said = refused(lambda: CacheWriter(manifest.parent, MADE).rollouts())
        assert str(manifest.parent) in said, how
        assert len(said.splitlines()) == 1, how


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = whole(tmp_path / "cache")
    manifest = Manifest.read(path.parent)
    (tmp_path / "copy").mkdir()
    manifest.write(tmp_path / "copy")
    assert Manifest.read(tmp_path / "copy") == manifest
    assert (tmp_path / "copy" / "manifest.json").read_bytes() == path.read_bytes()
    assert (manifest.made, [one.tokens for one in manifest.shards]) == (MADE, [3, 2])


def test_the_line_says_where_and_what(tmp_path: Path) -> None:
    path = whole(tmp_path / "cache")
    told = json.loads(path.read_text())
    for given, said in (
        ({**told, "complete": "yes"}, "complete: Input should be a valid boolean"),
        ({**told, "made": {**told["made"], "top_logprobs": 102}}, "made: 102 of 101 tokens cannot be listed"),
        (
            {**told, "made": {**told["made"], "top_logprobs": 4}},
            r"its ids are \[3, 7\] of U8, by the manifest",
        ),
        ({**told, "format": 1}, "has format 1, not 2"),
        ({**told, "shards": [told["shards"][1], *told["shards"][1:]]}, "twice"),
    ):
        path.write_text(json.dumps(given))
        with pytest.raises(UserError, match=said):
            TeacherCache(path.parent)
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match="no teacher cache"):
        TeacherCache(path.parent)
