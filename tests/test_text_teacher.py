"""Methods that imitate a model behind a server: what they learn, what it may cost, and what they are not given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chat_server import completion, serving
from selfteach.cli import main
from selfteach.errors import UserError
from selfteach.recipes.r40_soda import SODA
from selfteach.recipes.sft import SFT
from selfteach.recipes.text_teacher import TextTeacher
from selfteach.training import checkpoint
from selfteach.training.jsonrows import read_rows

QUIET = [
    "--task",
    "table",
    "--max-tokens",
    "24",
    "--eval-problems",
    "0",
    "--samples-every",
    "0",
    "--device",
    "cpu",
]


def trained(recipe: str, out: Path, url: str, *more: str) -> int:
    words = ["train", recipe, *QUIET, "--teacher", "writer", "--text-teacher-url", url, "--out", str(out)]
    return main([*words, *more])


def test_a_servers_text_is_imitated(tmp_path: Path) -> None:
    """Always the same words: after a few steps they are likely. The server is asked what the student is asked."""
    with serving(lambda request: completion("12 7", 9)) as (url, requests):
        assert trained("sft", tmp_path / "run", url, "--steps", "6", "--prompts", "2", "--lr", "1e-2") == 0
    assert {one["model"] for one in requests} == {"writer"}
    assert all(one["max_tokens"] == 24 and one["messages"][-1]["role"] == "user" for one in requests)
    rows = [row for row in read_rows(tmp_path / "run" / "metrics.jsonl") if "terms/nll" in row]
    assert rows[-1]["terms/nll"] < 0.5 * rows[0]["terms/nll"]


def test_an_answer_that_the_length_cut_is_not_imitated(tmp_path: Path) -> None:
    """It would be learned as if it ended there."""
    counted = iter(range(1000))

    def answer(request: dict[str, Any]) -> tuple[int, bytes]:
        status, body = completion("12 7", 9)
        told = json.loads(body)
        told["choices"][0]["finish_reason"] = "length" if next(counted) % 2 else "stop"
        return status, json.dumps(told).encode()

    with serving(answer) as (url, _):
        assert trained("sft", tmp_path / "run", url, "--steps", "1", "--stored", "8", "--prompts", "2") == 0
    stored = (tmp_path / "run" / "stored").glob("train-*")
    rows = next(stored).read_text().splitlines()[1:]
    assert len(rows) == 4


def test_soda_pairs_only_what_the_server_answered(tmp_path: Path) -> None:
    counted = iter(range(1000))

    def answer(request: dict[str, Any]) -> tuple[int, bytes]:
        return completion("12 7" if next(counted) % 2 else "", 9)

    words = ("--stored", "8", "--prompts", "2", "--sft-steps", "1", "--steps", "1")
    with serving(answer) as (url, _):
        assert trained("soda", tmp_path / "run", url, *words) == 0
    (pairs,) = (tmp_path / "run" / "stored").glob("pairs-*")
    rows = [json.loads(line) for line in pairs.read_text().splitlines()[1:]]
    assert len(rows) == 8  # four prompts, with two answers each
    assert sum(row["text"] == "12 7" for row in rows) == 4
    assert {row["pair"] for row in rows if row["text"] == "12 7"} <= {1, 3, 5, 7, None}


def test_a_budget_ends_the_run_and_no_request_is_beyond_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(lambda request: completion("12 7", None)) as (url, requests):
        out = tmp_path / "run"
        words = (
            "--steps",
            "50",
            "--prompts",
            "2",
            "--checkpoint-every",
            "1",
            "--text-teacher-budget",
            "1500",
        )
        assert trained("sft", out, url, *words) == 2
        room = sum(sum(len(m["content"].encode()) + 16 for m in one["messages"]) + 24 for one in requests)
        assert room <= 1500
        more = ["train", "--resume", "--out", str(out), "--text-teacher-budget", "1000000"]
        assert checkpoint.latest(out) is not None
        first = capsys.readouterr().err
        assert main(more) == 0
    said = first
    assert "the budget of 1500 tokens has no room" in said
    assert "--resume" in said


def test_what_is_spent_behind_a_checkpoint_stays_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """However often the run goes on; also where the server has moved."""

    def answer(request: dict[str, Any]) -> tuple[int, bytes]:
        return completion("12 7", None)

    with serving(answer) as (url, requests), serving(answer) as (other, further):
        out = tmp_path / "run"
        words = (
            "--steps",
            "60",
            "--prompts",
            "2",
            "--checkpoint-every",
            "8",
            "--text-teacher-budget",
            "3200",
        )
        assert trained("sft", out, url, *words) == 2
        for moved in ((), ("--text-teacher-url", other)):
            assert main(["train", "--resume", "--out", str(out), *moved]) == 2
            assert "the budget of 3200 tokens has no room" in capsys.readouterr().err
        asked = [*requests, *further]
        room = sum(sum(len(m["content"].encode()) + 16 for m in one["messages"]) + 24 for one in asked)
    assert checkpoint.latest(out) is not None
    assert 2800 < room <= 3200


@pytest.mark.parametrize(
    ("knobs", "said"),
    [({"text_teacher_budget": 5}, "text_teacher_budget is of a server"),
     ({"text_teacher_url": "http://localhost:1/v1"}, "what the server calls the model"),
     ({"text_teacher_url": "localhost"}, "is no address")],
)  # fmt: skip
@pytest.mark.parametrize("kind", [SFT, SODA])
def test_a_server_is_named_whole(kind: type[SFT] | type[SODA], knobs: dict[str, Any], said: str) -> None:
    teacher = "" if "calls" in said else "writer"
    with pytest.raises(UserError, match=said):
        kind(teacher=teacher, black_box=TextTeacher(**knobs))


def test_a_teacher_on_a_server_is_no_model_here() -> None:
    recipe = SFT(teacher="writer", black_box=TextTeacher(text_teacher_url="http://localhost:1/v1"))
    assert not recipe.writers
    assert [one.model for one in recipe.servers] == ["writer"]
    assert SFT(teacher="arena:tutor-large").writers
