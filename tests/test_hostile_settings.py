"""Every knob of every recipe, bundle and command under hostile values: UserError in one line, or a valid object."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest
import tomli_w
import yaml

from hostile import VALUES, nested
from selfteach.api.configfile import read_settings
from selfteach.api.evaluating import EvalSettings
from selfteach.api.resolve import draft, with_values
from selfteach.cli import arena, compare, demo, fetch, main, report, study, train, watch
from selfteach.errors import UserError
from selfteach.probe import alignment, usefulness, viability
from selfteach.recipes import RECIPES, knobs
from selfteach.recipes.parts import PerRecord, ReferenceProbe, TrainedWeights
from selfteach.settings import LARGEST, SMALLEST, leaves
from selfteach.studies.comparing import Setup
from selfteach.task.arena import TABLE, World
from selfteach.task.options import TaskOptions
from selfteach.training.config import Bookkeeping, Evaluation, Loading, TrainConfig

COMMANDS = (arena, demo, fetch, report, study, watch)
KINDS: tuple[type, ...] = (
    *RECIPES.values(),
    *(Loading, Evaluation, Bookkeeping, TaskOptions, EvalSettings, Setup, TrainConfig),
    *(PerRecord, ReferenceProbe, TrainedWeights, compare.What, train.Where),
    *(one.Knobs for one in (alignment, usefulness, viability)),
    *(one.Arguments for one in COMMANDS),
)


def parts_of(kind: type) -> Iterator[type]:
    """A settings class and those that its fields hold by default."""
    yield kind
    for one in fields(kind):
        if is_dataclass(one.default):
            yield from parts_of(type(one.default))


EVERY = sorted(
    {part for kind in KINDS for part in parts_of(kind)}, key=lambda kind: f"{kind.__module__}.{kind.__name__}"
)


def made_or_refused(kind: type, values: dict[str, Any]) -> Any:
    """The object, or None where it is refused as a user should be told."""
    try:
        return kind(**values)
    except UserError as refusal:
        said = str(refusal)
        assert len(said.splitlines()) == 1, said
        assert len(said) <= 1000, said
        said.encode()
        return None


def fit(value: Any) -> bool:
    """Whether a number is one that float32 and int64 hold."""
    if isinstance(value, float):
        return math.isfinite(value) and (value == 0 or SMALLEST <= abs(value) <= LARGEST)
    return not isinstance(value, int) or abs(value) < 2**63


@pytest.mark.parametrize("kind", EVERY, ids=lambda kind: kind.__name__)
def test_a_field_takes_a_hostile_value_or_refuses_it_in_one_line(kind: type) -> None:
    needed = {"clip": 1.0, "noise": 1.0, "expected": 1.0} if kind is PerRecord else {}
    for one in fields(kind):
        for value in VALUES.values():
            made = made_or_refused(kind, {**needed, one.name: value})
            if made is not None:
                held = getattr(made, one.name)
                assert all(fit(leaf) for leaf in leaves(held)), (one.name, held)


@pytest.mark.parametrize(
    ("knob", "value"),
    [
        ("micro_batch", 10**19),
        ("micro_batch", 10**7),
        ("steps", 10**30),
        ("lr", 1e308),
        ("lr", "1e400"),
        ("lr", 1e-320),
        ("lr", -1),
        ("betas", (0.9, 1.0)),
        ("betas", (-0.1, 0.9)),
        ("betas", (0.9, math.nan)),
        ("eval_problems", 10**9),
        ("grade_seconds", 1e30),
        ("prompt_template", "{problem}\0"),
        ("prompt_template", "{problem}" * 200_000),
    ],
    ids=str,
)
def test_what_could_only_hang_or_overflow_is_refused_by_its_name(knob: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"^{knob}"):
        with_values(draft("opsd"), {knob: value})


def test_what_long_runs_need_is_allowed() -> None:
    config = with_values(
        draft("opsd"),
        {"steps": 10**9, "token_budget": 10**15, "prompts": 10**6, "lr": 1e-12, "max_tokens": 10**6},
    )
    assert config.bookkeeping.token_budget == 10**15


LAUGHS = "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in itertools.pairwise("abcdefghi")
).encode()
"""A small file whose aliases stand for 9⁹ values."""


def flat_names() -> list[str]:
    config = draft("opsd")
    bundles = (config.loading, config.task_options, config.evaluation, config.bookkeeping)
    return [*knobs(config.recipe), *(one.name for bundle in bundles for one in fields(bundle))]


def written(form: str, knob: str, value: Any) -> str:
    table = {"recipe": "opsd", knob: value}
    if form == "toml":
        return tomli_w.dumps(table)
    return json.dumps(table) if form == "json" else yaml.safe_dump(table)


@pytest.mark.parametrize("form", ["toml", "yaml", "json"])
def test_a_settings_file_gives_a_run_or_one_line(form: str, tmp_path: Path) -> None:
    file = tmp_path / f"mine.{form}"
    some = (
        "10**19",
        "10**5000",
        "-1",
        "nan",
        "inf",
        "1e308",
        "1e-320",
        "empty",
        "surrogate",
        "NUL",
        "True",
        "dict",
    )
    forms = ["toml", "yaml", "json"]
    pairs = [(knob, name) for knob in flat_names() for name in some]
    for knob, name in pairs[forms.index(form) :: 2 * len(forms)]:
        try:
            file.write_text(written(form, knob, VALUES[name]), encoding="utf-8", errors="surrogatepass")
        except (ValueError, TypeError, yaml.YAMLError):
            continue  # this form cannot even write it
        with contextlib.suppress(UserError):
            draft(None, table=read_settings(file))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.toml", b"a = " + b"[" * 1000 + b"]" * 1000),
        ("a.toml", b"a" + b".a" * 1000 + b" = 1"),
        ("a.toml", b"[a" + b".a" * 1000 + b"]\nb = 1"),
        ("a.toml", b"lr = 1e400"),
        ("a.toml", b"steps = " + b"9" * 5000),
        ("a.toml", b"recipe = \"opsd\"\nlr = \"\\uD800\""),
        ("a.toml", b"recipe = \"op\0sd\""),
        ("a.toml", "recipe = \"opsd\"".encode("utf-16")),
        ("a.json", b"[" * 1000 + b"]" * 1000),
        ("a.json", b'{"a":' * 200 + b"1" + b"}" * 200),
        ("a.json", b'{"recipe": "opsd", "steps": ' + b"9" * 5000 + b"}"),
        ("a.json", b'{"recipe": "opsd", "model": "\\ud800"}'),
        ("a.yaml", b"a: " + b"[" * 1000 + b"]" * 1000),
        ("a.yaml", b"a: &a [*a]"),
        ("a.yaml", b"a: !!python/object/apply:os.system ['true']"),
        ("a.yaml", b"\xff\xfe\x00"),
        ("a.yaml", b"a: &a [x,x,x,x,x,x,x,x,x]\n" + LAUGHS),
        ("a.json", b""),
        ("a.toml", b"recipe = {}"),
        ("a.toml", b"recipe = \"opsd\"\nrun = 5"),
        ("a.toml", b"about = {}\nrecipe = {}"),
        ("a.json", b'{"about": {}, "recipe": {"name": 5}}'),
        ("a.json", b'{"about": {"format": 5}, "recipe": {"name": ["opsd"], "preset": "v1"}, "run": {"given": 5}}'),
    ],
    ids=lambda part: repr(part[:30]),
)  # fmt: skip
def test_a_broken_settings_file_is_one_line(
    name: str, content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_bytes(content)
    assert main(["train", "--config", str(tmp_path / name), "--dry-run"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    assert len(said) < 1100


def test_a_settings_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    for name, text in (
        ("a.toml", 'recipe = "opsd"'),
        ("a.json", '{"recipe": "opsd"}'),
        ("a.yaml", "recipe: opsd"),
    ):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.encode())
        assert read_settings(tmp_path / name) == {"recipe": "opsd"}


@pytest.mark.parametrize(
    "words",
    [
        ["train", "opsd", "--micro-batch", str(10**19)],
        ["train", "opsd", "--steps", str(10**30)],
        ["train", "opsd", "--steps", "9" * 5000],
        ["train", "opsd", "--lr", "1e400"],
        ["train", "opsd", "--lr", "nan"],
        ["train", "opsd", "--lr", "inf"],
        ["train", "opsd", "--lr", "-1"],
        ["train", "opsd", "--lr", "1e308"],
        ["train", "opsd", "--betas", "0.9", "1.5"],
        ["train", "opsd", "--model", "x" * 100_000],
        ["train", "opsd", "--model", "a\0b"],
        ["train", "opsd", "--task", "x" * 100_000],
        ["train", "opsd", "--task", "x" * 100_000 + ".jsonl", "--model", "m"],
        ["train", "opsd", "--task", "a\0b.jsonl", "--model", "m"],
        ["train", "opsd", "--config", "x" * 100_000 + ".toml"],
        ["train", "opsd", "--config", "a\0b.toml"],
        ["train", "x" * 100_000],
        ["train", "opsd", "--chat-template", "x" * 100_000],
        ["train", "opsd", "--token-classes", "x" * 100_000],
        ["train", "opsd", "--reward", "x" * 100_000 + ".py:f"],
        ["train", "opsd", "--out", "x" * 100_000, "--resume"],
        ["train", "opsd", "--out", "x" * 100_000, "--steps", "1"],
        ["train", "opsd", "--seed", str(2**63)],
        ["eval", "--problems", str(10**19)],
        ["eval", "--top-p", "nan"],
        ["eval", "--grade-seconds", "1e300", "--task", "gym:chain_sum"],
        ["compare", "opsd", "--jobs", str(10**19)],
        ["compare", "opsd", "--tokens", "-5"],
        ["study", "opsd", "--seeds", str(10**19), "--dry-run"],
        ["probe", "alignment", "opsd", "--nodes", str(10**19)],
        ["probe", "branches", "opsd", "--min-prob", "nan"],
        ["report", "x" * 100_000],
        ["report", "a\0b"],
        ["watch", "x" * 100_000],
        ["watch", ".", "--port", str(10**19)],
        ["demo", "--steps", str(10**30)],
        ["arena", "measure", "x" * 100_000],
        ["recipes", "x" * 100_000],
        ["x" * 100_000],
    ],
    ids=lambda words: " ".join(words)[:40],
)  # fmt: skip
def test_the_command_line_says_one_line(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(words) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said[-3000:]
    assert len(said) < 1100, said[:3000]


def test_deep_values_do_not_reach_the_settings() -> None:
    with pytest.raises(UserError):
        Loading(model=nested(100_000))


def test_a_world_that_holds_out_too_few_says_how_many() -> None:
    class Few(World):
        def draw(self, rng: Random, *, held_out: bool) -> str:
            return rng.choice(["1+1", "1+2"])

    few = Few("few", TABLE.pose, TABLE.work, TABLE.final, TABLE.fault, {})
    assert len(few.held_out(2)) == 2
    with pytest.raises(UserError, match="holds out 2 problems, 3 were asked for"):
        few.held_out(3)


def test_a_refusal_of_the_machine_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(words: list[str]) -> int:
        raise PermissionError(13, "Permission denied", "/some/\x1bfile")

    monkeypatch.setattr("selfteach.cli.dispatch", refuse)
    assert main(["recipes"]) == 2
    assert (
        capsys.readouterr().err
        == "selfteach: /some/\\x1bfile: Permission denied: choose another file or folder\n"
    )


def test_a_message_is_one_line_for_a_terminal() -> None:
    assert str(UserError(" a\n  b\r\nc\t\x1b[31m\x00\ud800é ")) == "a b c\\t\\x1b[31m\\x00\\ud800é"
    long = str(UserError("x" * 10_000))
    assert "…" in long
    assert len(long) < 1001
